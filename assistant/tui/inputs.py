"""The history of sent messages, which the arrow keys recall. Knows no widgets."""

from __future__ import annotations


class InputHistory:
    """The sent messages, oldest first, followed by the draft.

    If the user edits an entry and moves on, the edit stays until the next message is sent.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._edited: dict[int, str] = {}
        self._position = 0

    def add(self, text: str) -> None:
        """Add a sent message and return to an empty draft. A repeated message is stored once."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
        self.reset()

    def reset(self) -> None:
        """Discard all edits and return to an empty draft."""
        self._edited.clear()
        self._position = len(self._sent)

    def earlier(self, current: str) -> str | None:
        """Save `current` and return the entry before it, or None at the oldest entry."""
        return self._move(-1, current)

    def later(self, current: str) -> str | None:
        """Save `current` and return the entry after it, or None at the draft."""
        return self._move(1, current)

    def _move(self, step: int, current: str) -> str | None:
        target = self._position + step
        if not 0 <= target <= len(self._sent):
            return None
        self._edited[self._position] = current
        self._position = target
        return self._edited.get(target, self._sent[target] if target < len(self._sent) else "")
