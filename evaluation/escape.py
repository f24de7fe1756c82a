"""Text that a model or a file wrote, made safe for Markdown and for files; for the terminal see `assistant.escape`."""

from __future__ import annotations

import re

from assistant.escape import visible

# Every character that opens something in CommonMark or in GitHub's dialect within a line: code, emphasis, links,
# images, strikethrough, tables, formulas and HTML. "@", "://" and "www." would become links by themselves.
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_AUTOLINK = re.compile(r"(://)|(www)\.", re.IGNORECASE)


def encodable(text: str) -> str:
    """`text` with halves of surrogate pairs, which JSON can spell and no file can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last of them an ellipsis where something was cut."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def markdown(text: str) -> str:
    """`text` as a Markdown reader shows it letter by letter, on one line; it fits into a table's cell."""
    shown = visible(text)
    shown = _MARKDOWN.sub(r"\\\g<0>", shown)
    shown = "".join(_HTML.get(character, character) for character in shown)
    return _AUTOLINK.sub(lambda match: f"{match[2]}&#46;" if match[2] else "&#58;//", shown)
