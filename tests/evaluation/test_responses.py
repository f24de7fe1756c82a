"""Run folders: what is asked, what is kept, what is refused. The model is a fake that follows Session's interface."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example, Exchange
from assistant.dataset.prompts import TEMPLATES, Template
from assistant.dataset.splits import data_fingerprint, split_examples
from assistant.decoding.reply import Reply
from assistant.errors import ContextError, DataError, PrerequisiteError, SettingsError
from assistant.jsonl import AppendOnly
from assistant.model.config import ModelInfo, TemplateRecord
from assistant.settings import DecodePrecision, FinetuneSettings, GenerationSettings
from evaluation.responses import (
    RESPONSES_FILE,
    ChosenPart,
    ResponseRecord,
    answer,
    begin_run,
    choose_part,
    describe_model_run,
    import_answers,
    read_run,
    row_ids,
)

SETTINGS = GenerationSettings(max_new_tokens=8)


@dataclass
class FakeSession:
    """Answers with the instruction in capitals, last row first; stops or refuses where it is told to."""

    name: str = "fake"
    precision: DecodePrecision = "auto"
    template: Template = TEMPLATES["alpaca"]
    info: ModelInfo | None = None
    too_long: tuple[str, ...] = ()
    interrupt_after: int | None = None
    asked: list[str] = field(default_factory=list)

    def replies(
        self, examples: Sequence[Example], settings: GenerationSettings, *, batch_size: int = 32
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        for number, (index, example) in enumerate(reversed(list(enumerate(examples)))):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            self.asked.append(example.instruction)
            if example.instruction in self.too_long:
                yield index, ContextError(f"{example.where}: prompt: expected fewer tokens.")
                continue
            yield (
                index,
                Reply(
                    prompt=example.instruction,
                    prompt_token_ids=(1,),
                    response=example.instruction.upper(),
                    token_ids=(2, 3)[: settings.max_new_tokens],
                    stop_reason="eos",
                    seconds=0.1 * batch_size,
                ),
            )


def trained_on(examples: Sequence[Example], **split: Any) -> ModelInfo:
    record = TemplateRecord(name="alpaca", fingerprint=TEMPLATES["alpaca"].fingerprint, texts={})
    known: dict[str, Any] = {
        "base_model": "pocket",
        "template": record,
        "finetune": FinetuneSettings(),
        "data_files": ("rows.json",),
        "data_fingerprint": data_fingerprint(examples),
        "split_method": "grouped",
        "split_seed": 123,
        "rows": {},
        "metrics": {},
        "versions": {},
    }
    return ModelInfo(**(known | split))


def answer_all(session: Any, examples: Sequence[Example], folder: Path, **settings: Any) -> list[ResponseRecord]:
    wanted = SETTINGS.model_copy(update=settings)
    begin_run(folder, describe_model_run(session, "no-folder", ["rows.json"], choose(examples), wanted))
    return list(answer(session, examples, folder, wanted, batch_size=4))


def choose(examples: Sequence[Example]) -> ChosenPart:
    return choose_part(examples, "all", None)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_a_row_keeps_its_id_and_equal_rows_have_different_ones(examples: list[Example]) -> None:
    ids = row_ids([*examples, examples[0], examples[0]])
    assert len(set(ids)) == len(ids)
    assert ids[: len(examples)] == row_ids(examples)
    assert all(len(row_id) == 16 and int(row_id, 16) >= 0 for row_id in ids)
    moved = [replace(example, source="other.json", row=example.row + 7) for example in examples]
    assert row_ids(moved) == row_ids(examples)


@pytest.mark.parametrize(
    "change",
    [{"instruction": "x"}, {"input": "x"}, {"output": "x"}, {"history": (Exchange("x", "y"),)}],
    ids=["instruction", "input", "output", "history"],
)
def test_any_change_of_contents_is_another_id(examples: list[Example], change: dict[str, Any]) -> None:
    assert row_ids([replace(examples[0], **change)]) != row_ids(examples[:1])


def test_auto_is_the_test_part_of_the_data_the_model_was_trained_on(examples: list[Example]) -> None:
    info = trained_on(examples, split_method="book", split_seed=9)
    chosen = choose_part(examples, "auto", info)
    assert chosen.part == "test"
    assert chosen.examples == split_examples(examples, method="book", seed=9).test
    assert "as it was split for training" in chosen.reason


def test_the_test_part_has_the_share_that_the_model_was_trained_with(examples: list[Example]) -> None:
    fractions = (0.5, 0.4, 0.1)
    chosen = choose_part(examples, "auto", trained_on(examples, split_fractions=fractions))
    assert chosen.examples == split_examples(examples, fractions=fractions).test
    assert len(chosen.examples) == 16


@pytest.mark.parametrize("info", [None, "other"])
def test_auto_is_all_rows_of_other_data(examples: list[Example], info: str | None) -> None:
    chosen = choose_part(examples, "auto", trained_on(examples[:20]) if info else None)
    assert (chosen.part, len(chosen.examples)) == ("all", len(examples))


def test_a_named_part_is_split_by_the_models_rule(examples: list[Example]) -> None:
    chosen = choose_part(examples, "validation", trained_on(examples, split_seed=5))
    assert chosen.examples == split_examples(examples, seed=5).validation
    base = choose_part(examples, "test", None)
    assert base.examples == split_examples(examples).test


def test_an_empty_part_is_refused(examples: list[Example]) -> None:
    with pytest.raises(SettingsError, match="--part: expected rows in 'test', got none of 3"):
        choose_part(examples[:3], "test", None)


# --- answering ----------------------------------------------------------------------------------------------------


def test_every_row_is_answered_and_kept_in_the_order_of_the_data(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    run = read_run(tmp_path)
    assert [record.row for record in run.responses] == [example.row for example in examples]
    first = run.responses[0]
    assert (first.instruction, first.reference, first.response) == ("Say red once.", "RED once", "SAY RED ONCE.")
    assert (first.stop_reason, first.num_tokens, first.seconds, first.error) == ("eos", 2, 0.4, None)
    assert [record.id for record in run.responses] == row_ids(examples)
    assert (run.info.name, run.info.rows, run.info.template) == ("fake", 40, "alpaca")
    assert run.unanswered == 0


def test_history_and_category_are_kept(tmp_path: Path) -> None:
    rows = [Example(instruction="And?", output="Yes.", history=(Exchange("Hi", "Hello"),), category="talk", row=3)]
    answer_all(FakeSession(), rows, tmp_path)
    (record,) = read_run(tmp_path).responses
    assert (record.history, record.category) == ((Exchange("Hi", "Hello"),), "talk")


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path, examples: list[Example]) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer_all(FakeSession(interrupt_after=15), examples, tmp_path)
    assert read_run(tmp_path).unanswered == 25
    session = FakeSession()
    assert len(answer_all(session, examples, tmp_path)) == 25
    assert len(session.asked) == 25
    run = read_run(tmp_path)
    assert (len(run.responses), run.unanswered) == (40, 0)
    session = FakeSession()
    assert answer_all(session, examples, tmp_path) == []
    assert session.asked == []


def test_a_torn_last_line_is_asked_again(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    whole = (tmp_path / RESPONSES_FILE).read_bytes()
    (tmp_path / RESPONSES_FILE).write_bytes(whole[:-20])
    session = FakeSession()
    answer_all(session, examples, tmp_path)
    assert session.asked == [examples[0].instruction]
    assert sorted((tmp_path / RESPONSES_FILE).read_bytes().split(b"\n")) == sorted(whole.split(b"\n"))


def test_a_row_that_does_not_fit_is_kept_with_its_error(tmp_path: Path, examples: list[Example]) -> None:
    session = FakeSession(too_long=("Say red once.",))
    answer_all(session, examples, tmp_path)
    first = read_run(tmp_path).responses[0]
    assert first.response is None
    assert "expected fewer tokens" in (first.error or "")
    assert answer_all(session, examples, tmp_path) == []


def test_equal_rows_are_both_answered(tmp_path: Path, examples: list[Example]) -> None:
    twice = [examples[0], examples[0], examples[1]]
    answer_all(FakeSession(), twice, tmp_path)
    assert len(read_run(tmp_path).responses) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 9}, "--max-new-tokens 9 (it has 8)"),
        ({"temperature": 0.5}, "--temperature 0.5 (it has 0.0)"),
        ({"seed": 4}, "--seed 4 (it has 0)"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, examples: list[Example], change: dict[str, Any], words: str
) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    before = (tmp_path / RESPONSES_FILE).read_bytes()
    with pytest.raises(SettingsError, match="Choose another --run") as caught:
        answer_all(FakeSession(), examples, tmp_path, **change)
    assert words in str(caught.value)
    assert (tmp_path / RESPONSES_FILE).read_bytes() == before


def test_weights_kept_otherwise_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    with pytest.raises(SettingsError, match=r"--precision int8 \(it has auto\)"):
        answer_all(FakeSession(precision="int8"), examples, tmp_path)


def test_other_rows_and_another_template_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    with pytest.raises(SettingsError, match=r"other rows \(all rows, 39, of rows\.json; it holds all rows, 40"):
        answer_all(FakeSession(), examples[1:], tmp_path)
    with pytest.raises(SettingsError, match=r"another prompt template \(phi3; it has alpaca\)"):
        answer_all(FakeSession(template=TEMPLATES["phi3"]), examples, tmp_path)


def test_other_weights_in_the_same_folder_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    session: Any = FakeSession()
    before = describe_model_run(session, str(model), ["rows.json"], choose(examples), SETTINGS)
    begin_run(run, before)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"one")
    begin_run(run, describe_model_run(session, str(tmp_path / "moved"), ["rows.json"], choose(examples), SETTINGS))
    (model / "model.safetensors").write_bytes(b"two")
    with pytest.raises(SettingsError, match="another model"):
        begin_run(run, describe_model_run(session, str(model), ["rows.json"], choose(examples), SETTINGS))


def test_a_second_process_is_refused(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path)
    with (
        AppendOnly[ResponseRecord](tmp_path / RESPONSES_FILE),
        pytest.raises(PrerequisiteError, match="another process"),
    ):
        answer_all(FakeSession(), examples, tmp_path)


# --- answers from elsewhere ---------------------------------------------------------------------------------------

ROWS = [
    {"instruction": "1 + 1?", "input": "", "output": "2", "model_response": "\n2"},
    {"instruction": "2 + 2?", "output": "4", "model_response": "", "category": "sums"},
]


def write_rows(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_a_file_of_answers_becomes_a_run(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", ROWS)
    import_answers(path, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert [(record.response, record.reference, record.category) for record in run.responses] == [
        ("\n2", "2", None),
        ("", "4", "sums"),
    ]
    assert (run.info.kind, run.info.name, run.info.rows) == ("file", "answers.json", 2)


def test_jsonl_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    import_answers(path, tmp_path / "run")
    assert len(read_run(tmp_path / "run").responses) == 2


def test_the_same_answers_are_taken_again_and_others_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "answers.json", ROWS)
    import_answers(path, tmp_path / "run")
    before = (tmp_path / "run" / RESPONSES_FILE).read_bytes()
    import_answers(path, tmp_path / "run")
    copy = write_rows(tmp_path / "copy.json", ROWS)
    import_answers(copy, tmp_path / "run")
    changed = write_rows(path, [ROWS[0], ROWS[1] | {"model_response": "5"}])
    with pytest.raises(SettingsError, match=r"got other answers .*Choose another --run"):
        import_answers(changed, tmp_path / "run")
    assert (tmp_path / "run" / RESPONSES_FILE).read_bytes() == before


def test_a_models_run_is_not_overwritten_by_a_file(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(FakeSession(), examples, tmp_path / "run")
    path = write_rows(tmp_path / "answers.json", ROWS)
    with pytest.raises(SettingsError, match=r"got a file \(answers\.json; it holds the model fake\)"):
        import_answers(path, tmp_path / "run")


def test_responses_without_their_run_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / RESPONSES_FILE).write_text("")
    with pytest.raises(SettingsError, match=r"expected run\.json beside responses\.jsonl"):
        import_answers(write_rows(tmp_path / "answers.json", ROWS), tmp_path)


def test_every_bad_row_is_named_by_file_row_and_field(tmp_path: Path) -> None:
    bad = [
        ROWS[0],
        {"instruction": "x", "output": "y"},
        {"instruction": "", "output": "y", "model_response": "z"},
        {"instruction": "x", "output": "y", "model_response": None},
        {"instruction": "x", "output": "y", "model_response": [4]},
        "text",
    ]
    path = write_rows(tmp_path / "answers.json", bad)
    with pytest.raises(DataError) as caught:
        import_answers(path, tmp_path / "run")
    problems = caught.value.problems
    assert len(problems) == 5
    assert problems[0].startswith(f'{path}, row 2: "model_response" is missing')
    assert [problem.split(": ")[1].split('"')[1] for problem in problems[1:]] == [
        "instruction",
        "model_response",
        "model_response",
        "row",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\x00"])
def test_a_file_that_holds_no_answers_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"answers\.json"):
        import_answers(path, tmp_path / "run")


def test_no_run_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a run folder, got none with run\.json\. Make one: evaluation"):
        read_run(tmp_path / "nowhere")


def test_a_damaged_run_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: expected a run of this program"):
        read_run(tmp_path)
