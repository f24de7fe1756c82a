"""Texts of people and models inside Markdown, so that none of them is read as markup."""

from __future__ import annotations

import re

from assistant.escape import displayable, one_line

_BACKTICKS = re.compile("`+")


def fenced(text: str) -> str:
    """Return a text as a code block, with a fence that is longer than any in the text."""
    text = displayable(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def code_span(text: str) -> str:
    """Return a text on one line as code inside a sentence."""
    text = one_line(text)
    fence = "`" * (_longest_run(text) + 1)
    return f"{fence} {text or '(empty)'} {fence}"


def _longest_run(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
