"""A text area that keeps every character as it was typed or pasted, and shows control characters as signs."""

from __future__ import annotations

import re

from rich.text import Text
from textual.document._document import EditResult
from textual.document._edit import Edit
from textual.widgets import TextArea
from textual.widgets.text_area import Location

from assistant.escape import visible

FIRST_STAND_IN, LAST_STAND_IN = 0x10F000, 0x10FFFD
INVISIBLE = "\N{SYMBOL FOR SUBSTITUTE FORM TWO}"
"""The sign of an invisible character that has no picture of its own, such as U+202E. It has one column."""
_LINE_END = re.compile(r"\r\n?")
_SURROGATES = re.compile("[\ud800-\udfff]")


class StandIns:
    """Private characters that stand for those that a terminal would obey, one for one.

    Textual splits lines at some control characters, and counts none of them as a column. It does neither with a
    private character. A character that is private already gets a stand-in, too, so every text comes back unchanged.
    """

    def __init__(self) -> None:
        self._encode: dict[int, int] = {}
        self._decode: dict[int, int] = {}
        self._signs: dict[int, str] = {}

    def encode(self, text: str) -> str:
        """Return the text with stand-ins. Each line end becomes `\\n`, half a surrogate pair U+FFFD."""
        if text.isascii() and text.isprintable():  # nearly every key
            return text
        text = _SURROGATES.sub("\ufffd", _LINE_END.sub("\n", text))
        for character in set(text) - {"\n", "\t"}:
            self._add(character)
        return text.translate(self._encode)

    def decode(self, text: str) -> str:
        """Return the text with the original characters."""
        return text.translate(self._decode) if self._decode else text

    def show(self, text: str) -> str:
        """Return a line with a sign of one column for each stand-in."""
        return text.translate(self._signs) if self._signs else text

    def _add(self, character: str) -> None:
        code = ord(character)
        sign = visible(character)
        is_private = FIRST_STAND_IN <= code <= LAST_STAND_IN
        if code in self._encode or (sign == character and not is_private):
            return
        stand_in = FIRST_STAND_IN + len(self._encode)
        if stand_in > LAST_STAND_IN:  # thousands of different private characters: not a text
            self._encode[code] = 0xFFFD
            return
        self._encode[code] = stand_in
        self._decode[stand_in] = code
        self._signs[stand_in] = sign if len(sign) == 1 else INVISIBLE


class RawTextArea(TextArea):
    """A text area whose `text` is exactly what was typed and pasted, except that all line ends are `\\n`."""

    def __init__(self, *, id: str | None = None, placeholder: str = "") -> None:
        self._stand_ins = StandIns()
        super().__init__(
            id=id,
            soft_wrap=True,
            highlight_cursor_line=False,
            compact=True,
            placeholder=placeholder,
        )

    @property
    def text(self) -> str:
        """The original text."""
        return self._stand_ins.decode(super().text)

    @text.setter
    def text(self, value: str) -> None:
        self.load_text(value)

    def load_text(self, text: str) -> None:
        """Replace the text, and forget the edits."""
        super().load_text(self._stand_ins.encode(text))

    def get_text_range(self, start: Location, end: Location) -> str:
        """Return the original text between two places."""
        return self._stand_ins.decode(super().get_text_range(start, end))

    def edit(self, edit: Edit) -> EditResult:
        """Change the text. Typing and pasting arrive here."""
        edit.text = self._stand_ins.encode(edit.text)
        result = super().edit(edit)
        return EditResult(result.end_location, self._stand_ins.decode(result.replaced_text))

    def add_line(self) -> None:
        """Start a new line at the cursor."""
        self.replace("\n", *self.selection, maintain_selection_offset=False)
        self.scroll_cursor_visible()

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is shown."""
        return Text(self._stand_ins.show(self.document.get_line(line_index)), end="", no_wrap=True)
