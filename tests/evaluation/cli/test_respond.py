"""The command `evaluation respond` with a fake model."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.splits import split_examples
from evaluation.cli import app as cli
from tests.support.evaluation_command import evaluation
from tests.support.uppercase_session import UppercaseSession, trained_on

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")


@pytest.fixture
def data(tmp_path: Path, examples: list[Example]) -> Path:
    path = tmp_path / "data.json"
    path.write_text(dump_rows(examples), encoding="utf-8")
    return path


def use(session: UppercaseSession, monkeypatch: pytest.MonkeyPatch) -> UppercaseSession:
    monkeypatch.setattr(cli, "load_session", lambda _model, _precision: session)
    return session


def test_respond_then_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(UppercaseSession(), monkeypatch)
    result = evaluation("respond", "some-model", "--data", data, "--run", "mine", "--json")
    assert result.code == 0
    assert result.json == {"run": "mine", "rows": 40, "new": 40, "without_response": 0}
    assert "all rows: the model was not trained on a split of these files" in result.err
    report = evaluation("score", "mine", "--json").json
    assert (report["n"], report["name"], report["template"], report["stop_reasons"]) == (
        40,
        "fake",
        "alpaca",
        {"eos": 40},
    )


def test_respond_answers_the_test_part_of_the_training_data(
    data: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = use(UppercaseSession(info=trained_on(examples)), monkeypatch)
    result = evaluation("respond", "some-model", "--data", data, "--run", "mine")
    test = split_examples(examples).test
    assert sorted(session.instructions) == sorted(example.instruction for example in test)
    assert f"the test part ({len(test)} of 40 rows; grouped, seed 123)" in result.err
    assert "Next: evaluation score mine" in result.out
    assert "test part of" in evaluation("score", "mine").out


def test_respond_passes_its_options_to_the_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = use(UppercaseSession(), monkeypatch)
    evaluation(
        *("respond", "m", "--data", data, "--run", "mine", "--max-new-tokens", 9, "--temperature", 0.5),
        *("--top-k", 4, "--top-p", 0.9, "--min-p", 0.1, "--repetition-penalty", 1.2, "--seed", 7),
        *("--stop", "\n", "--stop", "END", "--batch-size", 3),
    )
    assert session.batch_sizes == [3]
    assert [settings.model_dump() for settings in session.settings] == [
        {
            **{"max_new_tokens": 9, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1},
            **{"repetition_penalty": 1.2, "seed": 7, "stop": ("\n", "END"), "logprobs": None},
        }
    ]


def test_ctrl_c_keeps_the_answers_and_the_same_command_continues(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(UppercaseSession(interrupt_after=11), monkeypatch)
    result = evaluation("respond", "m", "--data", data, "--run", "mine")
    assert result.code == 130
    assert "mine keeps 11 answers. Give the same command again to continue." in result.err
    session = use(UppercaseSession(), monkeypatch)
    result = evaluation("respond", "m", "--data", data, "--run", "mine", "--json")
    assert len(session.instructions) == 29
    assert (result.json["rows"], result.json["new"]) == (40, 29)


def test_unfinished_answers_are_scored_and_counted_as_unanswered(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(UppercaseSession(interrupt_after=10, too_long=("Say teal once.",)), monkeypatch)
    evaluation("respond", "m", "--data", data, "--run", "mine")
    report = evaluation("score", "mine", "--json").json
    assert (report["n"], report["scored"], report["unanswered"]) == (40, 9, 30)
    assert report["unscored"] == {"no_response": 31}


def test_other_settings_in_the_same_folder_are_a_usage_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(UppercaseSession(), monkeypatch)
    evaluation("respond", "m", "--data", data, "--run", "mine")
    result = evaluation("respond", "m", "--data", data, "--run", "mine", "--max-new-tokens", 5)
    assert result.code == 2
    assert result.error.endswith("got --max-new-tokens 5 (it has 256). Choose another --run.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-p", "0"], "--top-p: expected greater than 0, got 0.0"),
        (["--temperature", "inf"], "--temperature: expected a finite number, got inf"),
        (["--part", "test"], "--part: expected rows in 'test', got none of 3"),
    ],
)
def test_invalid_settings_are_a_usage_error(
    tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    use(UppercaseSession(), monkeypatch)
    path = tmp_path / "three.json"
    path.write_text(dump_rows(examples[:3]))
    result = evaluation("respond", "m", "--data", path, "--run", "mine", *options)
    assert result.code == 2
    assert words in result.error
    assert not Path("mine").exists()


def test_missing_model_is_one_error(data: Path) -> None:
    result = evaluation("respond", "no-such-model", "--data", data, "--run", "mine")
    assert result.code == 1
    assert "no-such-model" in result.error
    assert not Path("mine").exists()
