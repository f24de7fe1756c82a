"""A field of one line that shows a pasted control character as its picture. Textual's own writes it to the terminal."""

from __future__ import annotations

from textual.widgets import Input

from assistant.escape import visible


class LineInput(Input):
    """A field whose value never has a control character."""

    def validate_value(self, value: str) -> str:
        """Replace control characters, however they came."""
        return visible(value)
