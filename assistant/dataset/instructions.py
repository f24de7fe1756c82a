"""Instruction files: reading, validating and writing them. Knows nothing of tokens or templates.

Five row forms are read, from a JSON list or from JSONL:

    {"instruction": "...", "input": "...", "output": "..."}                          Alpaca; input is optional
    {"messages": [{"role": "user", "content": "..."}, ...]}                          chat messages
    {"conversations": [{"from": "human", "value": "..."}, ...]}                      ShareGPT
    {"text": "..."}                                                                  plain text, for pretraining
    {"instruction": "...", "input": "...", "chosen": "...", "rejected": "..."}       a preference; also "prompt", as TRL

Each may have a "category", which reports and splits go by, and a "group": rows of one group are never parted by a
split. A conversation of n exchanges becomes n examples, each with the earlier exchanges as its history. A preference's
chosen answer is its output, so that whatever takes rows takes preferences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from assistant.errors import DataError
from assistant.files import shown_path

ROW_FORMS = '"instruction" and "output", or "messages", or "conversations", or "text", or "chosen" and "rejected"'
OPENING_WORDS = 8
"""Of a plain text: the part that samples are continued from."""


class Exchange(NamedTuple):
    """One earlier turn of a conversation: what the user wrote and what the assistant answered."""

    user: str
    assistant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One thing to learn: an instruction, its optional input, the reference answer, and where it stands."""

    instruction: str
    output: str
    input: str = ""
    rejected: str | None = None
    """The answer that is worse than `output`, of a preference."""
    history: tuple[Exchange, ...] = ()
    category: str | None = None
    group: str | None = None
    """Rows with the same one stay on one side of a split, as those about the same fact should."""
    is_text: bool = False
    """Plain text: `instruction` holds its opening words, and `output` all that follows, white space included."""
    source: str = ""
    """The file it was read from, as it was named."""
    row: int = 0
    """Row of that file, counted from 1; in JSONL the line."""

    @property
    def where(self) -> str:
        """`file, row N`, for messages."""
        return f"{self.source}, row {self.row}"

    @property
    def turns(self) -> tuple[Exchange, ...]:
        """The conversation up to and with this example."""
        return (*self.history, Exchange(self.instruction, self.output))

    def as_row(self) -> dict[str, Any]:
        """The example as a row that `read_examples` reads back: Alpaca, or `messages` where it has a history."""
        row: dict[str, Any]
        if self.is_text:
            row = {"text": self.instruction + self.output}
        elif self.rejected is not None:
            row = {"instruction": self.instruction, "input": self.input}
            row |= {"chosen": self.output, "rejected": self.rejected}
        elif not self.history:
            row = {"instruction": self.instruction, "input": self.input, "output": self.output}
        else:
            if self.input:
                raise ValueError(f"{self.where}: a conversation has no input field, got {self.input!r}.")
            row = {"messages": [m for turn in self.turns for m in _as_messages(turn)]}
        labels = {"category": self.category, "group": self.group}
        return row | {name: value for name, value in labels.items() if value is not None}


class Row(NamedTuple):
    """A row as the file holds it: its number, counted from 1, and the parsed JSON value."""

    number: int
    value: Any


# --- what a row may hold ------------------------------------------------------------------------------------------


def _clean_text(text: str) -> str:
    """Line ends become `\\n`; characters that no tokenizer can carry are refused."""
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
FilledText = Annotated[Text, AfterValidator(_not_blank)]
OptionalText = Annotated[Text, BeforeValidator(lambda value: "" if value is None else value)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    category: Text | None = None
    group: Text | None = None


class _AlpacaRow(_Row):
    instruction: FilledText
    input: OptionalText = ""
    output: FilledText


class _PreferenceRow(_Row):
    instruction: Annotated[FilledText, Field(validation_alias=AliasChoices("instruction", "prompt"))]
    input: OptionalText = ""
    chosen: FilledText
    rejected: FilledText

    @field_validator("rejected")
    @classmethod
    def _is_another(cls, text: str, info: ValidationInfo) -> str:
        if text == info.data.get("chosen"):
            raise ValueError('must be another answer than "chosen"')
        return text


class _TextRow(_Row):
    text: FilledText


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant"]
    content: FilledText


class _MessagesRow(_Row):
    messages: Annotated[list[_Message], Field(min_length=2)]


class _ShareGptTurn(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    speaker: Annotated[Literal["system", "human", "user", "gpt", "assistant"], Field(alias="from")]
    value: FilledText


class _ShareGptRow(_Row):
    conversations: Annotated[list[_ShareGptTurn], Field(min_length=2)]


# --- reading ------------------------------------------------------------------------------------------------------


def read_examples(*paths: str | Path) -> list[Example]:
    """Read and validate instruction files.

    Raises:
        DataError: naming every bad row of every file at once, by file, row number and field.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for path in map(Path, paths):
        for row in read_rows(path):
            try:
                examples += _examples_of(row, shown_path(path))
            except ValidationError as error:
                problems += [row_fault(path, row.number, detail) for detail in error.errors()]
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError(problems)
    if not examples:
        names = ", ".join(str(path) for path in paths)
        raise DataError(f"{names}: expected at least one row, got an empty list. Add rows with {ROW_FORMS}.")
    return examples


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSON list or a JSONL file, each with its number, not validated further.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or holds neither form.
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
            f"{error.msg[1:]}. Correct the file there; if it has one object a line, name it .jsonl."
        ) from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise DataError(f"{path}: expected JSON with text fields, got a value that cannot be read: {error}.") from error
    if isinstance(value, dict):
        keys = ", ".join(repr(key) for key in list(value)[:5])
        raise DataError(
            f"{path}: expected a list of rows, got one JSON object with the keys {keys or '(none)'}. "
            f"Put the rows into a list: [{{...}}, {{...}}]."
        )
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of rows, got {_kind(value)}.")
    return [Row(number, row) for number, row in enumerate(value, start=1)]


def _read_text(path: Path) -> str:
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


def _examples_of(row: Row, source: str) -> list[Example]:
    """The examples of one row. Raises pydantic's ValidationError, or DataError for a wrong order of turns."""
    value = row.value
    if isinstance(value, dict) and "messages" in value:
        messages = _MessagesRow.model_validate(value)
        turns = [(message.role, message.content) for message in messages.messages]
        return _examples_of_turns(turns, messages, source, row.number, "messages")
    if isinstance(value, dict) and "conversations" in value:
        shared = _ShareGptRow.model_validate(value)
        roles = {"human": "user", "gpt": "assistant"}
        shared_turns = [(roles.get(turn.speaker, turn.speaker), turn.value) for turn in shared.conversations]
        return _examples_of_turns(shared_turns, shared, source, row.number, "conversations")
    if isinstance(value, dict) and ("chosen" in value or "rejected" in value):
        preference = _PreferenceRow.model_validate(value)
        fields = preference.model_dump(exclude={"chosen"})
        return [Example(**fields, output=preference.chosen, source=source, row=row.number)]
    if isinstance(value, dict) and "text" in value and "instruction" not in value:
        plain = _TextRow.model_validate(value)
        opening, rest = _cut_opening(plain.text)
        labels = plain.model_dump(exclude={"text"})
        return [Example(instruction=opening, output=rest, is_text=True, **labels, source=source, row=row.number)]
    if not isinstance(value, dict):
        raise DataError(f"{source}, row {row.number}: expected an object with {ROW_FORMS}, got {_kind(value)}.")
    alpaca = _AlpacaRow.model_validate(value)
    return [Example(**alpaca.model_dump(), source=source, row=row.number)]


def _cut_opening(text: str) -> tuple[str, str]:
    """The opening words of a plain text and the rest, with the white space between them; the rest may be empty."""
    opening = re.match(rf"(?:\s*\S+){{1,{OPENING_WORDS}}}", text)
    end = opening.end() if opening else len(text)
    return text[:end], text[end:]


def _examples_of_turns(
    turns: Sequence[tuple[str, str]], row: _Row, source: str, number: int, field: str
) -> list[Example]:
    system = ""
    if turns[0][0] == "system":
        # No GPT-2 template has a place for it, so it opens the first instruction.
        system, turns = turns[0][1] + "\n\n", turns[1:]
    roles = [role for role, _ in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DataError(
            f'{source}, row {number}: "{field}" must be user and assistant in turn, ending with assistant '
            f"(a system message may stand first), got {', '.join(roles) or 'only a system message'}."
        )
    texts = [text for _, text in turns]
    exchanges = [Exchange(texts[i], texts[i + 1]) for i in range(0, len(texts), 2)]
    exchanges[0] = Exchange(system + exchanges[0].user, exchanges[0].assistant)
    return [
        Example(
            instruction=exchange.user,
            output=exchange.assistant,
            history=tuple(exchanges[:index]),
            category=row.category,
            group=row.group,
            source=source,
            row=number,
        )
        for index, exchange in enumerate(exchanges)
    ]


def _as_messages(turn: Exchange) -> list[dict[str, str]]:
    return [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


def row_fault(path: Path, number: int, detail: Any) -> str:
    """One of pydantic's findings in a row as a sentence that names file, row and field."""
    field = ".".join(str(part) for part in detail["loc"]) or "row"
    kind, value = detail["type"], detail["input"]
    if kind == "missing":
        found = ", ".join(repr(str(key)[:40]) for key in list(value)[:8]) if isinstance(value, dict) else ""
        wanted = f"is missing (the row has {found or 'no fields'})"
    elif kind in {"string_type", "list_type", "model_type", "model_attributes_type"}:
        expected = "a list" if kind == "list_type" else "an object" if "model" in kind else "text"
        wanted = f"must be {expected}, got {_kind(value)}"
    elif kind == "value_error":
        wanted = f"{detail['ctx']['error']}, got {_shorten(value)}"
    else:
        message = detail["msg"]
        wanted = f"{message[0].lower()}{message[1:]}, got {_shorten(value)}"
    return f'{shown_path(path)}, row {number}: "{field}" {wanted}.'


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- writing ------------------------------------------------------------------------------------------------------


def dump_rows(examples: Sequence[Example]) -> str:
    """The examples as the text of a JSON list that `read_examples` reads back.

    The exchanges of one conversation are written as one row: its longest example holds them all.
    """
    held = {(e.source, e.row, e.history[:length]) for e in examples for length in range(1, len(e.history) + 1)}
    rows = [e.as_row() for e in examples if (e.source, e.row, e.turns) not in held]
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
