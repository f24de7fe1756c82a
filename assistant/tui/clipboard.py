"""Copying through the terminal: OSC 52, which also works over ssh, and tmux's envelope around it.

What is copied is the original text, not what the screen shows.
"""

from __future__ import annotations

import base64
import os
import re
from typing import NamedTuple

_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)(?:^\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


class Piece(NamedTuple):
    """A text to copy, and what it is called."""

    name: str
    text: str


def pieces(answer: str) -> list[Piece]:
    """Return what can be copied of an answer: all of it, and each block of code."""
    blocks = [match.group(2).removesuffix("\n") for match in _FENCE.finditer(answer)]
    named = [Piece(f"code block {number} of {len(blocks)}", block) for number, block in enumerate(blocks, start=1)]
    return [Piece("the answer", answer), *named]


def copy_sequence(text: str) -> str:
    """Return the escape sequences that put a text into the terminal's clipboard.

    tmux hands OSC 52 on only if it is configured to, and what stands in its own envelope only if `allow-passthrough` is
    on, so inside tmux both are sent.
    """
    encoded = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
    sequence = f"\x1b]52;c;{encoded}\a"
    if "TMUX" not in os.environ:
        return sequence
    escaped = sequence.replace("\x1b", "\x1b\x1b")
    return f"{sequence}\x1bPtmux;{escaped}\x1b\\"
