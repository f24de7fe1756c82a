"""Rows of a file with their labels: other columns stay, nothing is lost, and memory stays bounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from assistant.classifier import label_rows
from assistant.classifier.inference import Prediction
from assistant.classifier.label_rows import Counts, label_file
from assistant.errors import DataError

LABELS = ("a", "b")


@dataclass
class Lengths:
    """A classifier whose label is b for texts with more than five characters."""

    labels: tuple[str, ...] = LABELS


def by_length(_: Any, texts: list[str]) -> Iterator[Prediction]:
    for text in texts:
        index = int(len(text) > 5)
        probabilities = (0.25, 0.75) if index else (0.75, 0.25)
        yield Prediction(
            index=index, label=LABELS[index], probabilities=probabilities, n_tokens=len(text), was_cut=len(text) > 20
        )


@pytest.fixture(autouse=True)
def _plain_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rows, "classify", by_length)


def labelled(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> tuple[str, Counts]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    counts = Counts()
    return "".join(label_file(Lengths(), path, counts=counts, **options)), counts  # type: ignore[arg-type]


def test_a_table_keeps_its_columns_and_cells(tmp_path: Path) -> None:
    content = 'id,text,note\r\n01,hi,"=cmd|x"\r\n2,"long, \x1b[31m ""text""\nsecond line",\r\n'
    text, counts = labelled(tmp_path, "a.csv", content)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [
        ["id", "text", "note", "predicted_label", "probability"],
        ["01", "hi", "=cmd|x", "a", "0.750000"],
        ["2", 'long, \x1b[31m "text"\nsecond line', "", "b", "0.750000"],
    ]
    assert counts.labels == {"a": 1, "b": 1}
    assert counts.n_cut == 1


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "text;n\nhi;1,5\n", "hi;1,5;a;0.750000"),
        ("a.tsv", "n\ttext\n1\thi\n", "1\thi\ta\t0.750000"),
        ("sms", 'ham\t"hi\nspam\tby\n', 'ham\t"""hi"\ta\t0.750000'),
        ("a.txt", "hi\n\nlonger text\n", "hi,a,0.750000"),
        ("a.csv", "text\nhi\n".encode("utf-16"), "hi,a,0.750000"),
    ],
)
def test_delimiters_lines_and_the_sms_collection(tmp_path: Path, name: str, content: str | bytes, line: str) -> None:
    assert labelled(tmp_path, name, content)[0].splitlines()[1] == line


def test_json_keeps_its_values(tmp_path: Path) -> None:
    lines = '{"text": "hi", "n": 3.50, "inner": {"x": [1, null, true]}, "half": "\\ud800"}\n{"text": "longer text"}\n'
    first, second = labelled(tmp_path, "a.jsonl", lines)[0].splitlines()
    assert first == (
        '{"text": "hi", "n": 3.50, "inner": {"x": [1, null, true]}, "half": "\\ud800", '
        '"predicted_label": "a", "probability": 0.750000}'
    )
    assert json.loads(second)["predicted_label"] == "b"
    text, _ = labelled(tmp_path, "a.json", '[{"text": "hi"}, {"text": "é"}]')
    assert [row["text"] for row in json.loads(text)] == ["hi", "é"]


def test_other_kinds_of_output(tmp_path: Path) -> None:
    assert labelled(tmp_path, "a.csv", "text\nhi\n", kind="objects")[0] == (
        '{"text": "hi", "predicted_label": "a", "probability": 0.750000}\n'
    )
    assert labelled(tmp_path, "a.json", '[{"text": "hi"}]', kind="table", delimiter="\t")[0] == (
        "text\tpredicted_label\tprobability\nhi\ta\t0.750000\n"
    )
    assert json.loads(labelled(tmp_path, "a.csv", "text\nhi\n", kind="predictions")[0]) == {
        "row": 2, "label": "a", "probability": 0.75, "probabilities": {"a": 0.75, "b": 0.25}, "n_tokens": 2,
        "was_cut": False,
    }  # fmt: skip


def test_a_row_without_a_text_stays_without_a_label(tmp_path: Path) -> None:
    text, counts = labelled(tmp_path, "a.csv", "id,text\n1,hi\n2,\n3\n4, \n")
    assert text.splitlines()[2:] == ["2,,,", "3,,,", "4, ,,"]
    assert (counts.n, counts.n_empty) == (1, 3)


def test_a_taken_name_gets_a_number_and_a_note(tmp_path: Path) -> None:
    text, counts = labelled(tmp_path, "a.csv", "text,probability,predicted_label\nhi,0.1,x\n")
    assert text.splitlines()[0] == "text,probability,predicted_label,predicted_label_2,probability_2"
    assert text.splitlines()[1] == "hi,0.1,x,a,0.750000"
    assert len(counts.notes) == 2


def test_bad_rows_are_named_or_left_out_and_counted(tmp_path: Path) -> None:
    content = '{"text": "hi"}\nnot json\n{"body": "x"}\n{"text": ["a"]}\n{"text": "yo"}\n'
    with pytest.raises(DataError, match=r"a.jsonl, row 2: expected one JSON object") as caught:
        labelled(tmp_path, "a.jsonl", content)
    assert "--skip-bad" in str(caught.value)
    text, counts = labelled(tmp_path, "a.jsonl", content, skip_bad=True)
    assert [json.loads(line)["text"] for line in text.splitlines()] == ["hi", "yo"]
    assert counts.n_bad == 3
    assert "row 3: expected a column \"text\", got 'body'" in counts.problems[1]


def test_two_usual_names_are_a_doubt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one column of the text, got 'message', 'review'"):
        labelled(tmp_path, "a.csv", "message,review\na,b\n")
    assert labelled(tmp_path, "a.csv", "message,review\na,long text\n", columns=("text=review",))[0].endswith(
        "a,long text,b,0.750000\n"
    )


def test_rows_of_different_names_need_jsonl(tmp_path: Path) -> None:
    content = '[{"text": "hi"}' + ', {"text": "yo"}' * label_rows._CHUNK + ', {"text": "yo", "more": 1}]'
    with pytest.raises(DataError, match="expected the columns of earlier rows, got 'more' too"):
        labelled(tmp_path, "a.json", content, kind="table")


def test_rows_are_written_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "hi"}\n' * (label_rows._CHUNK + 1) + "broken\n")
    pieces = label_file(Lengths(), path, counts=Counts())  # type: ignore[arg-type]
    assert [next(pieces) for _ in range(label_rows._CHUNK)][-1].startswith('{"text": "hi"')
    with pytest.raises(DataError, match="row 1026"):
        list(pieces)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one row, got none"):
        labelled(tmp_path, "a.csv", "text\n")
