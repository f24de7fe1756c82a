"""What fits into a model's context: one rule for the session that answers and for the screen that counts tokens."""

from __future__ import annotations

from collections.abc import Callable

from assistant.errors import ContextError

REPLY_SHARE = 4
"""Shorten a conversation until the reply has a quarter of the context, or `max_new_tokens` if that is less."""


def check_prompt_length(n_tokens: int, context_length: int) -> None:
    """Raise ContextError unless a prompt of `n_tokens` tokens leaves room for at least one new token."""
    if n_tokens < 1:
        raise ContextError("prompt: expected at least one token, got none. Write something.")
    if n_tokens >= context_length:
        raise ContextError(
            f"prompt: expected fewer than {context_length} tokens, got {n_tokens}, which leaves the model no room to "
            f"answer. Shorten the text."
        )


def count_forgotten(
    n_tokens: Callable[[int], int], n_exchanges: int, *, context_length: int, max_new_tokens: int
) -> int:
    """Return how many of the oldest exchanges are left out of a prompt, so that the reply has room (`REPLY_SHARE`).

    `n_tokens(n)` is the length of the prompt without its `n` oldest exchanges, of `n_exchanges`. A prompt without any
    is never shortened, so it may still be too long.
    """
    room = context_length - min(max_new_tokens, context_length // REPLY_SHARE)
    return next((n for n in range(n_exchanges) if n_tokens(n) <= room), n_exchanges)
