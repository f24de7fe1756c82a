"""The rule that a response equals its reference. Training, evaluation and the chat share it."""

from __future__ import annotations


def is_exact(response: str, reference: str) -> bool:
    """Return whether both texts are equal, apart from white space at both ends.

    White space does not count, because a model often starts its response with a line end.
    """
    return response.strip() == reference.strip()
