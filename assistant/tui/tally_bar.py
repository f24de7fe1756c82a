"""The tally over the prompt: held-out rows by model, and whether the difference is more than chance."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from assistant.chat.tally import Tally

SIDES = 2
"""Cells of the padding at both sides."""
_STYLES = {"better": "bold $text-success", "worse": "bold $text-error"}


class TallyBar(Static):
    """One line. Takes no room while there is nothing to count."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.display = False

        self._tally: Tally | None = None
        self._note = ""

    def show(self, tally: Tally, note: str = "") -> None:
        """Show a tally, and a note of what goes on."""
        self._tally, self._note = tally, note
        self.display = bool(tally_content(tally, note).plain)
        self.on_resize()

    def on_resize(self) -> None:
        """Draw what the width allows."""
        if self._tally is not None:
            self.update(self._fitting(self._tally, self.size.width or self.app.size.width))

    def _fitting(self, tally: Tally, width: int) -> Content:
        """Return the line. What matters least is dropped first: note, then choices."""
        for note, has_choices in ((self._note, True), ("", True), ("", False)):
            content = tally_content(tally, note, has_choices=has_choices)
            if content.cell_length <= width - SIDES:
                return content
        return tally_content(tally, has_choices=False, is_short=True)


def tally_content(tally: Tally, note: str = "", *, has_choices: bool = True, is_short: bool = False) -> Content:
    """Return the line: rows, right answers of each model, the verdict, and the person's choices.

    The short form is for a narrow screen: the rows of each model are a number against the other.
    """
    parts: list[tuple[str, str]] = []
    *counts, verdict = tally.parts or ("",)
    if is_short and tally.n:
        counts = [f"{tally.n} rows", f"{tally.tuned_right}:{tally.base_right}"]
    for place, count in enumerate(counts):
        style = "bold" if place == 0 else ""
        parts.append((f"{'  ' if parts else ''}{count}", style))
    if verdict:
        arrow = "  →  " if tally.n else "  "
        parts.append((arrow if parts else "", "$foreground-muted"))
        parts.append((verdict, _STYLES.get(tally.verdict.finding, "")))
    for words in (tally.choices.words if has_choices else "", note):
        if words:
            parts.append((f"{'  ·  ' if parts else ''}{words}", "$foreground-muted"))
    return Content.assemble(*parts)
