"""Reads, validates and writes instruction files. Does not know about tokens or templates.

A file is a JSON list or JSONL. Its rows have one of five forms:

    {"instruction": "...", "input": "...", "output": "..."}                          Alpaca; input is optional
    {"messages": [{"role": "user", "content": "..."}, ...]}                          chat messages
    {"conversations": [{"from": "human", "value": "..."}, ...]}                      ShareGPT
    {"text": "..."}                                                                  plain text, for pretraining
    {"instruction": "...", "input": "...", "chosen": "...", "rejected": "..."}       a preference; or "prompt", as TRL

Every row may have a "category" and a "group". Splits and reports use the category. Rows that share a group always land
in the same split. A conversation of n exchanges becomes n examples, each with the earlier exchanges as its history. The
chosen answer of a preference becomes `output`, so that all code for examples also works for preferences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from assistant.dataset.rows import FilledText, OptionalText, Row, Text, json_type_name, read_rows, row_fault
from assistant.errors import DataError
from assistant.files import shown_path

ROW_FORMS = '"instruction" and "output", or "messages", or "conversations", or "text", or "chosen" and "rejected"'
OPENING_WORDS = 8
"""Length, in words, of a plain text's opening. Samples during training continue from the opening."""


class Exchange(NamedTuple):
    """One turn of a conversation: the user's message and the assistant's answer."""

    user: str
    assistant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training example: an instruction, its optional input and the reference answer, with its origin."""

    instruction: str
    output: str
    input: str = ""
    rejected: str | None = None
    """The rejected answer of a preference; `output` is the chosen one."""
    history: tuple[Exchange, ...] = ()
    category: str | None = None
    group: str | None = None
    """Examples that share a group, for instance all about one fact, always land in the same split."""
    is_text: bool = False
    """Plain text. `instruction` holds its opening words, and `output` the rest with its leading white space."""
    source: str = ""
    """Path of the file, as the user gave it."""
    row: int = 0
    """Number of the row in that file, counted from 1. In JSONL it is the line number."""

    @property
    def where(self) -> str:
        """The origin as `file, row N`, for messages."""
        return f"{self.source}, row {self.row}"

    @property
    def turns(self) -> tuple[Exchange, ...]:
        """The conversation up to and including this example."""
        return (*self.history, Exchange(self.instruction, self.output))

    def as_row(self) -> dict[str, Any]:
        """Return the example as a row that `read_examples` can read.

        An example with a history becomes a row with `messages`.

        Raises:
            ValueError: the example has both a history and an input, which no row form can hold.
        """
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
            row = {"messages": [message for turn in self.turns for message in _as_messages(turn)]}
        labels = {"category": self.category, "group": self.group}
        return row | {name: value for name, value in labels.items() if value is not None}


# --- row forms ----------------------------------------------------------------------------------------------------


class _LabelledRow(BaseModel):
    """The fields that every row form may have."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    category: Text | None = None
    group: Text | None = None


class _AlpacaRow(_LabelledRow):
    instruction: FilledText
    input: OptionalText = ""
    output: FilledText


class _PreferenceRow(_LabelledRow):
    instruction: Annotated[FilledText, Field(validation_alias=AliasChoices("instruction", "prompt"))]
    input: OptionalText = ""
    chosen: FilledText
    rejected: FilledText

    @field_validator("rejected")
    @classmethod
    def _differs_from_chosen(cls, text: str, info: ValidationInfo) -> str:
        if text == info.data.get("chosen"):
            raise ValueError('must be another answer than "chosen"')
        return text


class _TextRow(_LabelledRow):
    text: FilledText


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant"]
    content: FilledText


class _MessagesRow(_LabelledRow):
    messages: Annotated[list[_Message], Field(min_length=2)]


class _ShareGptTurn(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    speaker: Annotated[Literal["system", "human", "user", "gpt", "assistant"], Field(alias="from")]
    value: FilledText


class _ShareGptRow(_LabelledRow):
    conversations: Annotated[list[_ShareGptTurn], Field(min_length=2)]


# --- reading ------------------------------------------------------------------------------------------------------


def read_examples(*paths: str | Path) -> list[Example]:
    """Read and validate instruction files.

    Raises:
        DataError: a file is unreadable, or rows are invalid. `problems` names every invalid row of all files, by file,
            row number and field.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for path in map(Path, paths):
        for row in read_rows(path):
            try:
                examples += _examples_of(row, shown_path(path))
            except ValidationError as error:
                problems += [row_fault(path, row.number, details) for details in error.errors()]
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError(problems)
    if not examples:
        names = ", ".join(str(path) for path in paths)
        raise DataError(f"{names}: expected at least one row, got an empty list. Add rows with {ROW_FORMS}.")
    return examples


def _examples_of(row: Row, source: str) -> list[Example]:
    """Validate one row and return its examples.

    Raises:
        ValidationError: a field is missing or invalid.
        DataError: the row is not an object, or its turns are in a wrong order.
    """
    value = row.value
    if not isinstance(value, dict):
        kind = json_type_name(value)
        raise DataError(f"{source}, row {row.number}: expected an object with {ROW_FORMS}, got {kind}.")
    if "messages" in value:
        chat = _MessagesRow.model_validate(value)
        turns: list[tuple[str, str]] = [(message.role, message.content) for message in chat.messages]
        return _examples_of_turns(turns, chat, source, row.number, "messages")
    if "conversations" in value:
        sharegpt = _ShareGptRow.model_validate(value)
        roles = {"human": "user", "gpt": "assistant"}
        turns = [(roles.get(turn.speaker, turn.speaker), turn.value) for turn in sharegpt.conversations]
        return _examples_of_turns(turns, sharegpt, source, row.number, "conversations")
    if "chosen" in value or "rejected" in value:
        preference = _PreferenceRow.model_validate(value)
        fields = preference.model_dump(exclude={"chosen"})
        return [Example(**fields, output=preference.chosen, source=source, row=row.number)]
    if "text" in value and "instruction" not in value:
        plain = _TextRow.model_validate(value)
        opening, rest = _cut_opening(plain.text)
        labels = plain.model_dump(exclude={"text"})
        return [Example(instruction=opening, output=rest, is_text=True, **labels, source=source, row=row.number)]
    alpaca = _AlpacaRow.model_validate(value)
    return [Example(**alpaca.model_dump(), source=source, row=row.number)]


def _cut_opening(text: str) -> tuple[str, str]:
    """Cut a plain text after its opening words. The rest keeps its leading white space and may be empty."""
    opening = re.match(rf"(?:\s*\S+){{1,{OPENING_WORDS}}}", text)
    end = opening.end() if opening else len(text)
    return text[:end], text[end:]


def _examples_of_turns(
    turns: Sequence[tuple[str, str]], row: _LabelledRow, source: str, number: int, field: str
) -> list[Example]:
    """Return one example per exchange. `turns` are pairs of role and text; `field` names their field in messages."""
    turns = _join_neighbours(turns)
    system = ""
    if turns[0][0] == "system":
        # GPT-2's templates have no place for a system message, so it precedes the first instruction.
        system, turns = turns[0][1] + "\n\n", turns[1:]
    roles = [role for role, _ in turns]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise DataError(
            f'{source}, row {number}: "{field}" must be user and assistant in turn, ending with assistant '
            f"(a system message may come first), got {', '.join(roles) or 'only a system message'}."
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


def _join_neighbours(turns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Join neighbours of one role with a blank line, as the chat templates and Ollama do."""
    joined: list[tuple[str, str]] = []
    for role, text in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{text}")
        else:
            joined.append((role, text))
    return joined


def _as_messages(turn: Exchange) -> list[dict[str, str]]:
    return [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]


# --- writing ------------------------------------------------------------------------------------------------------


def dump_rows(examples: Sequence[Example]) -> str:
    """Return the examples as a JSON list that `read_examples` can read.

    A conversation becomes one row. Its longest example holds all exchanges, so its other examples are omitted.
    """
    covered = {(e.source, e.row, e.history[:length]) for e in examples for length in range(1, len(e.history) + 1)}
    rows = [e.as_row() for e in examples if (e.source, e.row, e.turns) not in covered]
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
