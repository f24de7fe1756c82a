"""What comes with the project, the instruction set and the model `pocket`, and how a model is found by name."""

from __future__ import annotations

from pathlib import Path

POCKET = "pocket"
FREE_FORM = frozenset({"about_itself", "definitions", "greetings", "rhymes", "short_writing", "synonyms"})
"""Categories of the shipped instructions in which another answer can be as good as the reference."""


def shipped(name: str) -> Path:
    """A shipped file or folder: in the package once installed, else in the checkout."""
    installed = Path(__file__).parent / "data" / name
    return installed if installed.exists() else Path(__file__).parent.parent / "data" / name


def find_model(name: str | Path) -> Path:
    """The folder of a model: the one of that path, or the shipped one if the name is `pocket` and no model has it."""
    path = Path(name)
    return shipped(POCKET) if str(name) == POCKET and not (path / "config.json").exists() else path
