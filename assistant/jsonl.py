"""Append-only JSONL files: one JSON object per line, synced to disk after each append, one writer at a time.

A process that is killed while it writes leaves a torn last line. Readers skip a torn line. The next writer removes it
first, so that a new record never continues a torn one. This module does not know what the records mean.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from assistant.errors import DataError, PrerequisiteError

Record = TypeVar("Record", bound=BaseModel)


def read_lines(path: Path, adapter: TypeAdapter[Record]) -> list[Record]:
    """Read the records of a file and skip a torn last line. A missing file has no records.

    Raises:
        DataError: the file cannot be read, or a complete line does not hold a valid record.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror or error}.") from error
    records = []
    for number, line in enumerate(data[: sound_length(data)].split(b"\n")[:-1], start=1):
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(str(part) for part in fault["loc"]) or "the line"
            raise DataError(
                f"{path}, row {number}: expected a record of this program, got a fault in {field}: {fault['msg']}. "
                f"Move the file away and run the command again."
            ) from error
    return records


def sound_length(data: bytes) -> int:
    """Return the number of bytes before a torn last line, or the whole length if no line is torn."""
    length = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(length - 1, 0)) + 1
    try:
        json.loads(data[start:length] or b"null")
    except ValueError:  # After a crash, the line end can be on the disk although the bytes before it are not.
        return start
    return length


class AppendOnly(Generic[Record]):
    """The only writer of an append-only JSONL file.

    Opening it creates the folder, takes the lock and removes a torn last line.

    Raises:
        PrerequisiteError: another process has the file open for writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is a separate file, so that truncation and readers cannot affect it.
        self._lock = path.with_name(f".{path.name}.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise PrerequisiteError(
                f"{path}: expected to be the only writer, got another process at work on it. "
                f"Wait until it ends, or choose another --run."
            ) from error
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(sound_length(self._file.read()))

    def __enter__(self) -> AppendOnly[Record]:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.close()  # This releases the lock.

    def append(self, records: Iterable[Record], *, sync: bool = True) -> None:
        """Write the records and wait until they are on the disk. Without records, do nothing.

        Without `sync`, they survive the end of this process, and a power cut only after `sync()`.
        """
        lines = "".join(record.model_dump_json() + "\n" for record in records)
        if lines:
            self._file.write(lines.encode())
            self._file.flush()
            if sync:
                self.sync()

    def sync(self) -> None:
        """Wait until everything written is on the disk. May run in another thread."""
        os.fsync(self._file.fileno())
