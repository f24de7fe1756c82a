"""Whether a terminal can show a full screen. Knows no Textual, so that a chat without a screen starts without it."""

from __future__ import annotations

import codecs
import locale
import os
import sys

SIMPLE_TERMINALS = ("", "dumb", "unknown")
"""Values of TERM of terminals that cannot move their cursor."""

LOCALES_WITHOUT_UTF8 = ("C", "POSIX")


def terminal_problem() -> str | None:
    """Say why a full screen cannot be shown here. None if it can.

    Standard input gives the keys, and Textual draws on standard error. The locale's encoding is the terminal's.
    """
    for name, stream in (("input", sys.stdin), ("error", sys.stderr)):
        if stream is None or not stream.isatty():  # None: closed
            return f"standard {name} is not a terminal"
    term = os.environ.get("TERM", "")
    if term in SIMPLE_TERMINALS:
        return f"the terminal cannot draw a screen (TERM={term})"
    for encoding in (sys.stderr.encoding, locale.getencoding()):
        if not _is_utf8(encoding):
            return f"the terminal's encoding is {encoding}, not UTF-8"
    if (name := _locale_name()) in LOCALES_WITHOUT_UTF8:
        return f"the locale is {name}, which is not UTF-8"
    return None


def _locale_name() -> str:
    """Return the locale that decides about characters, as the person set it. Empty if nothing is set.

    If that is C, Python sets LC_CTYPE to C.UTF-8 for itself. The terminal has not changed by that.
    """
    names = [os.environ.get(variable, "") for variable in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2]:
        names[1] = ""
    return next(filter(None, names), "")


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False
