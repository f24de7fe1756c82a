"""Reading JSON and JSONL files, and the sentences for unreadable ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.dataset.formats import read_rows
from assistant.dataset.rows import Row
from assistant.errors import DataError

GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def read_problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return caught.value.problems


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_jsonl_rows_have_line_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"a": 1}\r\n\n{"a": 2}\n')
    assert read_rows(path) == [Row(1, {"a": 1}), Row(3, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "expected a list of rows, got an empty file", id="empty"),
        pytest.param(b" \n ", "expected a list of rows, got an empty file", id="blank"),
        pytest.param(
            b'{"a": 1, "b": 2}', "expected a list of rows, got one JSON object with the keys 'a', 'b'", id="object"
        ),
        pytest.param(b'"text"', "expected a list of rows, got text", id="text"),
        pytest.param(b'[{"instruction": ', "line 1, column", id="cut JSON"),
        pytest.param(b"\xff\xfe[\x00]\x00", "expected UTF-8, got UTF-16", id="UTF-16"),
        pytest.param(b'[{"instruction": "caf\xe9"}]', "expected UTF-8, got the byte 0xe9 at offset 21", id="Latin-1"),
        pytest.param(b'[{"instruction": "a\x00b"}]', "got a NUL byte", id="NUL"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep nesting"),
        pytest.param(b"[" + b"1" * 5000 + b"]", "cannot be read", id="huge integer"),
    ],
)
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    (problem,) = read_problems(path)
    assert sentence in problem
    assert str(path) in problem


def test_missing_file_is_refused(tmp_path: Path) -> None:
    (problem,) = read_problems(tmp_path / "no.json")
    assert "got no such file" in problem


def test_every_broken_line_of_jsonl_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{broken\n[1,\n")
    second, third = read_problems(path)
    assert "row 2" in second
    assert "row 3" in third
