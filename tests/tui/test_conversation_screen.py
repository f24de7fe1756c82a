"""What a resumed conversation shows, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from assistant.chat.conversation import from_records
from assistant.chat.records import Asked, Record, RowRun
from assistant.tui.conversation_screen import items_of

BEGIN = datetime(2026, 11, 28, tzinfo=UTC)


def asked(turn: int, minute: int) -> Record:
    return Asked(at=BEGIN + timedelta(minutes=minute), turn=turn, instruction=f"Question {turn}.")


def answered(run: int, row: str, minute: int) -> Record:
    at = BEGIN + timedelta(minutes=minute)
    return RowRun(at=at, run=run, row=row, instruction="Row.", reference="yes", tuned="yes", base="no")


def test_turns_and_runs_stand_in_the_order_in_which_they_happened() -> None:
    records = [asked(0, 1), answered(0, "a", 2), asked(1, 3), answered(0, "b", 4), answered(1, "c", 5), asked(2, 6)]
    assert [tuple(item) for item in items_of(from_records(records))] == [
        ("turn", 0),
        ("run", 0),
        ("turn", 1),
        ("run", 1),
        ("turn", 2),
    ]
