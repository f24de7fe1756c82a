"""Rows of JSON and JSONL files, the text fields that they may have, and sentences for their faults.

Does not know what the rows mean: `instructions` and the evaluation's response files both use this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from assistant.errors import DataError
from assistant.files import shown_path


class Row(NamedTuple):
    """One row of a file, not yet validated: its number, counted from 1, and its parsed JSON value."""

    number: int
    value: Any


# --- text fields --------------------------------------------------------------------------------------------------


def _clean_text(text: str) -> str:
    """Change all line ends to `\\n`. Refuse characters that no tokenizer can encode."""
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain half of a surrogate pair")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must contain more than white space")
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_clean_text)]
"""Text that may be empty."""
FilledText = Annotated[Text, AfterValidator(_not_blank)]
"""Text with more than white space."""
OptionalText = Annotated[Text, BeforeValidator(lambda value: "" if value is None else value)]
"""Text that may be null, which means empty."""


# --- reading ------------------------------------------------------------------------------------------------------


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of a JSON list or a JSONL file, without validating them.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or holds neither a JSON list nor JSONL.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return _rows_of_lines(path, text)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise DataError(f"{path}: expected a list of flat rows, got JSON that is nested too deeply.") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _rows_of_lines(path, text)
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: expected JSON, got {error.msg[0].lower()}"
            f"{error.msg[1:]}. Correct the file there; if it has one object per line, name it .jsonl."
        ) from error
    except ValueError as error:  # An integer has more digits than Python converts.
        raise DataError(f"{path}: expected JSON with text fields, got a value that cannot be read: {error}.") from error
    if isinstance(value, dict):
        keys = ", ".join(repr(key) for key in list(value)[:5])
        raise DataError(
            f"{path}: expected a list of rows, got one JSON object with the keys {keys or '(none)'}. "
            f"Put the rows into a list: [{{...}}, {{...}}]."
        )
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of rows, got {json_type_name(value)}.")
    return [Row(number, row) for number, row in enumerate(value, start=1)]


def _read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected a file of rows, got no such file. Check the path.") from error
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror or error}.") from error
    if not data.strip():
        raise DataError(f"{path}: expected a list of rows, got an empty file.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: expected UTF-8, got UTF-16. Save the file as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start}. "
            f"Save the file as UTF-8."
        ) from error
    if "\x00" in text:
        raise DataError(
            f"{path}: expected text, got a NUL byte at character {text.index(chr(0))}. Is it a binary file?"
        )
    return text


def _rows_of_lines(path: Path, text: str) -> list[Row]:
    """Parse JSONL and skip blank lines. DataError names every line that is not JSON."""
    rows: list[Row] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            problems.append(
                f"{path}, row {number}: expected one JSON object on the line, got {reason[0].lower()}{reason[1:]}."
            )
    if problems:
        raise DataError(problems)
    return rows


# --- faults -------------------------------------------------------------------------------------------------------


def json_type_name(value: object) -> str:
    """Return the type of a JSON value in plain words, for error messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def row_fault(path: Path, number: int, details: Any) -> str:
    """Turn one of pydantic's error details into a sentence that names the file, the row and the field."""
    field = ".".join(str(part) for part in details["loc"]) or "row"
    error_type, value = details["type"], details["input"]
    if error_type == "missing":
        keys = ", ".join(repr(str(key)[:40]) for key in list(value)[:8]) if isinstance(value, dict) else ""
        fault = f"is missing (the row has {keys or 'no fields'})"
    elif error_type in {"string_type", "list_type", "model_type", "model_attributes_type"}:
        expected = "a list" if error_type == "list_type" else "an object" if "model" in error_type else "text"
        fault = f"must be {expected}, got {json_type_name(value)}"
    elif error_type == "value_error":
        fault = f"{details['ctx']['error']}, got {_shorten(value)}"
    else:
        message = details["msg"]
        fault = f"{message[0].lower()}{message[1:]}, got {_shorten(value)}"
    return f'{shown_path(path)}, row {number}: "{field}" {fault}.'


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
