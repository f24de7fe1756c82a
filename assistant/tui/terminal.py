"""Whether a terminal can show a full screen. Knows no Textual, so that a chat without a screen starts without it."""

from __future__ import annotations

import codecs
import locale
import os
import sys
from collections.abc import Mapping
from typing import Protocol

SIMPLE_TERMINALS = ("", "dumb", "unknown")
"""Values of TERM of terminals that cannot move their cursor."""

LOCALES_WITHOUT_UTF8 = ("C", "POSIX")


class Stream(Protocol):
    """What is asked of a standard stream."""

    @property
    def encoding(self) -> str: ...

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        ...


def terminal_problem(
    stdin: Stream | None = None,
    stderr: Stream | None = None,
    environment: Mapping[str, str] | None = None,
    locale_encoding: str | None = None,
) -> str | None:
    """Say why a full screen cannot be shown here. None if it can.

    Args:
        stdin: Standard input, which gives the keys.
        stderr: Standard error, on which Textual draws.
        environment: The process's environment.
        locale_encoding: The encoding of the locale, which is the terminal's.
    """
    environment = os.environ if environment is None else environment
    for name, stream in (("input", stdin or sys.stdin), ("error", stderr or sys.stderr)):
        if stream is None or not stream.isatty():  # None: closed
            return f"standard {name} is not a terminal"
    term = environment.get("TERM", "")
    if term in SIMPLE_TERMINALS:
        return f"the terminal cannot draw a screen (TERM={term})"
    for encoding in ((stderr or sys.stderr).encoding, locale_encoding or locale.getencoding()):
        if not _is_utf8(encoding):
            return f"the terminal's encoding is {encoding}, not UTF-8"
    if (name := _locale_name(environment)) in LOCALES_WITHOUT_UTF8:
        return f"the locale is {name}, which is not UTF-8"
    return None


def _locale_name(environment: Mapping[str, str]) -> str:
    """Return the locale that decides about characters, as the person set it. Empty if nothing is set.

    If that is C, Python sets LC_CTYPE to C.UTF-8 for itself. The terminal has not changed by that.
    """
    names = [environment.get(variable, "") for variable in ("LC_ALL", "LC_CTYPE", "LANG")]
    if names[1] == "C.UTF-8" and names[2]:
        names[1] = ""
    return next(filter(None, names), "")


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False
