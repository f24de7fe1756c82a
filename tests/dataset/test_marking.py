"""The fields `accept`, `check` and `rubric` of a row, and rows without an output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant.cli.app import app
from assistant.dataset.check import check_examples, describe_findings, findings_as_json
from assistant.dataset.checks import Check
from assistant.dataset.convert import convert_rows, encode_rows
from assistant.dataset.encode import encode_examples
from assistant.dataset.examples import Example
from assistant.dataset.forms import ParsedRow, examples_of
from assistant.dataset.instructions import read_dataset, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.rows import Row
from assistant.dataset.splits import data_fingerprint, split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"instruction": "Capital?", "output": "Paris", "accept": ["It is Paris.", "Paris, France"]},
    {"instruction": "As JSON.", "output": "{}", "check": {"json": ["a"], "max_words": 9, "contains": ["x", "y"]}},
    {"instruction": "Write a poem.", "rubric": ["Does it rhyme?", "Is it about rain?"], "category": "poems"},
    {"instruction": "Say yes.", "check": {"regex": "^[Yy]es", "ignore_case": True}},
    {"instruction": "And Italy?", "history": [["Capital of France?", "Paris"]], "rubric": ["Is it Rome?"]},
]


def parse(row: dict[str, Any]) -> ParsedRow:
    return examples_of(Row(1, row), "f.json")


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_a_row_says_how_its_answers_are_marked() -> None:
    (accepted,), (checked,), (judged,) = (parse(row).examples for row in ROWS[:3])
    assert (accepted.output, accepted.accept) == ("Paris", ("It is Paris.", "Paris, France"))
    assert checked.check == Check.model_validate({"json": ["a"], "max_words": 9, "contains": ["x", "y"]})
    assert (judged.output, judged.rubric, judged.is_reference_free) == (
        "",
        ("Does it rhyme?", "Is it about rain?"),
        True,
    )
    assert not accepted.is_reference_free
    assert parse({"instruction": "x", "output": "y", "accept": "z"}).examples[0].accept == ("z",)


def test_only_the_last_exchange_of_a_conversation_is_marked() -> None:
    turns = [("user", "A?"), ("assistant", "a"), ("user", "B?"), ("assistant", "b")]
    messages = [{"role": role, "content": text} for role, text in turns]
    first, last = parse({"messages": messages, "accept": ["c"], "rubric": ["d?"]}).examples
    assert (first.accept, first.rubric) == ((), ())
    assert (last.accept, last.rubric) == (("c",), ("d?",))


def test_other_meanings_of_the_names_are_named_as_unused() -> None:
    row = {"instruction": "x", "output": "y", "rubric": "1 is bad, 5 is good", "check": "by hand", "accept": {"a": 1}}
    parsed = parse(row)
    assert parsed.examples == [Example(instruction="x", output="y", source="f.json", row=1)]
    assert set(parsed.unused) == {"rubric", "check", "accept"}
    assert set(parse({"text": "Once upon a time.", "rubric": ["Is it long?"]}).unused) == {"rubric"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"instruction": "x"}, '"output" is missing'),
        ({"instruction": "x", "output": None, "rubric": []}, '"output" must be text, got null'),
        ({"instruction": "x", "rubric": "1 is bad"}, '"output" is missing'),
        ({"rubric": ["Is it?"]}, '"instruction" is missing'),
        ({"instruction": "x", "rubric": ["  "]}, '"rubric.0" must contain more than white space'),
        ({"instruction": "x", "check": {"contain": "y"}}, '"check.contain" is not known here'),
        ({"instruction": "x", "check": {"regex": "("}}, '"check.regex.0" must be a regular expression'),
    ],
)
def test_faults_are_named(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataError, match=r"^f\.json, row 1: ") as caught:
        parse(row)
    assert fault in str(caught.value)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv.gz"])
def test_every_format_keeps_the_marking(tmp_path: Path, ending: str) -> None:
    before = read_examples(write(tmp_path / "rows.json", ROWS))
    path = tmp_path / f"new{ending}"
    path.write_bytes(encode_rows(convert_rows(before), path))
    after = read_examples(path)
    marks = [(e.instruction, e.output, e.accept, e.check, e.rubric, e.history) for e in after]
    assert marks == [(e.instruction, e.output, e.accept, e.check, e.rubric, e.history) for e in before]


def test_conversion_keeps_the_name_of_a_field_that_means_something_else(tmp_path: Path) -> None:
    row = {"instruction": "x", "output": "y", "rubric": "1 is bad"}
    dataset = read_dataset(write(tmp_path / "rows.json", [row]), keep_others=True)
    assert convert_rows(dataset.examples, others=dataset.others) == [{**row, "input": ""}]


def test_a_form_that_needs_an_output_is_refused(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "rows.json", ROWS))
    assert "output" not in convert_rows(examples, "alpaca")[2]
    with pytest.raises(DataError, match="3 rows have no output"):
        convert_rows(examples, "messages")


def test_the_marking_does_not_change_the_fingerprint_of_the_data(tmp_path: Path) -> None:
    plain = [{"instruction": row["instruction"], "output": row["output"]} for row in ROWS[:2]]
    fingerprints = {data_fingerprint(read_examples(write(tmp_path / "f.json", rows))) for rows in (plain, ROWS[:2])}
    assert len(fingerprints) == 1


def test_training_refuses_rows_without_an_output(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    examples = read_examples(write(tmp_path / "rows.json", ROWS))
    with pytest.raises(DataError, match='row 3: expected an "output" to learn') as caught:
        encode_examples(examples, get_template("alpaca"), byte_tokenizer, max_length=256)
    assert len(caught.value.problems) == 3
    command = ["finetune", str(tmp_path / "rows.json"), "--model", "pocket", "--output", str(tmp_path / "new")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.count("only for evaluation") == 3
    assert not (tmp_path / "new").exists()


def test_data_check_counts_rows_without_an_output(tmp_path: Path) -> None:
    examples = read_examples(write(tmp_path / "rows.json", ROWS))
    findings = check_examples(examples, split_examples(examples))
    assert findings.is_clean
    assert [row["row"] for row in findings_as_json(findings)["without_output"]] == [3, 4, 5]
    assert "Without an output, so for evaluation only: 3 rows." in describe_findings(findings)
    assert not [row for row in findings.suspicious if row.example.is_reference_free]
