"""Text from models, files and users made safe to show: nothing of it may steer the terminal."""

from __future__ import annotations

import re

# Controls (tab and line feed are harmless), characters that reorder or hide their neighbours, and halves of
# surrogate pairs, which no terminal can be sent. The joiners U+200C and U+200D stay: scripts and emoji need them.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_CONTROL_PICTURES = 0x2400
_LINE_ENDS = {"\r", "\u2028", "\u2029"}


def displayable(text: str) -> str:
    """The text with every unsafe character made visible: `␛` for an escape, `�` for what has no picture."""
    return UNSAFE.sub(_picture, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Displayable text for places that have a single line."""
    return " ".join(displayable(text).split())


def _picture(match: re.Match[str]) -> str:
    character = match.group()
    if character in _LINE_ENDS:
        return "\n"
    if character < " ":
        return chr(_CONTROL_PICTURES + ord(character))
    return "\N{SYMBOL FOR DELETE}" if character == "\x7f" else "\N{REPLACEMENT CHARACTER}"
