"""Files to rows: which format a file has, and the reader of that format.

JSON lists, JSONL and printed objects (`json_rows`), CSV, TSV and Parquet (`tables`), each also gzipped.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assistant.dataset.columns import Columns
from assistant.dataset.json_rows import list_rows, object_rows
from assistant.dataset.rows import BadRow, Layout, LayoutObserver, Row, key_list
from assistant.dataset.sources import (
    JSON_LINE_SUFFIXES,
    PARQUET_MAGIC,
    STANDARD_INPUT,
    SUFFIXES,
    cut_texts,
    data_suffix,
    open_file,
    shown_name,
    text_blocks,
)
from assistant.dataset.tables import csv_rows, has_no_header, line_rows, looks_like_table, nameless_rows, parquet_rows
from assistant.errors import DataError

_CHAT_FIELDS = frozenset({"messages", "conversations", "chosen", "rejected", "instruction", "output"})


def iterate_rows(
    path: Path,
    columns: Columns,
    *,
    longest_text: int | None = None,
    on_layout: LayoutObserver = lambda _: None,
) -> Iterator[Row | BadRow]:
    """Yield the rows of one file as they are read, without validating them. `columns` helps to recognise a table.

    Texts in quotes are cut after about `longest_text` characters before they are held in memory, but not in Parquet.
    `on_layout` is called before the first row.

    Raises:
        DataError: the file is missing, empty, not text, or in none of the formats.
        PrerequisiteError: a package that reads the format is not installed.
    """
    name, suffix = shown_name(path), data_suffix(path)
    with open_file(path) as file:
        if suffix == ".parquet" or file.peek(4)[:4] == PARQUET_MAGIC:
            on_layout(Layout("parquet"))
            is_packed = path == STANDARD_INPUT or isinstance(file.raw, gzip.GzipFile)
            yield from parquet_rows(file, path, name, is_packed=is_packed)
            return
        is_table = suffix in {".csv", ".tsv"}
        blocks = _skip_blank(text_blocks(file, name, is_table=is_table))
        start = next(blocks, None)
        if start is None:
            raise DataError(f"{name}: expected a list of rows, got an empty file.")
        blocks = itertools.chain([start], blocks)
        if longest_text is not None:
            blocks = cut_texts(blocks, longest_text, is_table=is_table)
        character = start.lstrip()[0]
        if suffix != ".json" and suffix not in JSON_LINE_SUFFIXES and character not in "[{":
            if suffix != ".csv" and has_no_header(start, columns):
                on_layout(Layout("table", "\t", columns.names.without_header))
                yield from nameless_rows(blocks, name, columns)
                return
            is_table = is_table or looks_like_table(start.partition("\n")[0], columns)
        if is_table:
            yield from csv_rows(blocks, name, columns, "\t" if suffix == ".tsv" else None, on_layout=on_layout)
        elif columns.names.line and suffix not in SUFFIXES and character not in "[{":
            on_layout(Layout("lines"))
            yield from line_rows(blocks, columns)
        elif suffix not in SUFFIXES and character not in "[{":
            raise DataError(
                f"{name}: expected JSON, JSONL, CSV, TSV or Parquet, got other text. Put each text into a row, "
                f'{{"text": "..."}}, of a file that ends in .jsonl; or add a first line with column names.'
            )
        elif character != "{" and (character == "[" or suffix not in JSON_LINE_SUFFIXES):
            on_layout(Layout("list"))
            yield from list_rows(blocks, name)
        else:
            on_layout(Layout("objects"))
            may_be_row = suffix in JSON_LINE_SUFFIXES
            yield from _unwrapped(object_rows(blocks, name), name, columns, may_be_row=may_be_row)


def _skip_blank(blocks: Iterator[str]) -> Iterator[str]:
    """Leave out blank blocks at the start, but for their line ends, which are counted."""
    blank: list[str] = []
    for block in blocks:
        if block.strip():
            yield "".join(blank) + block
            yield from blocks
            return
        blank.append("\n" * block.count("\n"))


def _unwrapped(
    rows: Iterator[Row | BadRow], name: str, columns: Columns, *, may_be_row: bool
) -> Iterator[Row | BadRow]:
    """Yield the rows. If the only one is an object around one list of rows, yield those of the list.

    `may_be_row` says that a single object without known fields may be a row of a file of one.

    Raises:
        DataError: the only row is an object that is neither a row nor around one list of rows.
    """
    first, second = next(rows, None), next(rows, None)
    if first is None:
        return
    is_object = isinstance(first, Row) and isinstance(first.value, dict)
    if second is not None or not is_object or _is_row(first.value, columns):  # type: ignore[union-attr]
        yield from itertools.chain([first], [] if second is None else [second], rows)
        return
    value: dict[str, Any] = first.value  # type: ignore[union-attr]
    lists = [key for key, inner in value.items() if isinstance(inner, list) and any(isinstance(x, dict) for x in inner)]
    if not lists and may_be_row:
        yield first
        return
    if len(lists) != 1:
        keys = key_list(value)
        advice = "Put the rows into a list: [{...}, {...}]."
        if lists:
            advice = "Put the rows of one of the lists into a file of their own."
        elif any(columns.usual_name(key) in columns.known for key in value):
            advice = 'It holds columns, not rows: save it with pandas\' orient="records".'
        raise DataError(
            f"{name}: expected a list of rows, got one JSON object with the keys {keys or '(none)'}. {advice}"
        )
    inner = value.pop(lists[0])
    inner.reverse()
    for number in range(1, len(inner) + 1):
        yield Row(number, inner.pop())  # a row that was handed on needs no second place in memory


def _is_row(value: dict[str, Any], columns: Columns) -> bool:
    """Whether an object has a field of a row. A list is one only where it may hold messages."""
    return any(
        (field in _CHAT_FIELDS and bool(inner) and all(isinstance(message, dict) for message in inner))
        if isinstance(inner, list)
        else not isinstance(inner, dict)
        for field, inner in columns.fields_of(value).values.items()
    )
