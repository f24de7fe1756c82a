"""Text that a model or a file wrote, made safe to show. Nothing of it may steer a terminal or a Markdown reader."""

from __future__ import annotations

import re
import unicodedata

# Joiners shape Persian, Hindi and emoji; they neither reorder nor hide text.
_HARMLESS_FORMAT = {"\u200c", "\u200d"}
_NOT_SHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}

# Every character that opens something in CommonMark or in GitHub's dialect within a line: code, emphasis, links,
# images, strikethrough, tables, formulas and HTML. "@", "://" and "www." would become links by themselves.
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_AUTOLINK = re.compile(r"(://)|(www)\.", re.IGNORECASE)


def visible(text: str) -> str:
    """`text` on one line, with every control, format and direction character shown instead of obeyed.

    Control characters become their pictures (`␛`, `␍`), a line end `↵`, anything else that would be invisible its
    code (`\\u202e`).
    """
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character == "\n":
        return "↵"
    if character == "\t":
        return " "
    if unicodedata.category(character) not in _NOT_SHOWN or character in _HARMLESS_FORMAT:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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
