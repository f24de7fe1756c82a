"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def shown_path(path: Path) -> str:
    """A path as text that any file can hold: bytes of a name that are no UTF-8 are spelt out."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file in one step, its folder made where it is missing: a reader sees the old content or the new one.

    Text is written as UTF-8. Nothing is left behind where writing fails.
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
