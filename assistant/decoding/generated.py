"""What the engine generates: a row while it is decoded, and its tokens once it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from assistant.decoding.reply import StopReason, TokenLogprobs
from assistant.decoding.sampling import RowState


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The new tokens of one prompt, without EOS, and why they end."""

    index: int
    """Index of the prompt."""
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    seconds: float
    """Wall-clock seconds since the row started."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One entry for each of `token_ids`, and one more if EOS came; without texts. None if they were not requested."""


@dataclass(kw_only=True, slots=True)
class Row:
    """A prompt, and the tokens generated for it so far."""

    index: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    state: RowState
    started: float
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    stop_reason: StopReason | None = None
