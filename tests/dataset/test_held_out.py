"""Rows that are marked as test rows: every form can have the mark, training refuses it, everything else reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import evaluation.cli.app
from assistant.dataset.convert import RowForm, convert_rows, encode_rows
from assistant.dataset.encode import check_not_held_out
from assistant.dataset.instructions import Example, dump_rows, read_dataset, read_examples
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError
from tests.support.commands import invoke

ASK, SAY, NO = (
    {"role": role, "content": text} for role, text in (("user", "Hi?"), ("assistant", "Hi."), ("assistant", "No."))
)
FORMS: list[dict[str, Any]] = [
    {"instruction": "Hi?", "output": "Hi."},
    {"instruction": "Hi?", "rubric": ["Is it a greeting?"]},
    {"messages": [ASK, SAY, ASK, SAY]},
    {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]},
    {"instruction": "Hi?", "chosen": "Hi.", "rejected": "No."},
    {"prompt": [ASK], "chosen": [SAY], "rejected": [NO]},
    {"prompt": [ASK], "completion": [SAY]},
    {"text": "One day a cat sat on the mat and slept there all day."},
]


def read(folder: Path, *rows: dict[str, Any]) -> list[Example]:
    (folder / "rows.json").write_text(json.dumps(rows))
    return read_examples(folder / "rows.json")


@pytest.mark.parametrize("row", FORMS)
def test_every_form_can_have_the_mark_and_keeps_it(tmp_path: Path, row: dict[str, Any]) -> None:
    plain = read(tmp_path, row)
    marked = read(tmp_path, row | {"held_out": True})
    assert not any(example.held_out for example in plain)
    assert marked == [replace(example, held_out=True) for example in plain]
    (tmp_path / "again.json").write_text(dump_rows(marked))
    assert all(example.held_out for example in read_examples(tmp_path / "again.json"))
    assert '"held_out"' not in dump_rows(plain)


def test_the_mark_changes_no_fingerprint(tmp_path: Path) -> None:
    fingerprints = {
        data_fingerprint(read(tmp_path, FORMS[0] | mark)) for mark in ({}, {"held_out": True}, {"held_out": 2})
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("TRUE ", True), (1, True), (1.0, True), ("false", False), (0, False), ("", False)],
)
def test_tables_have_the_mark_as_text(tmp_path: Path, value: object, expected: bool) -> None:
    (example,) = read(tmp_path, FORMS[0] | {"held_out": value})
    assert example.held_out is expected
    (tmp_path / "rows.csv").write_text(f"instruction,output,held_out\nHi?,Hi.,{value}\n")
    dataset = read_dataset(tmp_path / "rows.csv")
    assert (dataset.examples[0].held_out, dataset.notes) == (expected, ())


def test_another_meaning_of_the_name_is_a_field_that_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([FORMS[0] | {"held_out": "fold 3"}]))
    dataset = read_dataset(tmp_path / "rows.json", keep_others=True)
    assert not dataset.examples[0].held_out
    assert '"held_out" (1 row)' in dataset.notes[0]
    assert convert_rows(dataset.examples, others=dataset.others)[0]["held_out"] == "fold 3"


@pytest.mark.parametrize("form", ["alpaca", "messages", "sharegpt"])
@pytest.mark.parametrize("name", ["new.json", "new.jsonl", "new.csv"])
def test_converted_rows_keep_the_mark(tmp_path: Path, form: RowForm, name: str) -> None:
    rows = convert_rows(read(tmp_path, FORMS[0] | {"held_out": True}, FORMS[0]), form)
    (tmp_path / name).write_bytes(encode_rows(rows, Path(name)))
    assert [example.held_out for example in read_examples(tmp_path / name)] == [True, False]


def test_the_sentence_names_file_and_row(tmp_path: Path) -> None:
    examples = read(tmp_path, FORMS[0], FORMS[0] | {"held_out": True}, FORMS[2] | {"held_out": True})
    check_not_held_out(examples[:1])
    with pytest.raises(DataError) as refused:
        check_not_held_out(examples)
    assert refused.value.problems == (str(refused.value),)
    assert str(refused.value).startswith(
        f'{tmp_path}/rows.json, row 2 (and 1 more): expected a row to learn from, got a test row with "held_out": true.'
    )


@pytest.mark.parametrize("command", ["finetune", "prefer"])
@pytest.mark.parametrize("more", [[], ["--plan", "--skip-bad"]])
def test_training_refuses_a_file_with_a_marked_row(
    folder: Path, examples: list[Example], command: str, more: list[str]
) -> None:
    rows = [replace(example, rejected="No.") if command == "prefer" else example for example in examples]
    rows[2] = replace(rows[2], held_out=True)
    (folder / "marked.json").write_text(dump_rows(rows))
    refused = invoke(command, "rows.json", "marked.json", "-m", "base", "-o", "out", *more)
    assert refused.exit_code == 1
    assert "marked.json, row 3: expected a row to learn from" in refused.stderr
    assert not (folder / "out").exists()


def test_checks_splits_and_evaluation_read_marked_rows(folder: Path, examples: list[Example]) -> None:
    (folder / "marked.json").write_text(dump_rows([replace(example, held_out=True) for example in examples[:20]]))
    assert invoke("data", "check", "marked.json").exit_code == 0
    assert invoke("data", "show", "marked.json", "-m", "base").exit_code == 0
    assert invoke("data", "split", "marked.json", "-o", "parts").exit_code == 0
    assert {example.held_out for example in read_examples(folder / "parts")} == {True}
    words = ("respond", "base", "--data", "marked.json", "--run", "run", "--part", "all", "--max-new-tokens", "1")
    done = CliRunner().invoke(evaluation.cli.app.app, words)
    assert done.exit_code == 0, done.stderr


def test_the_input_of_a_prompt_that_is_a_list_of_messages_is_read(tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"prompt": [ASK, SAY, ASK], "input": "loud", "completion": [SAY]})
    assert (example.instruction, example.input, example.output, len(example.history)) == ("Hi?", "loud", "Hi.", 1)
