"""Escaping of text from models and files for Markdown and JSON. For the terminal, see `assistant.escape`."""

from __future__ import annotations

import re

from assistant.escape import visible

# The characters that start inline markup in CommonMark or GitHub's dialect: code, emphasis, links, images,
# strikethrough, tables and formulas. HTML is escaped separately. "@", "://" and "www." would become links.
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_AUTOLINK = re.compile(r"(://)|(www)\.", re.IGNORECASE)


def encodable(text: str) -> str:
    """Replace halves of surrogate pairs by U+FFFD. JSON can contain such halves, but UTF-8 cannot encode them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shorten(text: str, length: int) -> str:
    """Cut a text to at most `length` characters. An ellipsis as the last character marks a cut."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + "…"


def markdown(text: str) -> str:
    """Escape a text for a Markdown table cell: on one line, every character shown, no markup and no links."""
    escaped = visible(text)
    escaped = _MARKDOWN.sub(r"\\\g<0>", escaped)
    escaped = "".join(_HTML.get(character, character) for character in escaped)
    return _AUTOLINK.sub(lambda match: f"{match[2]}&#46;" if match[2] else "&#58;//", escaped)
