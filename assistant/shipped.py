"""Paths of the shipped instruction set and of models: shipped, pulled, or a folder."""

from __future__ import annotations

import os
from pathlib import Path

from assistant.errors import PrerequisiteError
from assistant.hub_cache import KNOWN_MODELS, SHOWN_COMMIT, find_pulled, snapshots, split_name

POCKET = "pocket"
ROWS = ("instructions.json", "talk.json", "conversations.json", "practice.json")
"""The shipped rows that the demo trains on and tests with."""
FREE_FORM = frozenset(
    {
        "about_itself", "advice", "conversation", "definitions", "description", "explanation", "feelings", "greetings",
        "how_to", "jokes", "little_texts", "make_sentence", "not_learnt", "rhymes", "short_list", "short_writing",
        "small_talk", "synonyms", "thanks", "why", "yes_no",
    }
)  # fmt: skip
"""Categories of the shipped rows with more than one right answer."""
COUNTED_APART = FREE_FORM | {"practice", "practice_talk"}
"""These, and more rows of the others, which the demo's result does not count."""
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
    parts = None if os.path.lexists(path) else split_name(text)
    if parts and (parts[0] in KNOWN_MODELS.values() or _may_be_repository(parts[0])):
        so_far, is_known = _pulled_so_far(*parts), parts[0] in KNOWN_MODELS.values()
        here = "" if is_known else "`assistant models` lists what is here. If it is on the Hugging Face Hub, run"
        raise PrerequisiteError(
            f"model {text}: expected a folder or a pulled model, got {so_far}. {here or 'Run'}: assistant pull {text}"
        )
    return path


def _may_be_repository(name: str) -> bool:
    """Whether a name is meant as that of a repository. `runs/mine` is a path if `runs` exists."""
    return "/" in name and not os.path.isdir(name.partition("/")[0])  # noqa: PTH112


def _pulled_so_far(repository: str, revision: str | None) -> str:
    found = snapshots(repository)
    if revision is None and found:
        return "an incomplete download"
    others = ", ".join(one.commit[:SHOWN_COMMIT] for one in found if one.is_complete)
    return f"only the commits {others}" if others else "neither"
