"""What a turn looks like, as values: made from the chat's state, drawn by `turn_view`. Knows no widgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from assistant.chat.actions import order_of
from assistant.chat.chat import Chat
from assistant.chat.conversation import Turn
from assistant.chat.heldout import is_match
from assistant.chat.records import Answered, AnswerKey, Side
from assistant.chat.tokens import character_offset, first_difference, have_same_tokens
from assistant.chat.words import describe_end

Status = Literal["waiting", "writing", "stopping", "ended", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerState:
    """One answer on the screen."""

    key: AnswerKey
    label: str
    """`tuned · demo/model`, or `A` while a blind choice is open."""
    status: Status
    text: str
    """As the model wrote it."""
    note: str
    is_match: bool | None = None
    """Whether it equals the reference. None without a reference, and while a blind choice is open."""
    marked: tuple[int, int] | None = None
    """Characters of the first token in which the two answers differ."""
    is_named: bool = False
    """Whether the label is shown: only if two models answer."""
    is_hidden: bool = False
    """Whether the label is a letter, because a blind choice is open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnState:
    """A turn on the screen."""

    number: int
    instruction: str
    input: str
    answers: tuple[AnswerState, ...]
    """One, or two from left to right."""
    reference: str | None = None
    """Shown if an answer does not match it."""
    correction: str | None = None
    nearest: str = ""
    """The nearest training row, in words."""
    hint: str = ""
    """What the person can do now with this turn."""


def turn_state(chat: Chat, turn: Turn, *, variant: int | None = None, nearest: str = "") -> TurnState:
    """Describe a turn. `variant` is the one to show; None: the one that counts, or the one that is being written."""
    sides = _sides(chat, turn)
    shown = {side: _shown_variant(chat, turn, side, variant) for side in sides}
    answers = {side: turn.answer(side, shown[side]) for side in sides}
    marks = _marks(chat, answers)
    states = tuple(
        _answer_state(chat, turn, side, shown[side], answers[side], marks.get(side), is_short=len(sides) > 1)
        for side in sides
    )
    states = tuple(
        _with_label(chat, turn, state, place, is_named=len(states) > 1) for place, state in enumerate(states)
    )
    reference = turn.question.reference
    is_open = any(state.status != "ended" for state in states)
    return TurnState(
        number=turn.number,
        instruction=turn.question.instruction,
        input=turn.question.input,
        answers=states,
        reference=None if reference is None or is_open or turn.is_blind else reference,
        correction=turn.correction,
        nearest=nearest,
        hint="← A is better · → B is better · ctrl+n neither" if turn.is_blind and not is_open else "",
    )


def _sides(chat: Chat, turn: Turn) -> list[Side]:
    """The sides that answer, from left to right. The base stands left, unless a blind choice says otherwise."""
    keys = {key.side for key in (*chat.open_answers, *chat.failures) if key.turn == turn.number}
    present = keys | {side for side, answers in turn.answers.items() if answers}
    return [side for side in order_of(turn) if side in present] or ["tuned"]


def _shown_variant(chat: Chat, turn: Turn, side: Side, wanted: int | None) -> int | None:
    """The variant to show of a side: what is being written comes first."""
    being_written = [key.variant for key in chat.open_answers if (key.turn, key.side) == (turn.number, side)]
    if wanted is None and being_written:
        return max(being_written)
    if wanted is not None and (wanted in being_written or turn.answer(side, wanted) is not None):
        return wanted
    answer = turn.answer(side)
    return None if answer is None else answer.variant


def _answer_state(
    chat: Chat,
    turn: Turn,
    side: Side,
    variant: int | None,
    answer: Answered | None,
    marked: tuple[int, int] | None,
    *,
    is_short: bool,
) -> AnswerState:
    key = AnswerKey(turn.number, side, variant or 0)
    if answer is not None:
        reference = turn.question.reference
        match = None if reference is None or turn.is_blind else is_match(answer.response, reference)
        note = _variant_words(turn, answer) + describe_end(answer, is_short=is_short)
        return AnswerState(
            key=key, label="", status="ended", text=answer.response, note=note, is_match=match, marked=marked
        )
    open_answer = chat.open_answers.get(key)
    if open_answer is None:
        text, note = chat.failures.get(key, ""), "not finished" if key in chat.failures else "no answer"
        return AnswerState(key=key, label="", status="failed", text=text, note=note)
    status: Status = "stopping" if open_answer.is_stopping else "writing" if open_answer.has_begun else "waiting"
    notes = {"stopping": "stopping …", "writing": "writing …", "waiting": "waiting …"}
    return AnswerState(key=key, label="", status=status, text=open_answer.text, note=notes[status])


def _variant_words(turn: Turn, answer: Answered) -> str:
    variants = [other.variant for other in turn.answers[answer.side]]
    if len(variants) < 2:
        return ""
    kept = " kept" if turn.kept_variant == answer.variant else ""
    return f"{variants.index(answer.variant) + 1}/{len(variants)}{kept} · "


def _with_label(chat: Chat, turn: Turn, state: AnswerState, place: int, *, is_named: bool) -> AnswerState:
    side = state.key.side
    label = f"{side} · {chat.names.get(side, '')}"
    note = state.note
    if turn.is_blind:
        label = "AB"[place]
        note = "" if state.status == "ended" else note  # its length and speed could tell which model it is
    elif turn.choice is not None:
        chosen = turn.choice.chosen
        label += " · chosen by you" if chosen is not None and chosen.side == side else ""
        label += " · a tie for you" if chosen is None else ""
    marked = None if turn.is_blind else state.marked
    return replace(state, label=label, note=note, marked=marked, is_hidden=turn.is_blind, is_named=is_named)


def _marks(chat: Chat, answers: dict[Side, Answered | None]) -> dict[Side, tuple[int, int]]:
    """The characters of the first token in which both answers differ, for each side."""
    tuned, base = answers.get("tuned"), answers.get("base")
    tuned_card, base_card = chat.card("tuned"), chat.card("base")
    if tuned is None or base is None or tuned_card is None or base_card is None:
        return {}
    if not have_same_tokens(tuned_card.tokenizer, base_card.tokenizer):
        return {}
    index = first_difference(tuned, base)
    if index is None:
        return {}
    tokenizer = tuned_card.tokenizer
    pairs: list[tuple[Side, Answered]] = [("tuned", tuned), ("base", base)]
    return {
        side: (character_offset(tokenizer, answer, index), character_offset(tokenizer, answer, index + 1))
        for side, answer in pairs
    }
