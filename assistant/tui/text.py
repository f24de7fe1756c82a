"""What may reach the screen. Text from models, files and pastes is not trusted; all of it passes through here."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

# Controls (tab and line feed are harmless), characters that reorder or hide their neighbours, and halves of
# surrogate pairs, which no terminal can be sent. The joiners U+200C and U+200D stay: scripts and emoji need them.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
CONTROL_PICTURES = 0x2400
LINE_ENDS = {"\r", "\u2028", "\u2029"}


def displayable(text: str) -> str:
    """The text with every unsafe character made visible: `␛` for an escape, `�` for what has no picture."""
    return UNSAFE.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    character = match.group()
    if character in LINE_ENDS:
        return "\n"
    if character < " ":
        return chr(CONTROL_PICTURES + ord(character))
    return "\N{SYMBOL FOR DELETE}" if character == "\x7f" else "\N{REPLACEMENT CHARACTER}"


def one_line(text: str) -> str:
    """Displayable text for places that have a single line."""
    return " ".join(displayable(text).split())


def markdown_parser() -> MarkdownIt:
    """Markdown for replies: what the model wrote stays readable, whatever it wrote.

    HTML, links, images, references and entities stay literal. The first four would hide text or give it another
    address than the one shown; an entity could spell a character that `displayable` has just taken out.
    """
    parser = MarkdownIt("gfm-like", {"html": False, "linkify": False})
    parser.disable(["link", "image", "autolink", "reference", "entity", "linkify"])
    parser.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    return parser


def _keep_line_breaks(state: StateCore) -> None:
    """A line feed inside a paragraph ends the line; Markdown proper would make it a space."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
