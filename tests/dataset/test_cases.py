"""Files that people really have: each is read, or refused with a sentence that names the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.instructions import Dataset, read_dataset
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError
from tests.conftest import SHARED, shared_file

CASES = SHARED / "cases"
SIXTY = (
    "d01_rows.json.gz", "d01_rows.jsonl.gz", "d02_excel.csv", "d02_rows.csv", "d04_array.jsonl", "d05_nan_input.json",
    "d19_pretty_objects.json", "ok60.json",
)  # fmt: skip
"""The same sixty rows."""
READ = {
    "answers.json": [("Name a colour.", "", "Red.")],
    "d06_llamafactory_history.json": [
        ("You are a translator. Always answer in capital letters.\n\nSay hello in German.", "", "Guten Tag."),
        ("And in Spanish?", "", "Buenos dias."),
        ("And in French?", "", "Bonjour."),
    ],
    "d07_sharegpt_system.json": [("Talk like a pirate.\n\nSay hello.", "", "Ahoy!")],
    "d08_developer.json": [("Be short.\n\nHi", "", "Hello.")],
    "d09_parts.json": [("Say hello.", "", "Hello.")],
    "d10_trl_conversational.json": [("What is 2+2?", "", "4")],
    "d10_trl_implicit.json": [("What is 2+2?", "", "4")],
    "d12_prompt_completion.jsonl": [("Say hello.", "", "Hello.")],
    "d13_context.json": [("Summarise the text.", "The cat sat on the mat for nine hours.", "A cat sat long.")],
    "d13_dolly.jsonl": [("Summarise.", "The cat sat.", "Cat sat.")],
    "d14_numeric.json": [("What is 6 times 7?", "", "42"), ("Is it true?", "", "true")],
    "d22_1rows.json": [("Name the thing number 0 on the red list.", "", "It is red.")],
    "d33_alpaca_eval.json": [("Say A.", "", "A")],
}
"""Their first rows."""
REFUSED = {
    "d08_sharegpt_tools.json": "left out 1 row with tool calls",
    "d08_tools.json": "left out 1 row with tool calls",
    "d11_empty_outputs.json": "row 4: \"output\" must contain more than white space, got ''.",
    "d16_trailing_comma.json": "line 3, column 42: expected no comma after the last row, got one. Remove the comma.",
    "d20_gpt_first.json": "got assistant, user, assistant",
    "paste.txt": "expected JSON, JSONL, CSV, TSV or Parquet, got other text. Put each text into a row",
}


def read(name: str, *, skip_bad: bool = False) -> Dataset:
    return read_dataset(shared_file(f"cases/{name}"), skip_bad=skip_bad)


def test_sixty_rows_are_the_same_in_every_format() -> None:
    fingerprints = {data_fingerprint(read(name).examples) for name in SIXTY}
    assert len(fingerprints) == 1
    assert len(read(SIXTY[0]).examples) == 60


@pytest.mark.parametrize("name", READ)
def test_rows_have_the_meaning_that_their_authors_gave_them(name: str) -> None:
    examples = read(name).examples
    found = [(example.instruction, example.input, example.output) for example in examples]
    assert found[: len(READ[name])] == READ[name]


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(DataError) as caught:
        read(name)
    assert REFUSED[name] in str(caught.value)


def test_bad_rows_can_be_left_out() -> None:
    assert [len(read(name, skip_bad=True).examples) for name in ("d11_empty_outputs.json", "d20_gpt_first.json")] == [
        57, 2,
    ]  # fmt: skip


def test_nothing_of_a_row_is_left_out_unnamed() -> None:
    assert 'fields that are not used: "model_response" (3 rows)' in read("answers.json").notes[0]
    assert 'fields that are not used: "generator" (1 row)' in read("d33_alpaca_eval.json").notes[0]
    assert not any(read(name).notes for name in READ if name not in {"answers.json", "d33_alpaca_eval.json"})


@pytest.mark.parametrize("path", sorted(CASES.glob("*")) if CASES.is_dir() else [], ids=lambda path: path.name)
def test_every_case_is_read_or_refused_in_a_sentence(path: Path) -> None:
    sentence = ""
    try:
        assert read_dataset(path).examples
    except DataError as error:
        sentence = str(error)
    assert bool(sentence) is (path.name in REFUSED)
    assert not sentence or str(path) in sentence
