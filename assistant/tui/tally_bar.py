"""The tally over the prompt: held-out rows by model, and whether the difference is more than chance."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from assistant.chat.tally import Tally

_STYLES = {"better": "bold $text-success", "worse": "bold $text-error"}


class TallyBar(Static):
    """One line. Takes no room while there is nothing to count."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.display = False

    def show(self, tally: Tally, note: str = "") -> None:
        """Show a tally, and a note of what goes on."""
        content = tally_content(tally, note)
        self.display = bool(content.plain)
        self.update(content)


def tally_content(tally: Tally, note: str = "") -> Content:
    """Return the line: rows, right answers of each model, the verdict, and the person's choices."""
    parts: list[tuple[str, str]] = []
    *counts, verdict = tally.parts or ("",)
    for place, count in enumerate(counts):
        style = "bold" if place == 0 else ""
        parts.append((f"{'  ' if parts else ''}{count}", style))
    if verdict:
        arrow = "  →  " if tally.n else "  "
        parts.append((arrow if parts else "", "$foreground-muted"))
        parts.append((verdict, _STYLES.get(tally.verdict.finding, "")))
    for words in (tally.choices.words, note):
        if words:
            parts.append((f"{'  ·  ' if parts else ''}{words}", "$foreground-muted"))
    return Content.assemble(*parts)
