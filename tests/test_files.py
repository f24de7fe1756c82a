"""Atomic writes, and file names as text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assistant.files import shown_path, write_atomic


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_atomic(path, "old")

    def fail(_fd: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_write_creates_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.txt"
    write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_bytes_of_a_path_that_are_not_utf8_are_escaped() -> None:
    assert shown_path(Path("dir/東京.json")) == "dir/東京.json"
    assert shown_path(Path(os.fsdecode(b"bad\xff.json"))) == "bad\\xff.json"
