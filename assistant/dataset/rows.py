"""Rows before they are validated, the text fields that they may have, and sentences for their faults.

Does not know about file formats (`formats`) or what the rows mean (`forms`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from assistant.files import shown_path


class Row(NamedTuple):
    """One row of a file, not yet validated: its number, counted from 1, and its parsed value."""

    number: int
    value: Any


class BadRow(NamedTuple):
    """A row that cannot be parsed: its number, and one sentence."""

    number: int
    problem: str


class Layout(NamedTuple):
    """How a file spells its rows."""

    kind: Literal["table", "list", "objects", "parquet", "lines"]
    """`list` is a JSON list, `objects` is JSONL, `lines` is plain text."""
    delimiter: str = ""
    """Of a table."""
    header: tuple[str, ...] = ()
    """Names of a table's columns."""


LayoutObserver: TypeAlias = Callable[[Layout], None]


class NumberText(str):
    """A number as the file spells it, so that `3.50` stays `3.50` and no number is too long."""

    __slots__ = ()


_SURROGATE = re.compile("[\ud800-\udfff]")


# --- text fields --------------------------------------------------------------------------------------------------


def _as_text(value: object) -> object:
    """Return numbers, true and false as text, and every other value as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, NumberText | int | float) else value


def _clean_text(text: str) -> str:
    """Change all line ends to `\\n`. Refuse characters that no tokenizer can encode."""
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    if _SURROGATE.search(text):
        raise ValueError("must not contain half of a surrogate pair")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must contain more than white space")
    return text


Text = Annotated[str, Field(strict=True), BeforeValidator(_as_text), AfterValidator(_clean_text)]
"""Text that may be empty. Numbers, true and false become text."""
FilledText = Annotated[Text, AfterValidator(_not_blank)]
"""Text with more than white space."""
OptionalText = Annotated[Text, BeforeValidator(lambda value: "" if value is None else value)]
"""Text that may be null, which means empty."""


# --- faults -------------------------------------------------------------------------------------------------------


def json_type_name(value: object) -> str:
    """Return the type of a JSON value in plain words, for error messages."""
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    names |= dict.fromkeys((int, float, NumberText), "a number")
    return "null" if value is None else names.get(type(value), type(value).__name__)


def row_fault(path: Path, number: int, details: Any) -> str:
    """Turn one of pydantic's error details into a sentence that names the file, the row and the field."""
    field = ".".join(str(part) for part in details["loc"]) or "row"
    error_type, value = details["type"], details["input"]
    if error_type == "missing":
        fault = "is missing"
        if isinstance(value, dict):
            fault += f" (the row has {key_list(value) or 'no fields'})"
    elif error_type in {"string_type", "list_type", "tuple_type", "model_type", "model_attributes_type"}:
        is_list = error_type in {"list_type", "tuple_type"}
        expected = "a list" if is_list else "an object" if "model" in error_type else "text"
        fault = f"must be {expected}, got {json_type_name(value)}"
    elif error_type == "too_long":
        fault = f"must have at most {details['ctx']['max_length']} entries, got {len(value)}"
    elif error_type == "extra_forbidden":
        fault = f"is not known here, got {shorten(value)}"
    elif error_type == "value_error":
        fault = f"{details['ctx']['error']}, got {shorten(value)}"
    else:
        message = details["msg"]
        fault = f"{message[0].lower()}{message[1:]}, got {shorten(value)}"
    return f'{shown_path(path)}, row {number}: "{field}" {fault}.'


def key_list(keys: Any) -> str:
    """Return the first names of a row's fields, quoted, for error messages."""
    return ", ".join(repr(str(key)[:40]) for key in list(keys)[:8])


def shorten(value: object) -> str:
    """Return a value as Python writes it, at most 60 characters of it."""
    text = repr(value[:100] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
