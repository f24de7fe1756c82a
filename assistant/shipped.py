"""Paths of the shipped instruction set and of models: shipped, pulled, or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from assistant.errors import PrerequisiteError
from assistant.hub_cache import KNOWN_MODELS, SHOWN_COMMIT, find_pulled, snapshots, split_name

POCKET = "pocket"
FREE_FORM = frozenset({"about_itself", "definitions", "greetings", "rhymes", "short_writing", "synonyms"})
"""Categories of the shipped instructions whose rows have more than one right answer."""
_MODEL_FILES = ("config.json", "adapter_config.json")


def shipped(name: str) -> Path:
    """Return the path of a shipped file or folder: in the installed package, or else in the checkout."""
    installed = Path(__file__).parent / "data" / name
    return installed if installed.exists() else Path(__file__).parent.parent / "data" / name


def find_model(name: str | Path) -> Path:
    """Return a model's folder, by its path or its name.

    A path wins over a name. The names are `pocket`, the shipped model, and the models that `assistant pull` fetched:
    `gpt2`, `OWNER/NAME`, either with `@REVISION`. Any other text is returned as a path.

    Raises:
        PrerequisiteError: the name is that of a model that was not pulled.
    """
    path, text = Path(name), str(name)
    # os.path: pathlib raises for very long names.
    if any(os.path.isfile(path / file) for file in _MODEL_FILES):  # noqa: PTH113
        return path
    if text == POCKET:
        return shipped(POCKET)
    pulled = find_pulled(text)
    if pulled is not None:
        return pulled
    if not os.path.lexists(path) and _names_a_repository(text):
        raise PrerequisiteError(
            f"model {text}: expected a folder or a pulled model, got {_pulled_so_far(text)}. Run: assistant pull {text}"
        )
    return path


def _names_a_repository(text: str) -> bool:
    """Whether a text that is not a path is meant as a model to pull. `runs/mine` is a path if `runs` exists."""
    parts = split_name(text)
    if parts is None:
        return False
    repository, _ = parts
    is_known = repository in KNOWN_MODELS.values()
    return is_known or ("/" in repository and not os.path.isdir(repository.partition("/")[0]))  # noqa: PTH112


def _pulled_so_far(text: str) -> str:
    parts = split_name(text)
    assert parts is not None
    found = snapshots(parts[0])
    if parts[1] is None and found:
        return "an incomplete download"
    others = ", ".join(one.commit[:SHOWN_COMMIT] for one in found if one.is_complete)
    return f"only the commits {others}" if others else "neither"
