"""The file of one conversation: a record a line, written at once, by one chat at a time.

Does not know where conversations are kept: `store` does.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from assistant.chat.records import Opened, Record, Titled
from assistant.errors import DataError, PrerequisiteError
from assistant.files import named_errors, shown_path
from assistant.jsonl import sound_length

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


class ConversationFile:
    """The only writer of a conversation's file.

    The file appears with the first record that is worth keeping: a chat that is opened and left again leaves none.
    Records that cannot be written wait, and are written before the next one.

    Args:
        path: The file. It must not exist unless `descriptor` is given.
        descriptor: The file, open for reading and writing, and locked.
        length: Bytes of the file that are kept; what follows is torn.
    """

    def __init__(self, path: Path, *, descriptor: int | None = None, length: int = 0) -> None:
        self.path = path
        self._descriptor = descriptor
        self._length = length
        self._waiting: list[bytes] = []
        self._has_opened = descriptor is not None
        self._is_worth_keeping = descriptor is not None

    @property
    def id(self) -> str:
        """The name of the conversation, for `Store.open`."""
        return self.path.stem

    @property
    def is_open(self) -> bool:
        """Whether there is a file that other chats cannot write to."""
        return self._descriptor is not None

    @property
    def is_saved(self) -> bool:
        """Whether there is a file with all records in it, also after it was closed."""
        return self._length > 0 and not self._waiting

    def append(self, record: Record) -> None:
        """Write a record, and wait until it is on the disk. A second `Opened` is left out.

        Raises:
            DataError: the record cannot be written, for instance because the disk is full. It waits for the next call.
        """
        if isinstance(record, Opened) and self._has_opened:
            return
        self._has_opened |= isinstance(record, Opened)
        self._is_worth_keeping |= not isinstance(record, Opened | Titled)
        self._waiting.append(_line(record))
        self._write_waiting()

    def close(self) -> None:
        """Write what waits, and let other chats have the file.

        Raises:
            DataError: there are records that still cannot be written. The file is closed all the same.
        """
        try:
            self._write_waiting()
        finally:
            if self._descriptor is not None:
                if self._length == 0:
                    self.path.unlink(missing_ok=True)
                os.close(self._descriptor)  # this releases the lock
                self._descriptor = None
            self._is_worth_keeping = False

    def _write_waiting(self) -> None:
        if not (self._waiting and self._is_worth_keeping):
            return
        try:
            with named_errors(self.path):
                if self._descriptor is None:
                    self._descriptor = _create(self.path)
                self._write(self._descriptor, b"".join(self._waiting))
        except OSError as error:
            raise DataError(
                f"{shown_path(self.path)}: expected to save the conversation, got {error.strerror or error}. "
                f"Make room, or change the permissions. What is not saved is kept, and saved with your next message."
            ) from error
        self._waiting.clear()

    def _write(self, descriptor: int, data: bytes) -> None:
        """Write at the end of what is kept, so that a failed attempt is written over."""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], self._length + written)
            os.fsync(descriptor)
        except BaseException:  # also Ctrl-C
            with suppress(OSError):
                os.ftruncate(descriptor, self._length)
            raise
        self._length += len(data)


def _line(record: Record) -> bytes:
    """Return a record as a line. Half a surrogate pair, as in a folder's name that is not UTF-8, becomes `?`."""
    try:
        return record.model_dump_json().encode() + b"\n"
    except PydanticSerializationError:
        text = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace") + b"\n"


class UnsavedFile(ConversationFile):
    """Takes records and writes none."""

    def __init__(self) -> None:
        super().__init__(Path())

    def append(self, record: Record) -> None:
        """Do nothing."""

    @property
    def is_saved(self) -> bool:
        """Nothing is saved."""
        return False


def open_for_writing(path: Path) -> tuple[list[Record], ConversationFile]:
    """Return the records of a file and its writer. A torn last line is left out, and removed.

    Raises:
        DataError: the file is missing, cannot be read or is damaged.
        PrerequisiteError: another chat has it open.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{shown_path(path)}: expected a readable file, got {error.strerror or error}.") from error
    try:
        _lock(descriptor, path)
        with named_errors(path), open(descriptor, "rb", closefd=False) as file:
            data = file.read()
        length = sound_length(data)
        records = parse_records(data[:length], path)
        os.ftruncate(descriptor, length)
    except BaseException:
        os.close(descriptor)
        raise
    return records, ConversationFile(path, descriptor=descriptor, length=length)


def read_conversation_file(path: Path) -> list[Record]:
    """Return the records of a file, also while a chat writes it. A torn last line is left out.

    Raises:
        DataError: the file is missing, cannot be read or is damaged.
    """
    return parse_records(read_lines(path), path)


def read_lines(path: Path) -> bytes:
    """Return the complete lines of a file, without a torn last one. Raises DataError if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{shown_path(path)}: expected a readable file, got {error.strerror or error}.") from error
    return data[: sound_length(data)]


def parse_records(data: bytes, path: Path) -> list[Record]:
    """Return the records of complete lines. `path` is for messages.

    Raises:
        DataError: a line is not a record; the message names it.
    """
    lines = data.split(b"\n")[:-1]
    try:
        records = _all_records().validate_json(b"[" + b",".join(lines) + b"]")  # one call is twice as fast as many
    except ValidationError:
        records = [_parse_line(line, path, number) for number, line in enumerate(lines, start=1)]
    if not records or not isinstance(records[0], Opened):
        raise DataError(f"{shown_path(path)}, row 1: expected the record that opens a conversation, got another.")
    return records


def _parse_line(line: bytes, path: Path, number: int) -> Record:
    try:
        return parse_record(line)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"][1:]) or "the line"
        raise DataError(
            f"{shown_path(path)}, row {number}: expected a record of a conversation, got a fault in {field}: "
            f"{fault['msg']}. Correct that line, or update this program if a newer one wrote it."
        ) from error


def parse_record(line: bytes) -> Record:
    """Return the record of one line. Raises ValidationError."""
    return _one_record().validate_json(line)


@cache
def _all_records() -> TypeAdapter[list[Record]]:
    return TypeAdapter(list[Record])


@cache
def _one_record() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def move_unopened(path: Path, target: Path) -> None:
    """Move a file that no chat has open. Never replaces another file.

    Raises:
        DataError: the file cannot be moved.
        PrerequisiteError: a chat has it open.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(descriptor, path)
            make_private_folder(target.parent)
            if os.path.lexists(target):
                raise FileExistsError(f"a file {shown_path(target)} that is already there")
            path.rename(target)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(
            f"{shown_path(path)}: expected to move it to {shown_path(target.parent)}, got {error.strerror or error}."
        ) from error


def make_private_folder(folder: Path) -> None:
    """Create a folder, and its parents, for this user alone."""
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            place.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def _create(path: Path) -> int:
    """Create a file for this user alone, lock it, and return its descriptor."""
    make_private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        _lock(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PrerequisiteError(
            f"{shown_path(path)}: expected a conversation that no chat has open, got one that is open in another. "
            f"Close it there, or start a new conversation."
        ) from error
    except OSError:
        return  # a file system without locks
    if not path.exists() or path.stat().st_ino != os.fstat(descriptor).st_ino:
        raise DataError(f"{shown_path(path)}: expected a readable file, got one that was just moved away. Try again.")
