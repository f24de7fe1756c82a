"""Which theme the chat has: the one that was chosen last, or one that fits the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

DARK, LIGHT = "textual-dark", "textual-light"
LIGHT_COLOURS = {"7", "15"}
"""Background colours of `COLORFGBG` that are light: white and bright white."""
LONGEST_NAME = 100


def fitting_theme(environment: Mapping[str, str]) -> str:
    """Return the theme that fits the terminal's background, which some terminals name in `COLORFGBG`."""
    named = environment.get("TEXTUAL_THEME")
    if named:
        return named
    background = environment.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT if background in LIGHT_COLOURS else DARK


class ThemeFile:
    """The name of the chosen theme, in a file. A file that cannot be read or written is as good as none."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path, self._environment = path, environment
        self._known = ""

    def read(self, available: Collection[str]) -> str:
        """Return the theme to begin with."""
        name = ""
        with suppress(OSError, UnicodeDecodeError), self._path.open(encoding="utf-8") as file:
            name = file.read(LONGEST_NAME).strip()
        if name not in available or self._environment.get("TEXTUAL_THEME"):
            name = fitting_theme(self._environment)
        self._known = name if name in available else DARK
        return self._known

    def write(self, name: str) -> None:
        """Remember a theme that the person chose."""
        if name == self._known:
            return
        self._known = name
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.write_text(f"{name}\n", encoding="utf-8")
