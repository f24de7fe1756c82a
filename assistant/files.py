"""Atomic file writes, and file names as text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from assistant.errors import SettingsError

CACHE_NAME = "instruction-assistant"
"""Name of the project's folders among those of the user."""
DATA_VARIABLE = "ASSISTANT_DATA_DIR"
"""The environment variable that names another folder for what a person made in the chat."""


def shown_path(path: Path) -> str:
    """Return a path as valid UTF-8 text. Bytes of the name that are not UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def user_cache_folder() -> Path | None:
    """The folder for what may be computed again; None for a user without a home directory. It may not exist yet."""
    import platformdirs

    try:
        path = platformdirs.user_cache_path(CACHE_NAME)
    except RuntimeError:
        return None
    return path if path.is_absolute() else None  # older versions of platformdirs return a path that begins with "~"


def user_data_folder() -> Path | None:
    """The folder for what a person made, which nobody can compute again; None for a user without a home directory.

    `ASSISTANT_DATA_DIR` names another. The folder may not exist yet.
    """
    import platformdirs

    named = os.environ.get(DATA_VARIABLE, "")
    try:
        path = Path(named).expanduser().absolute() if named else platformdirs.user_data_path(CACHE_NAME)
    except RuntimeError:
        return None
    return path if path.is_absolute() else None


def make_folder(path: Path) -> None:
    """Create a folder and its parents, where they do not exist.

    Raises:
        SettingsError: a file, or a symbolic link to nothing, is in the way.
    """
    check_can_be_folder(path)
    path.mkdir(parents=True, exist_ok=True)


def check_can_be_folder(path: Path) -> None:
    """Raise SettingsError if a file or a symbolic link to nothing is where this folder or a parent should be."""
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if place.is_symlink() and not place.exists():
            raise SettingsError(
                f"{place}: expected a folder or nothing, got a symbolic link to {os.readlink(place)}, "  # noqa: PTH115
                f"which does not exist. Create that folder, or choose another."
            )
        if place.exists():
            raise SettingsError(f"{place}: expected a folder or nothing, got a file. Choose another folder.")


def check_writable(folder: Path) -> None:
    """Raise SettingsError if this folder, or the one that it would be created in, is read-only."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    if not os.access(existing, os.W_OK | os.X_OK):
        place = folder if existing == folder.absolute() else existing
        raise SettingsError(
            f"{place}: expected a folder that you may write to, got a read-only one. "
            f"Change its permissions, or choose another folder."
        )


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give an OSError in the block the name of this file. `write` and `fsync` give none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # without one, str(error) would lose the message
            error.filename = str(path)
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file in one step by this content, with text as UTF-8. Raises as `replaced_file`."""
    with replaced_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` in one step, so that a reader sees either the old or the new content.

    Creates the folder if needed. If the block fails, the old file stays and no temporary file remains.

    Raises:
        OSError: the file cannot be written; it has the file's name.
        SettingsError: the folder cannot be created, because something is in the way.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with named_errors(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
