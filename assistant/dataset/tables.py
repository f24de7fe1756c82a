"""Rows of tables: CSV and TSV, as Excel and pandas write them, and Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant.dataset.columns import Columns
from assistant.dataset.rows import BadRow, Layout, LayoutObserver, NumberText, Row
from assistant.dataset.sources import Stream, lines_of
from assistant.errors import DataError, PrerequisiteError

_DELIMITERS = (",", ";", "\t", "|")
_BATCH_ROWS = 256
_EXCEL_SEPARATOR = re.compile(r"sep=(.)\s*$")


def csv_rows(
    blocks: Iterator[str],
    name: str,
    columns: Columns,
    delimiter: str | None,
    *,
    on_layout: LayoutObserver = lambda _: None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV or TSV text. Its first line names the columns.

    A row's number is the one that a spreadsheet shows: the column names are row 1. Without a `delimiter`, it is the one
    of comma, semicolon, tab and bar that finds the most known columns.

    Raises:
        DataError: the first line does not name columns, or a quote is never closed.
    """
    csv.field_size_limit(sys.maxsize)
    lines = lines_of(_unix_line_ends(blocks))
    first = next(lines, "")
    n_before = 0
    if (given := _EXCEL_SEPARATOR.match(first)) is not None:
        delimiter, first, n_before = given[1], next(lines, ""), 1
    delimiter = delimiter or max(_DELIMITERS, key=lambda mark: _quality(first, mark, columns))
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    for number in itertools.count(n_before + 1):
        line = reader.line_num + n_before + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise DataError(
                    f'{name}, line {line}: expected a closing quote, got the end of the file. Add the missing ".'
                ) from error
            if header is None:
                raise DataError(f"{name}: expected a line with column names, got {error}. Correct it.") from error
            yield BadRow(number, f"{name}, row {number}: expected cells divided by {delimiter!r}, got {error}.")
            continue
        if cells is None:
            return
        if header is None:
            header = _checked_header(cells, name, columns)
            on_layout(Layout("table", delimiter, tuple(header)))
        elif any(cells):
            yield _row(cells, header, name, number)


def _unix_line_ends(blocks: Iterator[str]) -> Iterator[str]:
    """Replace the line ends of old Macs, which a text without any `\\n` may have."""
    first = next(blocks, "")
    is_mac = "\r" in first and "\n" not in first
    for block in itertools.chain([first], blocks):
        yield block.replace("\r", "\n") if is_mac else block


def _quality(line: str, delimiter: str, columns: Columns) -> tuple[int, int]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        cells = []
    return sum(columns.usual_name(cell.strip()) in columns.known for cell in cells), len(cells)


def looks_like_table(line: str, columns: Columns) -> bool:
    """Whether a first line names at least one known column."""
    return any(_quality(line, delimiter, columns)[0] for delimiter in _DELIMITERS)


_NAMELESS_LABELS = frozenset({"ham", "spam"})
_LONGEST_LABEL = 60


def has_no_header(start: str, columns: Columns) -> bool:
    """Whether a text begins with tab-separated rows and not with column names, and such rows have a meaning here.

    They are taken for rows if every line has a tab, and the first cell of the first line looks like a value: a later
    line begins with it too, or it is a number, or ham or spam.
    """
    lines = [line for line in start.splitlines() if line.strip()]
    if not columns.names.without_header or columns.mapping or not lines:
        return False
    first, *others = lines[0].split("\t")
    is_header = any(columns.usual_name(cell.strip()) in columns.known for cell in (first, *others))
    # The last line may be cut.
    if is_header or not others or len(first) > _LONGEST_LABEL or any("\t" not in line for line in lines[:-1]):
        return False
    is_value = first.strip().lower() in _NAMELESS_LABELS or first.strip().lstrip("-").isdigit()
    return is_value or any(line.startswith(f"{first}\t") for line in lines[1:])


def line_rows(blocks: Iterator[str], columns: Columns) -> Iterator[Row]:
    """Yield every line of a text that is not blank as a row of one field. A row's number is its line."""
    for number, line in enumerate(lines_of(_unix_line_ends(blocks)), start=1):
        if line.strip():
            yield Row(number, {columns.names.line: line.rstrip("\r\n")})


def nameless_rows(blocks: Iterator[str], name: str, columns: Columns) -> Iterator[Row | BadRow]:
    """Yield the rows of a tab-separated text without column names. Quotes are text: they join no lines.

    The last field has the rest of the line. A row's number is its line.
    """
    fields = columns.names.without_header
    for number, line in enumerate(lines_of(_unix_line_ends(blocks)), start=1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        cells = text.split("\t", len(fields) - 1)
        if len(cells) < len(fields):
            yield BadRow(
                number, f"{name}, row {number}: expected {' and '.join(fields)} with a tab between, got no tab."
            )
        else:
            yield Row(number, dict(zip(fields, cells, strict=True)))


def _checked_header(cells: list[str], name: str, columns: Columns) -> list[str]:
    header = [cell.strip() for cell in cells]
    while header and not header[-1]:
        header.pop()
    twice = sorted({cell for cell in header if cell and header.count(cell) > 1})
    if twice:
        raise DataError(f"{name}: expected every column name once, got {twice[0]!r} twice. Rename one.")
    if not any(columns.usual_name(cell) in columns.known for cell in header):
        shown = ", ".join(repr(cell[:40]) for cell in header[:5])
        fields = [word.partition("=")[0] for word in columns.names.example.split(",")]
        raise DataError(
            f"{name}: expected column names in the first line, such as {' and '.join(fields)}, got {shown}. "
            f"Add such a line, or name your columns: --columns {'=COLUMN,'.join(fields)}=COLUMN."
        )
    return [cell or f"(column {place})" for place, cell in enumerate(header, start=1)]


def _row(cells: list[str], header: list[str], name: str, number: int) -> Row | BadRow:
    if any(cell.strip() for cell in cells[len(header) :]):
        return BadRow(
            number,
            f"{name}, row {number}: expected at most {len(header)} cells, got {len(cells)}. "
            f"Put quotes around text that holds the delimiter.",
        )
    return Row(number, dict(zip(header, cells, strict=False)))


# --- Parquet ------------------------------------------------------------------------------------------------------


def parquet_rows(file: Stream, path: Path, name: str, *, is_packed: bool) -> Iterator[Row]:
    """Yield the rows of a Parquet file. Rows are counted from 1.

    Raises:
        PrerequisiteError: the package pyarrow is not installed.
        DataError: the file is not whole.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PrerequisiteError(
            f"{name}: expected the package pyarrow, which reads Parquet, got none. "
            f"Install it: pip install pyarrow. Or save the rows as JSONL: pandas.read_parquet(...).to_json("
            f'"rows.jsonl", orient="records", lines=True).'
        ) from error
    number = 0
    try:
        source = parquet.ParquetFile(io.BytesIO(file.read()) if is_packed else path)
        for batch in source.iter_batches(batch_size=_BATCH_ROWS):
            for value in batch.to_pylist():
                number += 1
                yield Row(number, _as_json(value))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: expected a whole Parquet file, got a fault: {reason}. Copy it again.") from error


def _as_json(value: Any) -> Any:
    """Turn the values that Parquet may hold into those of JSON. Numbers and dates become text."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float) and value != value:
        return None  # NaN is how pandas writes a missing value
    if isinstance(value, bytes):
        return value
    return NumberText(value)
