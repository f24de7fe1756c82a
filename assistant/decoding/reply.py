"""A reply as a value, and what every front needs of whatever gives one. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from assistant.settings import Frozen, GenerationSettings

StopReason = Literal["eos", "length", "stop", "cancelled"]
"""By itself; at a limit; at a stop string; by whoever asked."""


class TokenLogprob(Frozen):
    """A token and how likely the model held it, before temperature, penalty and filters."""

    token_id: int
    text: str | None = None
    """None where no tokenizer was at hand; bytes that are no character by themselves are U+FFFD."""
    logprob: float
    """Natural logarithm of the probability."""


class TokenLogprobs(TokenLogprob):
    """A new token, beside what else could have stood in its place."""

    likeliest: tuple[TokenLogprob, ...]
    """The likeliest tokens, likeliest first; the new token is one of them if it is likely enough."""


class Reply(Frozen):
    """What a model answered to one prompt, and how it came about."""

    prompt: str
    prompt_token_ids: tuple[int, ...]
    response: str
    """The decoded new tokens, EOS not among them, up to the first stop string."""
    token_ids: tuple[int, ...]
    """The new tokens, EOS not among them. At a stop string those that have nothing of it in them: their text is the
    response, or lacks its end where the stop string begins inside a token."""
    stop_reason: StopReason
    seconds: float
    """Wall time from the prompt to the last token."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One for each of `token_ids`, and one more for EOS where it came; None where they were not asked for."""
    n_forgotten: int = 0
    """The oldest exchanges of the history that were left out, because the context is full."""


class SessionLike(Protocol):
    """The part of `assistant.decoding.session.Session` that the chat uses. Tests replace it with a scripted session."""

    @property
    def name(self) -> str:
        """The model's short name."""

    @property
    def summary(self) -> str:
        """The model in one line: name, size, template and context length."""

    def reply(
        self,
        instruction: str,
        *,
        settings: GenerationSettings,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Reply:
        """Answer one instruction in the calling thread.

        `on_text` receives the text piece by piece. The session asks `should_stop` before every token; a stopped reply
        keeps its text.
        """
