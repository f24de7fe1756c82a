"""The values of a reply, and the protocol of a session that gives replies. Imports no torch.

The chat and evaluation use these types without loading a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from assistant.settings import Frozen, GenerationSettings

StopReason = Literal["eos", "length", "stop", "cancelled"]
"""Why a reply ends: the model wrote EOS, it reached a length limit, a stop string came, or the caller stopped it."""


class TokenLogprob(Frozen):
    """A token and its log-probability, before temperature, penalty and filters."""

    token_id: int
    text: str | None = None
    """None if no tokenizer was available. Bytes that are not a character by themselves are U+FFFD."""
    logprob: float
    """Natural logarithm of the probability."""


class TokenLogprobs(TokenLogprob):
    """A new token and the likeliest tokens at its position."""

    likeliest: tuple[TokenLogprob, ...]
    """The likeliest tokens, likeliest first; they include the new token if it is likely enough."""


class Reply(Frozen):
    """A model's answer to one prompt, and how it was generated."""

    prompt: str
    prompt_token_ids: tuple[int, ...]
    response: str
    """The decoded new tokens, without EOS, up to the first stop string."""
    token_ids: tuple[int, ...]
    """The new tokens, without EOS. If a stop string ended the reply, tokens that contain part of it are left out: where
    it begins inside a token, the text of these tokens is shorter than the response."""
    stop_reason: StopReason
    seconds: float
    """Wall-clock seconds from the prompt to the last token."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One entry for each of `token_ids`, and one more if EOS came; None if they were not requested."""
    n_forgotten: int = 0
    """Number of the oldest exchanges that were left out of the prompt because the context is full."""


class SessionLike(Protocol):
    """A model that answers, as the chat needs it. `Session` implements it; tests have fakes."""

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
