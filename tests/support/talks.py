"""Conversations for tests of what is saved and exported."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from assistant.chat.records import Answered, AnswerKey, Asked, Chosen, Corrected, Opened, Record, Side
from assistant.decoding.reply import StopReason
from assistant.settings import GenerationSettings

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
OPENED = Opened(at=START, model="/models/mine", base="/models/base")


def at(seconds: int) -> datetime:
    """Return a time after the start."""
    return START + timedelta(seconds=seconds)


def asked(turn: int, instruction: str = "Say hi.", **more: Any) -> Asked:
    """Return a question."""
    return Asked(at=at(turn), turn=turn, instruction=instruction, **more)


def answered(
    turn: int, response: str = "Hi.", *, side: Side = "tuned", variant: int = 0, stop: StopReason = "eos", **more: Any
) -> Answered:
    """Return an answer."""
    return Answered(
        at=at(turn),
        turn=turn,
        side=side,
        variant=variant,
        response=response,
        token_ids=tuple(range(len(response) % 7)),
        stop_reason=stop,
        seconds=0.5,
        settings=GenerationSettings(seed=turn),
        **more,
    )


def chosen(turn: int, better: Side | None, *, variant: int = 0) -> Chosen:
    """Return a choice between the two sides, or a tie."""
    if better is None:
        return Chosen(at=at(turn), turn=turn, chosen=None, rejected=None, blind=True)
    worse: Side = "base" if better == "tuned" else "tuned"
    keys = (AnswerKey(turn, better, variant), AnswerKey(turn, worse, variant))
    return Chosen(at=at(turn), turn=turn, chosen=keys[0], rejected=keys[1], blind=True)


def corrected(turn: int, text: str) -> Corrected:
    """Return a correction."""
    return Corrected(at=at(turn), turn=turn, text=text)


def talk(n_turns: int, *, words: str = "word ") -> list[Record]:
    """Return the records of a conversation with two answers a turn."""
    records: list[Record] = [OPENED]
    for turn in range(n_turns):
        records += [asked(turn, f"Question {turn}?"), answered(turn, words * 20), answered(turn, words, side="base")]
    return records
