"""Texts to labels: files of labelled texts, their split, a GPT-2 with one output for each label, and the report.

`classify_review` is the book's function. What never comes in: training, which is in `assistant.training`, and anything
that prints. Importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assistant.classifier.review import classify_review

__all__ = ["classify_review"]


def __getattr__(name: str) -> Any:
    """Import `classify_review` at its first use, because its module needs torch."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.review"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
