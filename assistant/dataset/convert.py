"""Writes examples in another file format or row form, without losing text.

Does not read files: `instructions` does.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from assistant.dataset.columns import KNOWN_NAMES
from assistant.dataset.instructions import Example, rows_of
from assistant.dataset.rows import NumberText
from assistant.dataset.sources import JSON_LINE_SUFFIXES, SUFFIXES, data_suffix
from assistant.errors import DataError, PrerequisiteError, SettingsError
from assistant.files import shown_path

RowForm = Literal["alpaca", "messages", "sharegpt", "preference"]
_INTEGER = re.compile(r"-?\d{1,15}")
_KEPT_AS_NAMED = KNOWN_NAMES - {"tools", "accept", "check", "rubric", "held_out"}


def convert_rows(
    examples: Sequence[Example],
    form: RowForm | None = None,
    *,
    others: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of the examples in a form; without one, each in the form that suits it.

    `others` holds further fields by the source and number of a row. One that would have a meaning in the new row gets
    `_unused` added to its name.

    Raises:
        DataError: rows hold text that the form has no place for. The message counts them.
    """
    rows: list[dict[str, Any]] = []
    problems = Counter[str]()
    for example in rows_of(examples):
        problem = _problem(example, form)
        if problem is not None:
            problems[problem] += 1
            continue
        row = _as_row(example, form)
        for name, value in ((others or {}).get((example.source, example.row)) or {}).items():
            if "." in name and name.partition(".")[0] in KNOWN_NAMES:
                continue  # a field of a message; the reader counts it
            free = f"{name}_unused" if name in _KEPT_AS_NAMED or name in row else name
            row[free] = _plain(value)
        rows.append(row)
    if problems:
        raise DataError(
            [f"--to {form}: {count} rows {problem}." for problem, count in problems.items()],
            advice="Choose another form, or leave out --to: each row then keeps its own form.",
        )
    return rows


def _problem(example: Example, form: RowForm | None) -> str | None:
    """Return what of the example the form cannot hold, or None."""
    if form is None:
        return None
    if example.is_text:
        return "are plain text, without an instruction"
    if example.is_reference_free:
        return None if form == "alpaca" else "have no output, which the form needs"
    if form == "preference":
        return "have no rejected answer" if example.rejected is None else None
    return "have a rejected answer, which the form cannot hold" if example.rejected is not None else None


def _as_row(example: Example, form: RowForm | None) -> dict[str, Any]:
    if form is None or form == "preference":
        return example.as_row()
    if form == "alpaca":
        row: dict[str, Any] = {"instruction": example.instruction, "input": example.input}
        if not example.is_reference_free:
            row["output"] = example.output
        if example.history:
            row["history"] = [list(turn) for turn in example.history]
        return row | example.labels
    texts = [text for turn in example.turns for text in turn]
    if example.input:
        texts[-2] = f"{example.instruction}\n\n{example.input}"
    if form == "messages":
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        return {"messages": messages} | example.labels
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns} | example.labels


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold, with numbers as numbers where they keep their spelling."""
    if isinstance(value, NumberText):
        if _INTEGER.fullmatch(value) and str(int(value)) == value:
            return int(value)
        try:
            return float(value) if repr(float(value)) == value and "n" not in value else str(value)
        except ValueError:
            return str(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else value


# --- file formats -------------------------------------------------------------------------------------------------


def check_target(path: Path) -> None:
    """Raise SettingsError if the name of a new file ends like no format."""
    if data_suffix(path) not in SUFFIXES:
        endings = ", ".join(sorted(SUFFIXES))
        raise SettingsError(
            f"{shown_path(path)}: expected a name that ends in {endings}, or one of these and .gz, got "
            f"{path.suffix or 'no ending'}. Choose such a name for the new file."
        )


def encode_rows(rows: Sequence[dict[str, Any]], path: Path) -> bytes:
    """Return the contents of a file of the rows, in the format that the ending of its name says.

    Raises:
        SettingsError: the name ends like no format.
        PrerequisiteError: a package that writes the format is not installed.
    """
    check_target(path)
    suffix = data_suffix(path)
    if suffix == ".json":
        data = (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode()
    elif suffix in JSON_LINE_SUFFIXES:
        data = json_lines(rows).encode()
    elif suffix == ".parquet":
        data = _parquet(rows, shown_path(path))
    else:
        data = _table(rows, "\t" if suffix == ".tsv" else ",").encode()
    return gzip.compress(data, mtime=0) if path.suffix.lower() == ".gz" else data


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as JSON, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Sequence[dict[str, Any]], delimiter: str) -> str:
    names = _names(rows)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> str:
    """Return a value as the text of a cell; a list or an object as JSON, which the reader knows."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _parquet(rows: Sequence[dict[str, Any]], name: str) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PrerequisiteError(
            f"{name}: expected the package pyarrow, which writes Parquet, got none. "
            f"Install it: pip install pyarrow. Or choose a name that ends in .jsonl."
        ) from error

    def arrays() -> Iterator[Any]:
        for column in _names(rows):
            values = [row.get(column) for row in rows]
            try:
                yield pyarrow.array(values)
            except (pyarrow.ArrowException, TypeError, OverflowError):
                yield pyarrow.array([None if value is None else _cell(value) for value in values])

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(list(arrays()), names=_names(rows)), file)
    return file.getvalue()
