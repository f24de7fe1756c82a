"""Rows that one run got right and another did not. The comparison of two runs and the index of many list the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from assistant.settings import Frozen


class Task(Protocol):
    """What names a row to a person."""

    @property
    def row(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...


class ChangedRow(Frozen):
    """A row that one run got right and the other did not."""

    id: str
    row: int
    source: str
    instruction: str
    input: str
    first_score: float
    second_score: float

    def task(self, length: int = 200) -> str:
        """Return instruction and input in one line, each cut to `length` characters. Not escaped."""
        return f"{self.instruction[:length]} {self.input[:length]}"


class Changes(NamedTuple):
    """The rows that changed, the largest change first."""

    fixed: tuple[ChangedRow, ...] = ()
    """Rows that only the second run got right."""
    regressed: tuple[ChangedRow, ...] = ()
    """Rows that only the first run got right."""


def changed_rows(
    tasks: Mapping[str, Task], first: Mapping[str, float], second: Mapping[str, float], pass_mark: float
) -> Changes:
    """Compare the scores of two runs, by the id of the row. Rows without a score in both do not count."""
    changed = [
        ChangedRow(
            id=row_id,
            row=tasks[row_id].row,
            source=tasks[row_id].source,
            instruction=tasks[row_id].instruction,
            input=tasks[row_id].input,
            first_score=before,
            second_score=second[row_id],
        )
        for row_id, before in first.items()
        if row_id in second and (before < pass_mark) != (second[row_id] < pass_mark)
    ]
    changed.sort(key=lambda row: -abs(row.second_score - row.first_score))
    return Changes(
        fixed=tuple(row for row in changed if row.second_score > row.first_score),
        regressed=tuple(row for row in changed if row.second_score < row.first_score),
    )
