"""Escaping of text from models, files and users, so that it controls neither a terminal nor a Markdown file."""

from __future__ import annotations

import re
import unicodedata

# Unicode categories: control, format (can reorder or hide its neighbours), surrogate, line and paragraph separator.
_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Zero-width joiner and non-joiner shape Persian, Hindi and emoji. They neither reorder nor hide text.
_JOINERS = {"\u200c", "\u200d"}
_LINE_ENDS = ("\r\n", "\r", "\u2028", "\u2029")
_CONTROL_PICTURES = 0x2400
# The characters that start inline markup in CommonMark or GitHub's dialect: code, emphasis, links, images,
# strikethrough, tables and formulas. HTML is escaped separately. "@", "://" and "www." would become links.
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_AUTOLINK = re.compile(r"(://)|(www)\.", re.IGNORECASE)
_PLAIN = re.compile(r"[\n\t -~]*")
"""ASCII without control characters, but with line ends and tabs."""


def displayable(text: str) -> str:
    """Escape every control or invisible character, except for line ends and tabs.

    All line ends become `\\n`. Control characters become their pictures (`␛`). Other invisible characters become their
    code (`\\u202e`).
    """
    if text.isprintable() or _PLAIN.fullmatch(text):  # nearly every text: nothing to escape, and fifty times as fast
        return text
    for line_end in _LINE_ENDS:
        text = text.replace(line_end, "\n")
    return "".join(character if character in "\n\t" else _escape_character(character) for character in text)


def one_line(text: str) -> str:
    """Escape a text for a place with a single line. Each run of white space becomes one space."""
    return " ".join(displayable(text).split())


def visible(text: str) -> str:
    """Escape a text onto one line, with every character visible. A line end becomes `↵`, a tab a space."""
    if text.isprintable():
        return text
    return "".join({"\n": "↵", "\t": " "}.get(character) or _escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED_CATEGORIES or character in _JOINERS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "␡"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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
