"""The first line: which model, from which base, its size, its template, and its score on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content
from textual.widgets import Static

from assistant.escape import one_line


@dataclass(frozen=True, kw_only=True)
class TitleParts:
    """What the title says. An empty text is left out."""

    model: str
    base: str = ""
    size: str = ""
    template: str = ""
    score: str = ""


class Title(Static):
    """Shows as much of the title as the width allows. The model's name stays to the end."""

    def __init__(self, parts: TitleParts, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.parts = parts

    def show(self, parts: TitleParts) -> None:
        """Show another title."""
        self.parts = parts
        self.refresh()

    def render(self) -> Content:
        """Return the line at the width that there is."""
        return title_content(self.parts, self.content_size.width)


def title_content(parts: TitleParts, width: int) -> Content:
    """Return the title in `width` cells. What matters least is dropped first: template, size, score, base."""
    texts = {name: one_line(getattr(parts, name)) for name in ("model", "base", "size", "template", "score")}
    for names, score in (
        (("base", "size", "template"), texts["score"]),
        (("base", "size"), texts["score"]),
        (("base",), texts["score"]),
        (("base",), ""),
        ((), ""),
    ):
        left = _left(texts, names)
        gap = width - left.cell_length - Content(score).cell_length
        if gap >= (2 if score else 0):
            break
    if not score:
        return left
    return Content.assemble(left, " " * max(2, gap), (score, "$foreground-muted"))


def _left(texts: dict[str, str], names: Sequence[str]) -> Content:
    parts: list[tuple[str, str]] = [(texts["model"], "bold $text-primary")]
    for name in names:
        if texts[name]:
            parts.append((" ← " if name == "base" else " · ", "$foreground-muted"))
            parts.append((texts[name], "$foreground-muted"))
    return Content.assemble(*parts)
