"""Row forms: what the fields of one row mean, and the examples that it becomes.

A row has one of these forms. Names in brackets may replace a field.

    instruction [prompt, question, query], input [context], output [completion, answer, response]
                                       Alpaca, Dolly, prompt and completion; "system" and "history" as in LLaMA-Factory
    messages                           chat messages: role and content
    conversations                      ShareGPT: from and value; "system" as in LLaMA-Factory
    chosen, rejected                   a preference, with an instruction, or as lists of messages as in TRL
    text                               plain text, for pretraining

Every row may have a "category", a "group" and "held_out". A row with "held_out": true is for tests alone; training
refuses it. Every row but plain text may have three fields that only evaluation uses:

    accept     a text or a list of texts: other right answers
    check      an object of demands that a program can check (`checks.Check`)
    rubric     a list of yes/no questions about the answer, for a judge

A row with a rubric or a check needs no output; it is then for evaluation only. Where "held_out" or one of these three
names holds something else, it is a field without a meaning, as any other.

A conversation of n exchanges becomes n examples, each with the earlier
exchanges as its history. GPT-2's templates have no place for a system message, so it opens the instruction after it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from assistant.dataset.checks import MAX_QUESTIONS, Check
from assistant.dataset.columns import Columns, Fields, is_empty
from assistant.dataset.conversations import Turn, exchanges_of, plain_messages
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.rows import FilledText, OptionalText, Row, Text, json_type_name, row_fault
from assistant.errors import DataError

ROW_FORMS = '"instruction" and "output", or "messages", or "conversations", or "text", or "chosen" and "rejected"'
OPENING_WORDS = 8
"""Length, in words, of a plain text's opening. Samples during training continue from the opening."""
_LABELS = frozenset({"category", "group"})
_MARKING = frozenset({"accept", "check", "rubric"})
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""What "held_out" may hold, in lower case. Tables have it as text."""
_FORM_FIELDS = {
    "messages": frozenset({"messages", "system"}),
    "conversations": frozenset({"conversations", "system"}),
    "preference": frozenset({"instruction", "input", "chosen", "rejected", "system", "history"}),
    "instruction": frozenset({"instruction", "input", "output", "system", "history"}),
    "text": frozenset({"text"}),
}
"""The fields that each form uses, besides the labels. Others are named as unused."""
_NO_OUTPUT = "?"
_JSON_CELLS = ("messages", "conversations", "history", *sorted(_MARKING))
"""Fields that a table holds as JSON text."""


@dataclass(slots=True)
class ParsedRow:
    """The examples of a row, and the names of its fields with content that no form uses."""

    examples: list[Example]
    unused: dict[str, Any] = field(default_factory=dict)


# --- validation ---------------------------------------------------------------------------------------------------


class _LabelledRow(BaseModel):
    """The fields that every row form may have."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)
    category: Annotated[Text, AfterValidator(sys.intern)] | None = None  # one text for all its rows saves memory
    group: Text | None = None
    accept: tuple[FilledText, ...] = ()
    check: Check | None = None
    held_out: bool = False
    rubric: Annotated[tuple[FilledText, ...], Field(max_length=MAX_QUESTIONS)] = ()


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


def examples_of(row: Row, source: str, columns: Columns | None = None, *, needs_output: bool = True) -> ParsedRow:
    """Validate one row and return its examples. Without `needs_output`, rows with an instruction may lack the output.

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
    known = _FORM_FIELDS[form] | _LABELS | (frozenset() if form == "text" else _MARKING & values.keys())
    known |= {"held_out"} & values.keys()
    unused = {
        fields.names[name]: value for name, value in fields.values.items() if name not in known and not is_empty(value)
    } | {name: value for name, value in fields.others.items() if not is_empty(value)}
    parsed = ParsedRow([], unused)
    reader = _READERS[form]
    may_lack_output = not needs_output or "rubric" in values or "check" in values
    if form == "instruction" and may_lack_output and not str(values.get("output") or "").strip():
        reader = _read_question
    try:
        parsed.examples = reader(values, source, row.number, unused)
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
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                prepared[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue  # the form's reader says what it expects
    if is_empty(prepared.get("history")):
        prepared.pop("history", None)
    if _MARKING & prepared.keys():
        _prepare_marking(prepared)
    if "held_out" in prepared:
        truth = _TRUTH.get(str(prepared.pop("held_out")).strip().casefold())
        prepared |= {} if truth is None else {"held_out": truth}
    return prepared


def _prepare_marking(values: dict[str, Any]) -> None:
    """Leave out `accept`, `check` and `rubric` where they hold nothing, or something that means nothing here."""
    if isinstance(values.get("accept"), str) and not is_empty(values["accept"]):
        values["accept"] = [values["accept"]]
    kinds: dict[str, type] = {"accept": list, "check": dict, "rubric": list}
    for name, kind in kinds.items():
        value = values.get(name)
        texts = value if isinstance(value, list) else []
        is_ours = isinstance(value, kind) and not any(isinstance(text, dict | list) for text in texts)
        if is_empty(value) or not is_ours:
            values.pop(name, None)


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


def _read_question(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    """Read a row without an output. Only the question is an example; the history is its context."""
    del unused  # the form has no inner fields
    row = _PromptRow.model_validate({name: value for name, value in values.items() if name != "output"})
    return [replace(_with_history(row, _NO_OUTPUT, source, number)[-1], output="")]


def _with_history(row: _PromptRow, output: str, source: str, number: int) -> list[Example]:
    """Return one example for each exchange of the history, and the row's own with its input."""
    turns = [Turn("system", row.system)] if row.system.strip() else []
    turns += [Turn(role, text) for pair in row.history for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns += [Turn("user", row.instruction), Turn("assistant", output)]
    exchanges = exchanges_of(turns, f"{source}, row {number}", "history")
    return _as_examples(exchanges, row, source, number, last_input=row.input)


def _read_completion(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    """Read a prompt and its completion as messages. Only the answers of the completion are learnt."""
    chat: dict[str, Any] = {"instruction": values.get("instruction"), "chosen": values.get("output"), "rejected": []}
    row, prompt, completion, _ = _chat_pair({**values, **chat}, unused)
    exchanges = exchanges_of([*prompt, *completion], f"{source}, row {number}", "completion")
    n_learnt = sum(turn.role == "assistant" for turn in completion)
    examples = _as_examples(exchanges, row, source, number, last_input=_optional(values.get("input")))
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
        lists[name] = plain_messages(value, "role", "content", unused, name) if value is not None else []
    row = _ChatPairRow.model_validate({**values, **lists})
    system = [Turn("system", row.system)] if row.system.strip() else []
    prompt, chosen, rejected = (
        [Turn(message.role, message.content) for message in messages]
        for messages in (row.instruction, row.chosen, row.rejected)
    )
    return row, system + prompt, chosen, rejected


def _read_preference(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    answers_are_lists = isinstance(values.get("chosen"), list) and isinstance(values.get("rejected"), list)
    prompt_is_list = isinstance(values.get("instruction"), list) and not isinstance(values.get("chosen"), list)
    if answers_are_lists or prompt_is_list:
        return _read_chat_preference(values, source, number, unused)
    row = _PreferenceRow.model_validate(values)
    (*_, example) = _with_history(row, row.chosen, source, number)
    return [replace(example, rejected=row.rejected)]


def _read_chat_preference(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    """Read TRL's conversational preferences. The prompt is a list of its own, or begins both answers, or both."""
    where = f"{source}, row {number}"
    row, prompt, chosen, rejected = _chat_pair(values, unused)
    if not rejected:
        raise DataError(f'{where}: "rejected" is missing or empty.')
    if chosen[:-1] != rejected[:-1] or {chosen[-1].role, rejected[-1].role} != {"assistant"}:
        raise DataError(
            f'{where}: expected "chosen" and "rejected" to differ only in the last message, the assistant\'s, '
            f"got conversations with an earlier difference. Cut both after the first answer that differs."
        )
    if chosen[-1] == rejected[-1]:
        raise DataError(f'{where}: "rejected" must be another answer than "chosen".')
    begun = chosen[:-1]
    turns = begun if prompt and begun[: len(prompt)] == prompt else prompt + begun
    if not any(turn.role == "user" for turn in turns):
        raise DataError(f'{where}: expected a user message in "prompt" or before the answers, got none.')
    exchanges = exchanges_of([*turns, chosen[-1]], where, "chosen")
    example = _as_examples(exchanges, row, source, number, last_input=_optional(values.get("input")))[-1]
    return [replace(example, rejected=rejected[-1].text)]


def _optional(value: object) -> str:
    return value if isinstance(value, str) else ""


def _read_text(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    del unused  # the form has no inner fields
    plain = _TextRow.model_validate({name: value for name, value in values.items() if name not in _MARKING})
    opening = re.match(rf"(?:\s*\S+){{1,{OPENING_WORDS}}}", plain.text)
    end = opening.end() if opening else len(plain.text)
    # The rest keeps its leading white space and may be empty.
    cut = Exchange(plain.text[:end], plain.text[end:])
    return [replace(example, is_text=True) for example in _as_examples([cut], plain, source, number, last_input="")]


# --- lists of messages --------------------------------------------------------------------------------------------


def _read_messages(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    plain = plain_messages(values["messages"], "role", "content", unused, "messages")
    row = _MessagesRow.model_validate({**values, "messages": plain})
    turns = [Turn(message.role, message.content) for message in row.messages]
    return _examples_of_turns(turns, row, source, number, "messages")


def _read_conversations(values: dict[str, Any], source: str, number: int, unused: dict[str, Any]) -> list[Example]:
    plain = plain_messages(values["conversations"], "from", "value", unused, "conversations")
    row = _ShareGptRow.model_validate({**values, "conversations": plain})
    turns = [Turn(turn.speaker, turn.value) for turn in row.conversations]
    return _examples_of_turns(turns, row, source, number, "conversations")


def _examples_of_turns(
    turns: Sequence[Turn], row: _MessagesRow | _ShareGptRow, source: str, number: int, field_name: str
) -> list[Example]:
    """Return one example per exchange. `field_name` names the field of the turns in messages."""
    system = [Turn("system", row.system)] if row.system.strip() else []
    exchanges = exchanges_of([*system, *turns], f"{source}, row {number}", field_name)
    return _as_examples(exchanges, row, source, number, last_input="")


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
            held_out=row.held_out,
            accept=row.accept if index == last else (),
            check=row.check if index == last else None,
            rubric=row.rubric if index == last else (),
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
