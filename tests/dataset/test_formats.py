"""Reading files in every format, and the sentences for unreadable ones."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.columns import Columns
from assistant.dataset.formats import iterate_rows
from assistant.dataset.instructions import read_examples
from assistant.dataset.json_rows import list_rows
from assistant.dataset.rows import BadRow, Row
from assistant.dataset.sources import find_files
from assistant.errors import DataError, PrerequisiteError

GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a file, or of the files in a folder. Raise DataError with the problems of the bad rows."""
    rows = [row for file in find_files([path]).paths for row in iterate_rows(file, Columns())]
    if problems := [row.problem for row in rows if isinstance(row, BadRow)]:
        raise DataError(problems)
    return [row for row in rows if isinstance(row, Row)]


def read_problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return caught.value.problems


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_jsonl_rows_have_line_numbers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"a": "1"}\r\n\n{"a": "2"}\n')
    assert read_rows(path) == [Row(1, {"a": "1"}), Row(3, {"a": "2"})]


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
        pytest.param(b"\xff\xfe[\x00]", "expected UTF-16, got the byte 0x5d at offset 4", id="cut UTF-16"),
        pytest.param(b'[{"a": 1},\n {"a": 2},\n]', "line 2, column 10: expected no comma after", id="trailing comma"),
        pytest.param(b'[{"a": 1,}]', "expected JSON, got a comma before '}'", id="comma in a row"),
        pytest.param(b'[{"a": 1} {"a": 2}]', "line 1, column 11: expected ',' or ']' after the row", id="no comma"),
        pytest.param(b'[{"a": 1}', "line 1, column 10: expected ']' or a further row, got the end", id="cut list"),
        pytest.param(b'[{"a": 1}] x', "line 1, column 12: expected nothing after the list, got 'x'", id="more"),
        pytest.param(b'{"x": [{"a": 1}], "y": [{"a": 1}]}', "Put the rows of one of the lists", id="two lists"),
        pytest.param(b'{"output": ["x"], "instruction": ["y"]}', 'orient="records"', id="columns"),
        pytest.param(b"\x1f\x8b\x08rest", "expected a whole gzip file, got a damaged one", id="damaged gzip"),
        pytest.param(b"PK\x03\x04rest", "got a ZIP archive or an Excel workbook", id="xlsx"),
        pytest.param(b'{"output": "x", "output": "y"}', "expected every key once, got 'output' twice", id="twice"),
        pytest.param(b'[{"instruction": "caf\xe9"}]', "expected UTF-8, got the byte 0xe9 at offset 21", id="Latin-1"),
        pytest.param(b'[{"instruction": "a\x00b"}]', "got a NUL byte", id="NUL"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep nesting"),
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


# --- formats that hold the same rows ------------------------------------------------------------------------------

PAIR = [{"instruction": 'Say; hi, "you".', "output": "Hi\nthere."}, {"instruction": "Größe?", "output": "5 m"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIR)
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in PAIR)
COMMAS = 'instruction,output\n"Say; hi, ""you"".","Hi\nthere."\nGröße?,5 m\n'
SEMICOLONS = 'instruction;output\r\n"Say; hi, ""you"".";"Hi\nthere."\r\nGröße?;5 m\r\n'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", json.dumps(PAIR)),
        ("rows.json", json.dumps(PAIR[:1]) + "\n" + json.dumps(PAIR[1:])),
        ("rows.json", json.dumps({"data": PAIR, "version": "1"}, indent=1)),
        ("rows.jsonl", json.dumps(PAIR, indent=2)),
        ("rows.jsonl", LINES),
        ("rows.json", LINES.replace("}\n", "},\n")),
        ("rows.jsonl", PRETTY),
        ("rows.json", PRETTY.replace("}\n{", "}{")),
        ("rows.txt", LINES),
        ("rows.csv", COMMAS),
        ("rows.csv", "\ufeff" + SEMICOLONS),
        ("rows.csv", "sep=;\r\n" + SEMICOLONS),
        ("rows", COMMAS),
        ("rows.tsv", 'instruction\toutput\n"Say; hi, ""you""."\t"Hi\nthere."\nGröße?\t5 m\n'),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, content: str, packed: bool) -> None:
    data = content.encode()
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    rows = read_rows(path)
    assert [row.value for row in rows] == PAIR
    numbers = [row.number for row in rows]
    assert numbers == sorted(set(numbers))
    path.write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
    assert [row.value for row in read_rows(path)] == PAIR


def test_row_numbers_of_a_table_are_those_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('question,answer\n"two\nlines",b\n\nc,d,e\nf\n')
    two, broken, short = iterate_rows(path, Columns())
    assert two == Row(2, {"question": "two\nlines", "answer": "b"})
    assert isinstance(broken, BadRow)
    assert (
        broken.problem
        == f"{path}, row 4: expected at most 2 cells, got 3. Put quotes around text that holds the delimiter."
    )
    assert short == Row(5, {"question": "f"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"hello,there\na,b\n", "expected column names in the first line, such as", id="header"),
        pytest.param(b"question,question\na,b\n", "expected every column name once, got 'question' twice", id="twice"),
        pytest.param(b'question,answer\na,"b\n\nc,d\n', "expected a closing quote, got the end", id="quote"),
        pytest.param(b"question,answer\ncaf\xe9,b\n", 'save it as "CSV UTF-8"', id="Latin-1"),
    ],
)
def test_unreadable_table_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    (problem,) = read_problems(path)
    assert sentence in problem


def test_a_broken_object_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": [\n{"a": "1"}\n{"a": "2"} rest\n{"a":\n"3"}\n{"a": "4"')
    found = list(iterate_rows(path, Columns()))
    assert [row.number for row in found] == [1, 2, 3, 4, 6]
    assert [row.value for row in found if isinstance(row, Row)] == [{"a": "1"}, {"a": "3"}]


def test_numbers_keep_their_spelling_and_nan_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 3.50, "b": NaN, "c": -Infinity, "d": ' + "1" * 5000 + "}]")
    (row,) = read_rows(path)
    assert row.value == {"a": "3.50", "b": None, "c": "-Infinity", "d": "1" * 5000}


def test_a_folder_is_its_data_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"a": "2"}\n')
    (tmp_path / "a.json").write_text('[{"a": "1"}]')
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / "more").mkdir()
    assert [row.value for row in read_rows(tmp_path)] == [{"a": "1"}, {"a": "2"}]
    assert find_files([tmp_path]).notes == (f"{tmp_path}: not data files, so not read: README.md.",)
    with pytest.raises(DataError, match="expected data files"):
        find_files([tmp_path / "more"])


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"instruction": ["Say"], "output": [42], "input": [float("nan")], "x": [[{"a": None}]], "y": [b"raw"]}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    value = {"instruction": "Say", "output": "42", "input": None, "x": [{"a": None}], "y": b"raw"}
    assert read_rows(path) == [Row(1, value)]
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_rows(tmp_path / "rows.parquet.gz") == [Row(1, value)]
    path.write_bytes(path.read_bytes()[:-9])
    assert "expected a whole Parquet file" in read_problems(path)[0]


def test_without_pyarrow_parquet_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(PrerequisiteError, match="pip install pyarrow"):
        read_rows(tmp_path / "rows.parquet")


@given(st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.none(), max_size=4), max_size=6))
def test_lists_are_parsed_as_json_parses_them(rows: list[dict[str, str | None]]) -> None:
    for text in (json.dumps(rows), json.dumps(rows, indent=1, ensure_ascii=False)):
        for size in (1, 7, 1000):
            blocks = (text[place : place + size] for place in range(0, len(text), size))
            assert [row.value for row in list_rows(blocks, "f") if isinstance(row, Row)] == json.loads(text)


def test_memory_is_at_most_four_times_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = {"instruction": "x" * 100, "input": "y" * 100, "output": "z" * 100}
    path.write_text(json.dumps([row | {"group": str(number)} for number in range(20_000)]))
    tracemalloc.start()
    try:
        examples = read_examples(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(examples) == 20_000
    assert peak < 4 * path.stat().st_size
