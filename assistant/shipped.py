"""Paths of the files that ship with the project: the instruction set and the model `pocket`."""

from __future__ import annotations

from pathlib import Path

POCKET = "pocket"
FREE_FORM = frozenset({"about_itself", "definitions", "greetings", "rhymes", "short_writing", "synonyms"})
"""Categories of the shipped instructions whose rows have more than one right answer."""


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder: in the installed package, or else in the checkout."""
    installed = Path(__file__).parent / "data" / name
    return installed if installed.exists() else Path(__file__).parent.parent / "data" / name


def find_model(name: str | Path) -> Path:
    """Return a model's folder. `pocket` is the shipped model, unless `./pocket` itself holds a model."""
    path = Path(name)
    return shipped(POCKET) if str(name) == POCKET and not (path / "config.json").exists() else path
