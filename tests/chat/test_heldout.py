"""Held-out rows: which rows they are, where they are looked for, and the order in which they are dealt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.chat import find_rows
from assistant.chat.find_rows import find_held_out
from assistant.chat.heldout import HeldOut, HeldOutRow, is_match, next_rows
from assistant.dataset.examples import Example, Exchange, row_ids
from assistant.dataset.instructions import dump_rows, read_examples
from assistant.dataset.splits import data_fingerprint, split_examples
from assistant.dataset.trained_prompts import PROMPTS_FILE, dump_hashes, prompt_hashes
from assistant.exact_match import is_exact
from assistant.model.config import ModelInfo
from assistant.shipped import shipped
from evaluation.answers.responses import choose_part, seen_in_training
from tests.support.chat_rows import info_of


def write_rows(path: Path, examples: list[Example]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_rows(examples))
    return path


@pytest.fixture
def model(tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder in the current one, with the hashes of its training prompts. `rows.json` is beside it."""
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.json"), examples)
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    (folder / PROMPTS_FILE).write_bytes(dump_hashes(prompt_hashes(split_examples(examples).train)))
    return folder


@pytest.fixture
def info(examples: list[Example]) -> ModelInfo:
    return info_of(data_fingerprint(examples))


def found(folder: Path, info: ModelInfo | None, *data: Path) -> HeldOut:
    result = find_held_out(folder, info, data)
    assert result.rows, result
    assert not result.problem
    return result


def reason(folder: Path, info: ModelInfo | None, *data: Path) -> str:
    result = find_held_out(folder, info, data)
    assert not result.rows
    assert result.problem.endswith((".", "FILE"))
    assert "\n" not in result.problem
    return result.problem


# --- the model's own test rows ------------------------------------------------------------------------------------


def test_the_model_s_own_test_rows_are_held_out(model: Path, info: ModelInfo, examples: list[Example]) -> None:
    split = split_examples(examples)
    result = found(model, info)
    assert [row.example.instruction for row in result.rows] == [row.instruction for row in split.test]
    assert [row.id for row in result.rows] == row_ids(split.test)
    assert len(result.train) == len(split.train)
    assert list(result.tests) == list(split.test)
    assert found(model, info, Path("rows.json")).rows == result.rows


def test_the_model_s_own_test_rows_are_known_also_where_other_rows_are_asked(
    model: Path, info: ModelInfo, examples: list[Example]
) -> None:
    write_rows(Path("other.json"), [Example(instruction="Another question?", output="yes")])
    result = found(model, info, Path("other.json"))
    assert [row.example.instruction for row in result.rows] == ["Another question?"]
    assert [row.instruction for row in result.tests] == [row.instruction for row in split_examples(examples).test]


def test_rows_are_those_that_evaluation_answers(model: Path, info: ModelInfo) -> None:
    examples = read_examples("rows.json")
    chosen = choose_part(examples, "auto", info)
    assert not any(seen_in_training(model, info, examples, chosen))
    ours = found(model, info).rows
    assert [(row.id, row.example) for row in ours] == list(zip(row_ids(chosen.examples), chosen.examples, strict=True))


@pytest.mark.parametrize("place", ["runs/mine/rows.json", "runs/rows.json", "sub/data/rows.json"])
def test_data_are_found_as_written_and_at_the_folder_or_above_it(
    model: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    Path("rows.json").unlink()
    write_rows(Path(place), examples)
    name = "data/rows.json" if "data" in place else "rows.json"
    if "sub" in place:
        monkeypatch.chdir("sub")
    assert len(found(tmp_path / model, info_of(data_fingerprint(examples), data_files=(name,))).rows) == 4


def test_a_file_of_the_same_name_with_other_rows_is_passed_over(
    model: Path, info: ModelInfo, examples: list[Example]
) -> None:
    write_rows(Path("runs/rows.json"), examples)
    write_rows(Path("rows.json"), examples[:20])
    assert [row.id for row in found(model, info).rows] == row_ids(split_examples(examples).test)


def test_the_shipped_rows_are_found_from_anywhere(
    model: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert shipped("instructions.json").is_file()
    rows = write_rows(tmp_path.parent / f"{tmp_path.name}-installed" / "instructions.json", examples)
    monkeypatch.setattr(find_rows, "shipped", rows.with_name)
    info = info_of(data_fingerprint(examples), data_files=("instructions.json",))
    assert len(found(model, info).rows) == 4


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("absent.json",), "absent.json: not found"),
        ((), "the data: not found"),
        (("-",), "-: not found"),
        (("../../../../../../../../../../dev/zero",), "not found"),
        (("a\0b", "x" * 5000), "not found"),
        (("changed.json",), "changed.json changed since the training"),
        (("broken.json",), "broken.json, line 1"),
        (("\x1b[31mred\n.json",), "␛[31mred"),
    ],
)
def test_data_that_are_not_found_are_a_reason(
    model: Path, info: ModelInfo, examples: list[Example], names: tuple[str, ...], words: str
) -> None:
    write_rows(Path("changed.json"), examples[1:])
    Path("broken.json").write_text("[{]")
    text = reason(model, info.model_copy(update={"data_files": names}))
    assert words in text
    assert text.endswith("--data FILE")


def test_a_base_model_has_test_rows_only_where_data_are_named(model: Path, examples: list[Example]) -> None:
    assert "base model" in reason(model, None)
    (model / PROMPTS_FILE).unlink()
    result = found(model, None, Path("rows.json"))
    assert [row.id for row in result.rows] == row_ids(examples)


def test_a_split_without_test_rows_is_a_reason_with_training_rows(model: Path, examples: list[Example]) -> None:
    info = info_of(data_fingerprint(examples), split_fractions=(0.9, 0.0, 0.1))
    result = find_held_out(model, info)
    assert "no test rows" in result.problem
    assert len(result.train) == 36


# --- rows that the person names -----------------------------------------------------------------------------------


def test_rows_that_the_model_was_trained_on_are_never_held_out(
    model: Path, info: ModelInfo, examples: list[Example]
) -> None:
    split = split_examples(examples)
    unknown = Example(instruction="Say hello.", output="Hello.")
    shouted = replace(split.train[0], instruction=split.train[0].instruction.upper(), output="Other answer.")
    mixed = write_rows(Path("mixed.json"), [*split.train[:3], shouted, *split.test[:2], split.validation[0], unknown])
    result = found(model, info, mixed)
    expected = [*split.test[:2], split.validation[0], unknown]
    assert [row.example.instruction for row in result.rows] == [row.instruction for row in expected]
    assert len(result.train) == len(split.train)
    train = write_rows(Path("train.json"), list(split.train))
    assert "trained on all of them" in reason(model, info, train)


def test_test_rows_that_an_earlier_training_saw_are_left_out(
    model: Path, info: ModelInfo, examples: list[Example]
) -> None:
    split = split_examples(examples)
    hashes = prompt_hashes([*split.train, split.test[0]])
    (model / PROMPTS_FILE).write_bytes(dump_hashes(hashes))
    result = found(model, info)
    assert [row.id for row in result.rows] == row_ids(split.test)[1:]


def test_an_old_folder_without_hashes_knows_its_own_data_only(
    model: Path, info: ModelInfo, examples: list[Example]
) -> None:
    (model / PROMPTS_FILE).unlink()
    assert len(found(model, info).rows) == 4
    other = write_rows(Path("other.json"), [*examples[:5]])
    result = found(model, info, other)
    assert len(result.rows) == 5


def test_rows_without_a_reference_and_plain_text_are_left_out_and_histories_are_kept(model: Path) -> None:
    rows = [
        {"instruction": "Write a poem.", "rubric": ["Does it rhyme?"]},
        {"text": "A text of more than the eight words that open it."},
        {"instruction": "And now?", "output": "Good.", "history": [["Hi", "Hello"]]},
        {"instruction": "bad"},
    ]
    Path("odd.json").write_text(json.dumps(rows))
    result = found(model, None, Path("odd.json"))
    assert [row.example.instruction for row in result.rows] == ["Hi", "And now?"]
    assert result.rows[1].example.history == (Exchange("Hi", "Hello"),)


def test_data_that_cannot_be_read_are_a_reason(model: Path, info: ModelInfo) -> None:
    assert "absent.json" in reason(model, info, Path("absent.json"))
    assert "standard input" in reason(model, info, Path("-"))


# --- matches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        ("\nParis. ", "Paris.", True),
        ("paris.", "Paris.", False),
        ("", "", False),
        (" \n", "", False),
        ("a\r", "a", True),
    ],
)
def test_a_match_is_an_exact_match_as_evaluation_counts_it(response: str, reference: str, expected: bool) -> None:
    from evaluation.answers.metrics import measure

    assert is_match(response, reference) is expected
    assert measure(response, reference).exact is expected
    if response.strip():
        assert is_exact(response, reference) is expected


# --- the order ----------------------------------------------------------------------------------------------------

ROWS = [HeldOutRow(id=str(n), example=Example(instruction="q", output="a")) for n in range(30)]


def ids_of(count: int, *, seed: int = 1, answered: str = "") -> list[str]:
    return [row.id for row in next_rows(ROWS, count, seed=seed, answered=answered.split())]


def test_a_seed_decides_the_order_in_which_every_row_comes_once() -> None:
    order = ids_of(30)
    assert order == ids_of(30) == ids_of(99)
    assert order != ids_of(30, seed=2)
    assert order != [row.id for row in ROWS]
    assert sorted(order, key=int) == [row.id for row in ROWS]
    assert ids_of(7) == order[:7]


def test_answered_rows_are_skipped_and_the_others_keep_their_order() -> None:
    order = ids_of(30)
    assert ids_of(5, answered=" ".join(order[:20])) == order[20:25]
    assert ids_of(5, answered=" ".join(order)) == []
    assert next_rows([], 1, seed=1) == ()
