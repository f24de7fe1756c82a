"""The messages sent in this run, for recalling them with the arrow keys. Knows no widgets."""

from __future__ import annotations


class InputHistory:
    """A line of earlier inputs that ends in the draft. What is edited on the way is kept until the next message."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._edited: dict[int, str] = {}
        self._position = 0

    def add(self, text: str) -> None:
        """Remember a sent message and go back to the end of the line."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self.reset()

    def reset(self) -> None:
        """Go to the end of the line, to an empty draft."""
        self._edited.clear()
        self._position = len(self._sent)

    def earlier(self, current: str) -> str | None:
        """The input before this one; None at the beginning."""
        return self._move(-1, current)

    def later(self, current: str) -> str | None:
        """The input after this one, at last the draft; None at the end."""
        return self._move(1, current)

    def _move(self, step: int, current: str) -> str | None:
        target = self._position + step
        if not 0 <= target <= len(self._sent):
            return None
        self._edited[self._position] = current
        self._position = target
        return self._edited.get(target, self._sent[target] if target < len(self._sent) else "")
