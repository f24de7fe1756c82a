"""A text that grows at its end while a model writes it. What is complete is wrapped and drawn once."""

from __future__ import annotations

from itertools import pairwise

from rich._wrap import divide_line
from textual.content import Content
from textual.css.styles import RulesMap
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual

from assistant.escape import displayable


class GrowingText(Visual):
    """An answer that is being written: a head, the text so far, and a foot.

    Looks like `Content` of the whole text. `Content` wraps everything again for each new token, and its cost grows with
    the text. New text can change only the last row of what was wrapped, so here only that row is wrapped again.
    """

    def __init__(self, text: str, *, head: Content, foot: Content) -> None:
        self._head, self._foot = head, foot
        self._text = ""
        self._held = ""
        self._width = 0
        self._rows: list[str] = []
        """The rows that no longer change, at `_width` cells."""
        self._tail = ""
        """The text after these rows."""
        self._line_start = 0
        """The row with which the line of the tail begins."""
        self._goes_on = False
        """Whether the tail goes on with a word that was too long for its row."""
        self._strips: list[Strip] = []
        """Drawn rows, in `_style`."""
        self._style: Style | None = None
        self.append(text)

    def append(self, text: str) -> None:
        """Add text as the model wrote it. A carriage return waits for what follows, which may be the line feed."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        shown = displayable(text.removesuffix("\r"))
        self._text += shown
        self._tail += shown

    def __str__(self) -> str:
        return "\n".join(part for part in (self._head.plain, self._text, self._foot.plain) if part)

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:
        """Return the width without wrapping. Part of the Visual protocol."""
        return Content(str(self)).get_optimal_width(rules, container_width)

    def get_minimal_width(self, rules: RulesMap) -> int:
        """Return the width of the longest word. Part of the Visual protocol."""
        return Content(str(self)).get_minimal_width(rules)

    def get_height(self, rules: RulesMap, width: int) -> int:  # noqa: ARG002  the protocol has it
        """Return the number of rows at a width. Part of the Visual protocol."""
        return self.height(width)

    def height(self, width: int) -> int:
        """Return the number of rows at a width."""
        if not width:  # not laid out yet
            return 0
        self._wrap(width)
        ends = [part.get_height({}, width) for part in (self._head, self._foot) if part.plain]
        return sum(ends) + (len(self._rows) + len(self._last_rows()) if self._text else 0)

    def render_strips(self, width: int, height: int | None, style: Style, options: RenderOptions) -> list[Strip]:
        """Return the rows as strips. Part of the Visual protocol."""
        self._wrap(width)
        if style != self._style:
            self._style, self._strips = style, []

        def draw(text: Content) -> list[Strip]:
            return text.render_strips(width, None, style, options) if text.plain else []

        for row in self._rows[len(self._strips) :]:
            self._strips += Content(row).render_strips(width, None, style, options)
        tail = [strip for row in self._last_rows() for strip in Content(row).render_strips(width, None, style, options)]
        strips = [*draw(self._head), *self._strips, *(tail if self._text else []), *draw(self._foot)]
        return strips if height is None else strips[:height]

    def _wrap(self, width: int) -> None:
        """Move all rows that no longer change from the tail to the rows."""
        if width != self._width:
            self._width, self._rows, self._strips, self._tail = width, [], [], self._text
            self._line_start, self._goes_on = 0, False
        *complete, last = self._tail.split("\n")
        for line in complete:
            self._end_rows(line, keep_last=False)
            self._line_start, self._goes_on = len(self._rows), False
        self._end_rows(last, keep_last=True)

    def _end_rows(self, line: str, *, keep_last: bool) -> None:
        """Add the rows of the tail's first line, and keep the last of them as the tail if the line is not complete."""
        if "\t" in line:  # where a tab ends depends on all text before it in its line, so that is wrapped again
            line = "".join(self._rows[self._line_start :]) + line
            del self._rows[self._line_start :], self._strips[self._line_start :]
            self._goes_on = False
        rows = _rows_of(line, self._width, goes_on=self._goes_on)
        if not keep_last:
            self._rows += rows
        elif "\t" in line or len(rows) == 1:
            self._tail = line
        else:
            *rows, self._tail = rows
            before = "".join(rows)
            starts_word = before[-1].isspace() and not self._tail[0].isspace()
            is_indent = before.isspace() and not self._goes_on  # Rich counts an indent as part of the first word
            self._goes_on = not starts_word or is_indent
            self._rows += rows

    def _last_rows(self) -> list[str]:
        return _rows_of(self._tail, self._width, goes_on=self._goes_on)


def _rows_of(line: str, width: int, *, goes_on: bool) -> list[str]:
    """Return the rows of one line, or of what follows its complete rows, as `Content` wraps it."""
    if "\t" in line:
        line = Content(line).expand_tabs(8).plain
    before = 2 * width if goes_on else 0  # letters that make the first word too long again
    breaks = [place - before for place in divide_line("x" * before + line, width) if place > before]
    ends = [0, *breaks, len(line)]
    return [line[start:end] for start, end in pairwise(ends)]
