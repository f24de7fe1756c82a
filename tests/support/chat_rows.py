"""Conversations about held-out rows, made from a few lines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from assistant.chat.conversation import Conversation, from_records
from assistant.chat.records import Answered, Asked, Record, RowRun, Side
from assistant.model.config import ModelInfo, TemplateRecord
from assistant.settings import FinetuneSettings, GenerationSettings

RIGHT, WRONG = "yes", "no"
_START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: int) -> datetime:
    """Return a time."""
    return _START + timedelta(seconds=second)


def asked(turn: int, **fields: Any) -> Asked:
    """Return a question. With `row`, it is held out and `yes` is its reference."""
    reference = RIGHT if "row" in fields else None
    defaults = {"at": at(10 * turn), "turn": turn, "instruction": f"q{turn}", "reference": reference}
    return Asked.model_validate(defaults | fields)


def answered(turn: int, side: Side, response: str, **fields: Any) -> Answered:
    """Return an ended answer."""
    defaults = {"at": at(10 * turn + 1), "variant": 0, "token_ids": (1,), "stop_reason": "eos", "seconds": 0.1}
    own = {"turn": turn, "side": side, "response": response, "settings": GenerationSettings()}
    return Answered.model_validate(defaults | own | fields)


def run_row(row: str, tuned: str, base: str | None, *, second: int = 0, reference: str = RIGHT) -> RowRun:
    """Return a row of a background run."""
    return RowRun(at=at(second), run=0, row=row, instruction=row, reference=reference, tuned=tuned, base=base)


def run_of(pairs: Iterable[tuple[bool, bool]]) -> Conversation:
    """Return a conversation with a background run: whether the tuned model and its base are right, row by row."""
    words = {True: RIGHT, False: WRONG}
    records: list[Record] = [
        run_row(f"row {number}", words[tuned], words[base], second=number) for number, (tuned, base) in enumerate(pairs)
    ]
    return from_records(records)


def info_of(fingerprint: str, **fields: Any) -> ModelInfo:
    """Return the record of a model that was trained on data with this fingerprint."""
    defaults: dict[str, Any] = {
        "base_model": "base",
        "template": TemplateRecord(name="alpaca", fingerprint="f", texts={}),
        "finetune": FinetuneSettings(),
        "data_files": ("rows.json",),
        "split_method": "grouped",
        "split_seed": 123,
        "rows": {},
        "metrics": {},
        "versions": {},
    }
    return ModelInfo(data_fingerprint=fingerprint, **(defaults | fields))
