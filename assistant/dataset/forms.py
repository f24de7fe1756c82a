"""Row forms: what the fields of one row mean, and the examples that it becomes.

A row has one of these forms. Names in brackets may replace a field.

    instruction [prompt, question, query], input [context], output [completion, answer, response]
                                       Alpaca, Dolly, prompt and completion; "system" and "history" as in LLaMA-Factory
    messages                           chat messages: role and content
    conversations                      ShareGPT: from and value; "system" as in LLaMA-Factory
    chosen, rejected                   a preference, with an instruction, or as lists of messages as in TRL
    text                               plain text, for pretraining

Every row may have a "category" and a "group". A conversation of n exchanges becomes n examples, each with the earlier
exchanges as its history. GPT-2's templates have no place for a system message, so it opens the instruction after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from assistant.dataset.columns import Columns, Fields, is_empty
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.rows import FilledText, OptionalText, Row, Text, json_type_name, row_fault
from assistant.errors import DataError

ROW_FORMS = '"instruction" and "output", or "messages", or "conversations", or "text", or "chosen" and "rejected"'
OPENING_WORDS = 8
"""Length, in words, of a plain text's opening. Samples during training continue from the opening."""
_TOOL_ROLES = frozenset({"tool", "function", "function_call", "tool_call", "observation", "ipython"})
_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}
_LABELS = frozenset({"category", "group"})
_FORM_FIELDS = {
    "messages": frozenset({"messages", "system"}),
    "conversations": frozenset({"conversations", "system"}),
    "preference": frozenset({"instruction", "input", "chosen", "rejected", "system", "history"}),
    "instruction": frozenset({"instruction", "input", "output", "system", "history"}),
    "text": frozenset({"text"}),
}
"""The fields that each form uses, besides the labels. Others are named as unused."""
_JSON_CELLS = ("messages", "conversations", "history")
"""Fields that a table holds as JSON text."""


class UnusableRow(Exception):
    """A sound row that holds more than text, such as tool calls. The argument is what it holds."""


class Turn(NamedTuple):
    """One message of a conversation. `role` is system, user or assistant."""

    role: str
    text: str


@dataclass(slots=True)
class ParsedRow:
    """The examples of a row, and the names of its fields with content that no form uses."""

    examples: list[Example]
    unused: dict[str, Any] = field(default_factory=dict)


# --- validation ---------------------------------------------------------------------------------------------------


class _LabelledRow(BaseModel):
    """The fields that every row form may have."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    category: Text | None = None
    group: Text | None = None


class _PromptRow(_LabelledRow):
    instruction: FilledText
    input: OptionalText = ""
    system: OptionalText = ""
    history: list[tuple[FilledText, FilledText]] = []


class _AlpacaRow(_PromptRow):
    output: FilledText


class _PreferenceRow(_PromptRow):
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
    system: OptionalText = ""


class _ShareGptTurn(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    speaker: Annotated[Literal["system", "user", "assistant"], Field(alias="from")]
    value: FilledText


class _ShareGptRow(_LabelledRow):
    conversations: Annotated[list[_ShareGptTurn], Field(min_length=2)]
    system: OptionalText = ""


class _ChatPairRow(_LabelledRow):
    """A preference or a prompt and its completion, as lists of messages."""

    instruction: list[_Message] = []
    chosen: Annotated[list[_Message], Field(min_length=1)]
    rejected: list[_Message] = []
    system: OptionalText = ""


# --- rows to examples ---------------------------------------------------------------------------------------------


def examples_of(row: Row, source: str, columns: Columns | None = None) -> ParsedRow:
    """Validate one row and return its examples.

    Raises:
        DataError: the row has no known form, or a field is missing or invalid.
        UnusableRow: the row is sound but holds more than text.
    """
    where = f"{source}, row {row.number}"
    if not isinstance(row.value, dict):
        raise DataError(f"{where}: expected an object with {ROW_FORMS}, got {json_type_name(row.value)}.")
    fields = (columns or Columns()).fields_of(row.value)
    form = _form_of(fields.values)
    values = _prepared(fields.values)
    unused = {
        fields.names[name]: value
        for name, value in fields.values.items()
        if name not in _FORM_FIELDS[form] | _LABELS and not is_empty(value)
    } | {name: value for name, value in fields.others.items() if not is_empty(value)}
    parsed = ParsedRow([], unused)
    try:
        parsed.examples = _READERS[form](values, source, row.number, unused)
    except ValidationError as error:
        faults = [_fault(source, row, fields, details) for details in error.errors()]
        if fields.others and any(details["type"] == "missing" for details in error.errors()):
            faults[-1] += " If other fields hold it, name them: --columns instruction=FIELD,output=FIELD."
        raise DataError(faults) from error
    return parsed


def _form_of(values: Mapping[str, Any]) -> str:
    """Return the form of a row: by the fields that hold something, else by those that are there."""
    filled = {name for name, value in values.items() if not is_empty(value)}
    for names in (filled, set(values)):
        for name in ("messages", "conversations"):
            if name in names:
                return name
        if names & {"chosen", "rejected"}:
            return "preference"
        if names & {"instruction", "output"}:
            return "instruction"
        if "text" in names:
            return "text"
    return "instruction"


def _prepared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the JSON cells of a table parsed, and labels without content left out."""
    prepared = {name: value for name, value in values.items() if name not in _LABELS or not is_empty(value)}
    for name in _JSON_CELLS:
        value = prepared.get(name)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                prepared[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue  # the form's reader says what it expects
    if is_empty(prepared.get("history")):
        prepared.pop("history", None)
    return prepared


def _fault(source: str, row: Row, fields: Fields, details: Any) -> str:
    """Return the sentence for one of pydantic's error details, with the row's own names."""
    first, *rest = details["loc"] or ("row",)
    own = {"loc": (fields.names.get(str(first), first), *rest)}
    if details["type"] == "missing" and not rest:
        own["input"] = row.value
    return row_fault(Path(source), row.number, {**details, **own})


def _read_instruction(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    if isinstance(values.get("instruction"), list) or isinstance(values.get("output"), list):
        return _read_completion(values, source, number, unused)
    row = _AlpacaRow.model_validate(values)
    return _with_history(row, row.output, source, number)


def _with_history(row: _PromptRow, output: str, source: str, number: int) -> list[Example]:
    """Return one example for each exchange of the history, and the row's own with its input."""
    turns = [Turn("system", row.system)] if row.system.strip() else []
    turns += [Turn(role, text) for pair in row.history for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns += [Turn("user", row.instruction), Turn("assistant", output)]
    exchanges = _exchanges(turns, f"{source}, row {number}", "history")
    return _as_examples(exchanges, row, source, number, last_input=row.input)


def _read_completion(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    """Read a prompt and its completion as messages. Only the answers of the completion are learnt."""
    chat: dict[str, Any] = {"instruction": values.get("instruction"), "chosen": values.get("output"), "rejected": []}
    row, prompt, completion, _ = _chat_pair({**values, **chat}, unused)
    exchanges = _exchanges([*prompt, *completion], f"{source}, row {number}", "completion")
    n_learnt = sum(turn.role == "assistant" for turn in completion)
    examples = _as_examples(exchanges, row, source, number, last_input="")
    return examples[-n_learnt:] if n_learnt else examples


def _chat_pair(
    values: dict[str, Any], unused: dict[str, Any]
) -> tuple[_ChatPairRow, list[Turn], list[Turn], list[Turn]]:
    """Return the row, and the turns of its prompt, chosen and rejected messages. A text is one message."""
    lists = {}
    for name, role in (("instruction", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
        value = values.get(name)
        if isinstance(value, str) and value.strip():
            value = [{"role": role, "content": value}]
        lists[name] = _plain_messages(value, "role", "content", unused, name) if value is not None else []
    row = _ChatPairRow.model_validate({**values, **lists})
    system = [Turn("system", row.system)] if row.system.strip() else []
    prompt, chosen, rejected = (
        [Turn(message.role, message.content) for message in messages]
        for messages in (row.instruction, row.chosen, row.rejected)
    )
    return row, system + prompt, chosen, rejected


def _read_preference(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    if not (isinstance(values.get("chosen"), list) and isinstance(values.get("rejected"), list)):
        if isinstance(values.get("instruction"), list) and not isinstance(values.get("chosen"), list):
            return _read_chat_preference(values, source, number, unused)
        row = _PreferenceRow.model_validate(values)
        (*_, example) = _with_history(row, row.chosen, source, number)
        return [_rejecting(example, row.rejected)]
    return _read_chat_preference(values, source, number, unused)


def _read_chat_preference(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    """Read TRL's conversational preferences. The prompt is a list of its own, or begins both answers, or both."""
    where = f"{source}, row {number}"
    row, prompt, chosen, rejected = _chat_pair(values, unused)
    if not rejected:
        raise DataError(f'{where}: "rejected" is missing or empty.')
    if chosen[:-1] != rejected[:-1] or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        raise DataError(
            f'{where}: expected "chosen" and "rejected" to differ only in the last message, the assistant\'s, '
            f"got conversations that part earlier. Cut them at the first answer that differs."
        )
    if chosen[-1] == rejected[-1]:
        raise DataError(f'{where}: "rejected" must be another answer than "chosen".')
    begun = chosen[:-1]
    turns = begun if prompt and begun[: len(prompt)] == prompt else prompt + begun
    if not any(turn.role == "user" for turn in turns):
        raise DataError(f'{where}: expected a user message in "prompt" or before the answers, got none.')
    exchanges = _exchanges([*turns, chosen[-1]], where, "chosen")
    example = _as_examples(exchanges, row, source, number, last_input=_optional(values.get("input")))[-1]
    return [_rejecting(example, rejected[-1].text)]


def _optional(value: object) -> str:
    return value if isinstance(value, str) else ""


def _rejecting(example: Example, rejected: str) -> Example:
    return Example(
        instruction=example.instruction, output=example.output, input=example.input, rejected=rejected,
        history=example.history, category=example.category, group=example.group, source=example.source,
        row=example.row,
    )  # fmt: skip


def _read_text(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    del unused  # the form has no inner fields
    plain = _TextRow.model_validate(values)
    opening, rest = _cut_opening(plain.text)
    labels = plain.model_dump(exclude={"text"})
    return [Example(instruction=opening, output=rest, is_text=True, **labels, source=source, row=number)]


def _cut_opening(text: str) -> tuple[str, str]:
    """Cut a plain text after its opening words. The rest keeps its leading white space and may be empty."""
    opening = re.match(rf"(?:\s*\S+){{1,{OPENING_WORDS}}}", text)
    end = opening.end() if opening else len(text)
    return text[:end], text[end:]


# --- conversations ------------------------------------------------------------------------------------------------


def _read_messages(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    plain = _plain_messages(values["messages"], "role", "content", unused, "messages")
    row = _MessagesRow.model_validate({**values, "messages": plain})
    turns = [Turn(message.role, message.content) for message in row.messages]
    return _examples_of_turns(turns, row, source, number, "messages")


def _read_conversations(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    plain = _plain_messages(values["conversations"], "from", "value", unused, "conversations")
    row = _ShareGptRow.model_validate({**values, "conversations": plain})
    turns = [Turn(turn.speaker, turn.value) for turn in row.conversations]
    return _examples_of_turns(turns, row, source, number, "conversations")


def _plain_messages(value: Any, role_key: str, text_key: str, unused: dict[str, Any], field_name: str) -> Any:
    """Return messages with the roles and keys that the models expect, and their content as text.

    Names in `unused` what else a message holds. What is no list of objects is left for the model to refuse.

    Raises:
        UnusableRow: a message calls a tool, is one's answer, or has content that is not text.
    """
    if not isinstance(value, list):
        return value
    plain: list[Any] = []
    for message in value:
        if not isinstance(message, dict):
            plain.append(message)
            continue
        known = {name: next((n for n in (name, other) if n in message), name) for name, other in _EITHER[role_key]}
        role, content = message.get(known[role_key]), message.get(known[text_key])
        if role in _TOOL_ROLES or not is_empty(message.get("tool_calls")) or message.get("function_call"):
            raise UnusableRow("tool calls")
        if isinstance(content, list):
            content = _joined_parts(content)
        for name, inner in message.items():
            if name not in known.values() and not is_empty(inner):
                unused[f"{field_name}.{name}"] = inner
        changed = {known_name: part for known_name, part in ((role_key, role), (text_key, content)) if part is not None}
        if text_key not in changed and known[text_key] in message:
            changed[text_key] = None
        if isinstance(role, str):
            changed[role_key] = _ROLES.get(role, role)
        plain.append(changed)
    return plain


_EITHER = {
    "role": (("role", "from"), ("content", "value")),
    "from": (("from", "role"), ("value", "content")),
}
"""The keys of a message, and those that the other form calls them."""


def _joined_parts(parts: list[Any]) -> Any:
    """Return the text of content parts. Raises UnusableRow if one is not text."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") in _TEXT_PARTS:
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else None
            raise UnusableRow(f"parts that are not text ({str(kind)[:40]})" if kind else "parts that are not text")
    return "".join(texts)


_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def _examples_of_turns(
    turns: Sequence[Turn], row: _MessagesRow | _ShareGptRow, source: str, number: int, field_name: str
) -> list[Example]:
    """Return one example per exchange. `field_name` names the field of the turns in messages."""
    system = [Turn("system", row.system)] if row.system.strip() else []
    exchanges = _exchanges([*system, *turns], f"{source}, row {number}", field_name)
    return _as_examples(exchanges, row, source, number, last_input="")


def _exchanges(turns: Sequence[Turn], where: str, field_name: str) -> list[Exchange]:
    """Return the exchanges of a conversation. A system message opens the user's message after it.

    Neighbours of one role are joined with a blank line, as the chat templates and Ollama do.

    Raises:
        DataError: the turns are not user and assistant in turn.
    """
    turns = _join_neighbours(turns)
    roles = [turn.role for turn in turns if turn.role != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) or turns[-1].role == "system":
        if turns and roles and turns[-1].role == "system":
            roles.append("system")
        raise DataError(
            f'{where}: "{field_name}" must be user and assistant in turn, ending with assistant '
            f"(a system message may come first), got {', '.join(roles) or 'only a system message'}."
        )
    exchanges: list[Exchange] = []
    texts: list[str] = []
    for turn in turns:
        if turn.role == "assistant":
            exchanges.append(Exchange("\n\n".join(texts), turn.text))
            texts = []
        else:
            texts.append(turn.text)
    return exchanges


def _join_neighbours(turns: Sequence[Turn]) -> list[Turn]:
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Turn(turn.role, f"{joined[-1].text}\n\n{turn.text}")
        else:
            joined.append(turn)
    return joined


def _as_examples(
    exchanges: Sequence[Exchange], row: _LabelledRow, source: str, number: int, *, last_input: str
) -> list[Example]:
    last = len(exchanges) - 1
    return [
        Example(
            instruction=exchange.user,
            output=exchange.assistant,
            input=last_input if index == last else "",
            history=tuple(exchanges[:index]),
            category=row.category,
            group=row.group,
            source=source,
            row=number,
        )
        for index, exchange in enumerate(exchanges)
    ]


_READERS = {
    "messages": _read_messages,
    "conversations": _read_conversations,
    "preference": _read_preference,
    "instruction": _read_instruction,
    "text": _read_text,
}
