"""What stands between turns: problems with the next step, and runs of held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from assistant.chat.heldout import is_match
from assistant.chat.records import RowRun
from assistant.escape import displayable, one_line

SHOWN_ROWS = 20
"""Rows of a run that stay on the screen, the newest ones."""


class ProblemCard(Static):
    """A problem: what went wrong, and what to do next."""

    def __init__(self, problem: str, advice: str) -> None:
        # Content.assemble does not parse markup, so brackets in an error message stay as they are.
        super().__init__(Content.assemble((displayable(problem), "bold"), "\n" if advice else "", advice), markup=False)


class RunCard(Static):
    """A background run: a line for each row."""

    def __init__(self, rows: Sequence[RowRun], total: int) -> None:
        super().__init__(markup=False)
        self._rows = list(rows)
        self._total = total

    def on_mount(self) -> None:
        """Draw the rows that are answered already."""
        self._draw()

    def add(self, row: RowRun) -> None:
        """Add a row."""
        self._rows.append(row)
        self.call_later(self._draw)

    def end(self) -> None:
        """Say that no more rows come."""
        self._total = len(self._rows)
        self._draw()

    def _draw(self) -> None:
        self.update(run_content(self._rows, self._total))


def run_content(rows: Sequence[RowRun], total: int) -> Content:
    """Return a head line with the counts, then a line for each row: the marks of both models, and the instruction."""
    has_base = any(row.base is not None for row in rows)
    tuned = sum(is_match(row.tuned, row.reference) for row in rows)
    head = f"{len(rows)} of {total}" if len(rows) < total else str(total)
    head += f" test rows · tuned {tuned} ✓"
    if has_base:
        head += f" · base {sum(row.base is not None and is_match(row.base, row.reference) for row in rows)} ✓"
    parts: list[tuple[str, str]] = [(head, "bold")]
    if rows:
        parts.append((f"\n  {'base tuned' if has_base else 'tuned'}", "$foreground-muted"))
    for row in rows[-SHOWN_ROWS:]:
        parts.append(("\n", ""))
        if has_base:
            parts.append(_mark("  ", row.base, row.reference))
        parts.append(_mark("    " if has_base else "  ", row.tuned, row.reference))
        parts.append((f"    {one_line(row.instruction)}", ""))
        if row.input:
            parts.append((f"  {one_line(row.input)}", "$foreground-muted"))
    return Content.assemble(*parts)


def _mark(space: str, response: str | None, reference: str) -> tuple[str, str]:
    if response is None:
        return (f"{space}-", "$foreground-muted")
    return (f"{space}✓", "$text-success") if is_match(response, reference) else (f"{space}✗", "$text-error")
