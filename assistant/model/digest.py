"""What identifies the weights of a model folder, and where a fine-tuned model finds its base. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PARTS_OF_A_RUN = ("last", "best")
"""Model folders inside a run's folder."""


def weights_digest(folder: Path) -> str | None:
    """Return 64 hex digits of the weights of a model folder: of all its safetensors files, in the order of their names.

    None if there are no such files: weights in another format have no digest. The digest of an adapter's folder is that
    of the adapter, without its base model.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def record_base_path(base: Path, run: Path) -> str | None:
    """Return the path of a base model as a run's record has it, with `/` between names.

    It is relative to the run's folder, so that it stays right when a folder that holds both is moved, and whatever the
    current folder is. It is absolute if the two have only the root in common. None if a name is not UTF-8.
    """
    base, run = base.resolve(), run.resolve()
    are_close = base.anchor == run.anchor and len(Path(os.path.commonpath([base, run])).parts) > 1
    path = Path(os.path.relpath(base, run)) if are_close else base
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        return None
    return path.as_posix()


def recorded_bases(folder: Path, base_path: str) -> list[Path]:
    """Return the folders that a recorded path may mean, for a model folder that has the record.

    The weights in a run's `last` and `best` have the record of the run.
    """
    folder = folder.resolve()
    places = [folder, folder.parent] if folder.name in PARTS_OF_A_RUN else [folder]
    # Both paths were without links, so `..` is what precedes it.
    return list(dict.fromkeys(Path(os.path.normpath(place / base_path)) for place in places))
