"""Append-only JSONL files: torn lines, the lock, and syncing to disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from assistant.errors import DataError, PrerequisiteError
from assistant.jsonl import AppendOnly, read_lines, sound_length
from assistant.settings import Frozen
from tests.conftest import REPOSITORY


class Note(Frozen):
    text: str


NOTE = TypeAdapter(Note)


def append(path: Path, *texts: str) -> None:
    with AppendOnly[Note](path) as file:
        file.append([Note(text=text) for text in texts])


def read_texts(path: Path) -> list[str]:
    return [note.text for note in read_lines(path, NOTE)]


def test_appended_records_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "notes.jsonl"
    append(path, "one", "line\nend, \u2028 and 東京")
    append(path, "three")
    assert read_texts(path) == ["one", "line\nend, \u2028 and 東京", "three"]
    assert path.read_bytes().count(b"\n") == 3


def test_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_texts(tmp_path / "none.jsonl") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.text(alphabet="ab\n\u00e9\u6771", max_size=5), min_size=1, max_size=4), st.data())
def test_file_cut_at_any_byte_loses_only_the_torn_line(tmp_path: Path, texts: list[str], data: st.DataObject) -> None:
    path = tmp_path / "notes.jsonl"
    path.unlink(missing_ok=True)
    append(path, *texts)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    n_complete = content[:cut].count(b"\n")
    assert read_texts(path) == texts[:n_complete]
    append(path, "after")
    assert read_texts(path) == [*texts[:n_complete], "after"]


@pytest.mark.parametrize("torn", [b'{"text": "ha', b"\x00\x00\x00\n", b'{"text": \n', b"\xff"])
def test_torn_line_is_removed_before_the_next_record(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    append(path, "one")
    path.write_bytes(path.read_bytes() + torn)
    assert read_texts(path) == ["one"]
    append(path, "two")
    assert path.read_bytes() == b'{"text":"one"}\n{"text":"two"}\n'


def test_reading_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n{"te')
    assert read_texts(path) == ["one"]
    assert path.read_bytes() == b'{"text":"one"}\n{"te'


def test_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text":"one"}\n{"text":2}\n{"text":"three"}\n')
    with pytest.raises(DataError, match=r"notes\.jsonl, row 2: expected a record .* fault in text"):
        read_lines(path, NOTE)


def test_sound_length_without_a_complete_line_is_zero() -> None:
    assert sound_length(b"") == 0
    assert sound_length(b"{") == 0


def test_second_writer_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    with AppendOnly[Note](path) as file:
        file.append([Note(text="one")])
        program = (
            "import sys\nfrom pathlib import Path\nfrom assistant.errors import PrerequisiteError\n"
            "from assistant.jsonl import AppendOnly\n"
            "try:\n    AppendOnly(Path(sys.argv[1]))\n"
            "except PrerequisiteError as error:\n    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], cwd=REPOSITORY, capture_output=True, check=True
        )
        assert "got another process at work on it" in done.stdout.decode()
        with pytest.raises(PrerequisiteError):
            AppendOnly(path)
        file.append([Note(text="two")])
    append(path, "three")
    assert read_texts(path) == ["one", "two", "three"]


def test_records_are_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.jsonl"
    synced_sizes: list[int] = []
    fsync = os.fsync

    def record_fsync(fd: int) -> None:
        fsync(fd)
        synced_sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fsync", record_fsync)
    with AppendOnly[Note](path) as file:
        file.append([Note(text="one")])
        file.append([])
        file.append([Note(text="two")])
    assert synced_sizes == [15, 30]
