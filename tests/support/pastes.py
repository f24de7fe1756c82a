"""Random pastes that try to press keys."""

from __future__ import annotations

import random

START, END = "\x1b[200~", "\x1b[201~"
HOSTILE = (
    "\x1b", "\x1b[", "\x1b[20", "\x1b[200", "\x1b[31m", "\x1b[0m", "\x1bO", "\x1b[<0;5;24M", "\x1b[<0;5;24m",
    "\x1b[M !!", "\x1b[A", "\x1b[1;5A", "\x1b[13u", "\x1b[I", "\x1b[?2026;2$y", "\x1b]52;c;aGk=\x07", START,
    "\r", "\r\n", "\n", "\t", "\x00", "\x03", "\x04", "\x11", "\x1a", "\x7f", "\x08", "\x12", "\x14", "\x18",
)  # fmt: skip
"""Keys, mouse events, replies of a terminal, halves of them, and the start of a paste."""
WORDS = ("make", "the log", "[bold]", "naïve", "日本", "🙂", " ", "=", "/quit", "line")


def random_paste(draw: random.Random) -> str:
    """Return a text of up to 12 parts, about half of them hostile. It never has the end of a paste."""
    parts = [draw.choice(draw.choice((HOSTILE, WORDS))) for _ in range(draw.randint(1, 12))]
    return "".join(parts).replace(END, "")
