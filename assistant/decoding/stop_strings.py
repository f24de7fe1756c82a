"""The text of one reply as its tokens come in, up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from assistant.dataset.tokenizer import Tokenizer


class ReplyText:
    """Whole characters only, and nothing of a stop string: what could be the beginning of one waits until it is clear.

    Where the text ends depends on the text alone, not on how it falls into tokens: before the stop string that is
    complete first, the longest of those.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder()
        self._stop = tuple(stop)
        self._shown: list[str] = []
        self._held = ""
        self.stopped = False
        """Whether a stop string has come; no further text does."""

    @property
    def shown(self) -> str:
        """All text that was given out so far."""
        return "".join(self._shown)

    def push(self, token_id: int) -> str:
        """The text that this token makes certain; often empty."""
        return self._show(self._decoder.push(token_id), last=False)

    def finish(self) -> str:
        """What is left at the end; U+FFFD where the reply was cut inside a character. May still set `stopped`."""
        return self._show(self._decoder.finish(), last=True)

    def kept_tokens(self, token_ids: Sequence[int]) -> int:
        """How many of the pushed tokens belong to `shown`: the most whose own text is a beginning of it.

        So a token with some of the stop string in it is not among them, though text before it may be shown.
        """
        shown, count = self.shown, len(token_ids)
        while not shown.startswith(self._tokenizer.decode(token_ids[:count])):
            count -= 1
        return count

    def _show(self, new: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        ends = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            certain = min(ends)[1]
        else:
            certain = len(text) if last else len(text) - self._doubtful(text)
        shown, self._held = text[:certain], text[certain:]
        self._shown.append(shown)
        return shown

    def _doubtful(self, text: str) -> int:
        """Characters at the end of `text` that could be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(len(stop) > length and stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
