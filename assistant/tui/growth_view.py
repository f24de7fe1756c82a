"""How the model learnt: its answers to one validation row from step to step, with the loss beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from assistant.chat.growth import GrowthRow
from assistant.escape import displayable, one_line
from assistant.tui.modal import Modal


class GrowthScreen(Modal[None]):
    """Shows one row at a time. Left and right change the row."""

    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f9,q", "dismiss", "Close", key_display="esc"),
        Binding("left", "move(-1)", "Row before", show=False),
        Binding("right", "move(1)", "Next row", show=False),
    ]

    def __init__(self, rows: Sequence[GrowthRow]) -> None:
        super().__init__()
        self._rows = tuple(rows)
        self._index = 0

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="growth") as box:
            box.border_title = "How it learnt"
            box.border_subtitle = "← → row · esc closes"
            yield Static(id="growth-row", markup=False)
            yield Static(id="growth-steps", markup=False)

    def on_mount(self) -> None:
        """Show the first row."""
        self.action_move(0)

    def action_move(self, step: int) -> None:
        """Show another row."""
        self._index = (self._index + step) % len(self._rows)
        row = self._rows[self._index]
        self.query_one("#growth-row", Static).update(row_content(row, self._index, len(self._rows)))
        self.query_one("#growth-steps", Static).update(steps_content(row))


def row_content(row: GrowthRow, index: int, count: int) -> Content:
    """Return a row's question and reference."""
    parts: list[tuple[str, str]] = [
        (f"validation row {index + 1} of {count}\n", "$foreground-muted"),
        (f"❯ {displayable(row.instruction)}\n", "bold $text-primary"),
    ]
    if row.input:
        parts.append((f"  {displayable(row.input)}\n", ""))
    parts.append((f"  reference: {displayable(row.reference)}\n", "$foreground-muted"))
    return Content.assemble(*parts)


def steps_content(row: GrowthRow) -> Content:
    """Return a line for each step: step, loss, and the answer."""
    parts: list[tuple[str, str]] = [("  step    loss\n", "$foreground-muted")]
    for answer in row.steps:
        mark, style = ("✓", "$text-success") if answer.is_match else ("✗", "$text-error")
        parts.append((f"{answer.step:>6}  {answer.validation_loss:>6.3f}  ", "$foreground-muted"))
        parts.append((f"{mark} ", style))
        parts.append((f"{one_line(answer.response) or '(no text)'}\n", ""))
    return Content.assemble(*parts)
