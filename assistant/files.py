"""Atomic file writes, and file names as text."""

from __future__ import annotations

import os
from pathlib import Path


def shown_path(path: Path) -> str:
    """Return a path as valid UTF-8 text. Bytes of the name that are not UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file in one step, so that a reader sees either the old or the new content.

    Creates the folder if needed and writes text as UTF-8. If the write fails, the old file stays and no temporary file
    remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
