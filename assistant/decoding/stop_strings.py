"""The text of one reply while its tokens come in, up to the first stop string.

This module knows nothing about models or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

from assistant.dataset.tokenizer import Tokenizer


class ReplyText:
    """Decodes a reply token by token, and releases only whole characters that cannot belong to a stop string.

    The end of the text depends on the text only, not on its tokens. It ends before the stop string that is complete
    first; if several are complete at the same character, before the longest of them.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._stop = tuple(stop)
        self._released: list[str] = []
        self._held_back = ""
        self.stopped = False
        """Whether a stop string came. No text is released after it."""

    @property
    def text(self) -> str:
        """All text released so far."""
        return "".join(self._released)

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is released by it, which is often empty."""
        return self._release(self._decoder.push(token_id), is_end=False)

    def finish(self) -> str:
        """End the reply; return the remaining text, with U+FFFD for an incomplete character. May set `stopped`."""
        return self._release(self._decoder.finish(), is_end=True)

    def count_tokens(self, token_ids: Sequence[int]) -> int:
        """Count how many of the pushed tokens, from the first on, decode to a prefix of `text`.

        A token that contains part of a stop string does not count, even if `text` has its characters before that part.
        """
        text, count = self.text, len(token_ids)
        while not text.startswith(self._tokenizer.decode(token_ids[:count])):
            count -= 1
        return count

    def _release(self, new_text: str, *, is_end: bool) -> str:
        if self.stopped:
            return ""
        text = self._held_back + new_text
        matches = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if matches:
            self.stopped = True
            _, length = min(matches)
        else:
            length = len(text) if is_end else len(text) - self._partial_stop_length(text)
        released, self._held_back = text[:length], text[length:]
        self._released.append(released)
        return released

    def _partial_stop_length(self, text: str) -> int:
        """Count the characters at the end of `text` that could be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(len(stop) > length and stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
