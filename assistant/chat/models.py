"""Which base model a fine-tuned model is compared with, and which models are here. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from assistant.errors import PrerequisiteError
from assistant.escape import shorten
from assistant.interop.inventory import ADAPTER_FILE, CONFIG_FILE, list_models
from assistant.model.config import ModelInfo
from assistant.model.digest import PARTS_OF_A_RUN, recorded_bases, weights_digest
from assistant.shipped import find_model

SHOWN_MODELS = 5
"""Models that a sentence names."""
SHOWN_CHARACTERS = 100
_short = partial(shorten, length=SHOWN_CHARACTERS)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFound:
    """The base model of a fine-tuned model, or why there is none."""

    folder: Path | None
    reason: str = ""
    """A sentence for the person: why no base was found, or what they should know of the one in `folder`. Or empty.
    Names from files may be in it, so it needs escaping."""


def find_base(folder: Path, info: ModelInfo | None, given: str | None) -> BaseFound:
    """Find the base model of the model in `folder`, whose record is `info`. Never raises for what the record says.

    `given` is a path or a name that the person gave, which counts whatever the record says. Without it, the base is
    looked for at the recorded path, then by its name: shipped, pulled, in the current folder, beside the model's folder
    and beside the folder that holds that. If the weights of the base were recorded, only a folder with the same weights
    is taken. To compare them, the whole file is read.
    """
    if given is not None:
        return _given_base(info, given)
    if info is None:
        return BaseFound(folder=None, reason=_why_no_base(folder))
    changed: Path | None = None
    for place in _places(folder, info):
        if not _is_model(place) or _is_same(place, folder):
            continue
        if _has_weights(place, info.base_digest):
            return BaseFound(folder=place)
        changed = changed or place
    name = _short(info.base_model)
    if changed is not None:
        return BaseFound(
            folder=None,
            reason=f"{_short(str(changed))}: expected the weights that {folder.name} was fine-tuned from, got others. "
            f"The base has changed since. To compare with it all the same, use --base {_short(str(changed))}.",
        )
    return BaseFound(
        folder=None,
        reason=f"base model {name}: expected its folder, got none, neither where it was nor by its name. "
        f"Give its folder with --base.",
    )


def missing_model_sentence(name: str) -> str:
    """Return a sentence for a model that does not exist, with the models that are here, the nearest name first.

    It may have names from files in it, so it needs escaping.
    """
    usable = [entry.name for entry in list_models([Path()]) if entry.problem is None]
    nearest = sorted(dict.fromkeys(usable), key=lambda other: -_likeness(name, other))
    more = f" and {len(nearest) - SHOWN_MODELS} more" if len(nearest) > SHOWN_MODELS else ""
    here = f"Here are: {', '.join(map(_short, nearest[:SHOWN_MODELS]))}{more}" if nearest else "No model is here"
    return (
        f"model {_short(name)}: expected a model folder or the name of a model, got neither. {here}. "
        f"To see all, run: assistant models"
    )


# --- the base -----------------------------------------------------------------------------------------------------


def _given_base(info: ModelInfo | None, given: str) -> BaseFound:
    try:
        place = find_model(given)
    except PrerequisiteError as error:
        return BaseFound(folder=None, reason=f"--base: {error}")
    if not _is_model(place):
        return BaseFound(folder=None, reason=f"--base: {missing_model_sentence(given)}")
    if info is not None and not _has_weights(place, info.base_digest):
        return BaseFound(folder=place, reason=f"{_short(given)} has other weights than the model that was fine-tuned.")
    return BaseFound(folder=place)


def _why_no_base(folder: Path) -> str:
    if os.path.isfile(folder / ADAPTER_FILE) and not os.path.isfile(folder / CONFIG_FILE):  # noqa: PTH113
        return (
            f"{_short(folder.name)} is an adapter of another program, without a record of its training. "
            f"To compare it with its base model, give that with --base."
        )
    return (
        f"{_short(folder.name)} is a base model, so there is nothing to compare it with. "
        f"To compare it with another model, give that with --base."
    )


def _places(folder: Path, info: ModelInfo) -> Iterator[Path]:
    """Yield where the base may be, the likeliest place first. Nothing needs to be there."""
    if info.base_path is not None:
        yield from recorded_bases(folder, info.base_path)
    name = info.base_model
    for known in dict.fromkeys((name, name.partition("@")[0]) if info.base_digest is not None else (name,)):
        with suppress(PrerequisiteError):
            yield find_model(known)  # without its revision, the digest says whether it is the right one
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        return  # a repository's name, or no name of a folder
    run = folder.resolve()
    if run.name in PARTS_OF_A_RUN:
        run = run.parent
    yield run.parent / name
    yield run.parent.parent / name


def _is_model(place: Path) -> bool:
    """Whether a folder is a model, or an adapter. os.path: pathlib raises for names that are too long."""
    return any(os.path.isfile(place / file) for file in (CONFIG_FILE, ADAPTER_FILE))  # noqa: PTH113


def _has_weights(place: Path, digest: str | None) -> bool:
    """Whether a folder has the recorded weights. True if none were recorded; False if they cannot be read."""
    try:
        return digest is None or weights_digest(place) == digest
    except OSError:
        return False


def _is_same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)  # noqa: PTH121
    except (OSError, ValueError):
        return False


# --- words --------------------------------------------------------------------------------------------------------


def _likeness(name: str, other: str) -> float:
    """Between 0 and 1: how alike two names are, or their last parts."""
    pairs = ((name, other), (name.rstrip("/").rpartition("/")[2], other.rpartition("/")[2]))
    return max(SequenceMatcher(None, one[:SHOWN_CHARACTERS].lower(), two.lower()).ratio() for one, two in pairs)
