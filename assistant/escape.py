"""Text from models, files and users made safe to show: nothing of it may steer the terminal."""

from __future__ import annotations

import unicodedata

# Controls, formats (which reorder or hide their neighbours), halves of surrogate pairs, line and paragraph separators.
_NOT_SHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners shape Persian, Hindi and emoji; they neither reorder nor hide text.
_HARMLESS_FORMAT = {"\u200c", "\u200d"}
_LINE_ENDS = ("\r\n", "\r", "\u2028", "\u2029")
_CONTROL_PICTURES = 0x2400


def displayable(text: str) -> str:
    """The text with every character shown instead of obeyed, but for line ends and tabs.

    Control characters become their pictures (`␛`), anything else that would be invisible its code (`\\u202e`).
    """
    for line_end in _LINE_ENDS:
        text = text.replace(line_end, "\n")
    return "".join(character if character in "\n\t" else _shown(character) for character in text)


def one_line(text: str) -> str:
    """Displayable text for places that have a single line; runs of white space become one blank."""
    return " ".join(displayable(text).split())


def visible(text: str) -> str:
    """The text on one line with every character shown, a line end as `↵`."""
    return "".join({"\n": "↵", "\t": " "}.get(character) or _shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _NOT_SHOWN or character in _HARMLESS_FORMAT:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "␡"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
