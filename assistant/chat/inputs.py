"""The history of sent messages, which the arrow keys recall, also those of earlier chats. Knows no widgets."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assistant.chat.conversation_file import PRIVATE_FILE, make_private_folder
from assistant.files import shown_path

KEPT = 500
"""Messages that the file keeps."""
MOST_LINES = 2 * KEPT
"""Lines of the file at which a new chat writes it again, with the newest messages alone."""
LONGEST_KEPT = 100_000
"""Characters of a message. A longer one is recalled in its own chat alone."""


class InputHistory:
    """The sent messages, oldest first, followed by the draft.

    If the user edits an entry and moves on, the edit stays until the next message is sent.

    Args:
        path: The file that keeps the newest messages for later chats. Several chats may share it; each recalls what
            was there when it began, and its own messages. None: they are forgotten.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = None if path is None else InputFile(path)
        self._edited: dict[int, str] = {}
        self.problem = ""
        """Why messages of this chat are not kept for later ones. Empty if they are."""
        self._sent: list[str] = []
        if self._file is not None:
            try:
                self._sent = self._file.read()
            except OSError as error:
                self.problem = self._describe(error)
        self._position = len(self._sent)

    def add(self, text: str) -> None:
        """Add a sent message and return to an empty draft. A repeated message is stored once."""
        if not self._sent or self._sent[-1] != text:
            self._sent.append(text)
            self._keep(text)
        self.reset()

    def reset(self) -> None:
        """Discard all edits and return to an empty draft."""
        self._edited.clear()
        self._position = len(self._sent)

    def earlier(self, current: str) -> str | None:
        """Save `current` and return the entry before it, or None at the oldest entry."""
        return self._move(-1, current)

    def later(self, current: str) -> str | None:
        """Save `current` and return the entry after it, or None at the draft."""
        return self._move(1, current)

    def _move(self, step: int, current: str) -> str | None:
        target = self._position + step
        if not 0 <= target <= len(self._sent):
            return None
        self._edited[self._position] = current
        self._position = target
        return self._edited.get(target, self._sent[target] if target < len(self._sent) else "")

    def _keep(self, text: str) -> None:
        """Write a message to the file. A history that cannot be written must not keep anybody from talking."""
        if self._file is not None and len(text) <= LONGEST_KEPT:
            try:
                self._file.append(text)
                self.problem = ""
            except OSError as error:
                self.problem = self._describe(error)

    def _describe(self, error: OSError) -> str:
        place = "" if self._file is None else f"{shown_path(self._file.path)}: "
        return f"{place}expected to keep what you type for later chats, got {error.strerror or error}."


class InputFile:
    """A file of messages: one JSON text a line, exactly as it was typed. Many processes may use it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        """Return the newest messages, oldest first. Damaged lines are left out.

        Raises:
            OSError: the file cannot be read.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")
        if len(lines) > MOST_LINES:
            with self._locked():
                lines = self._shorten()
        return [text for line in lines[-KEPT - 1 :] if (text := _parse(line)) is not None]

    def append(self, text: str) -> None:
        """Add a message. Raises OSError if it cannot be written."""
        line = json.dumps(text).encode() + b"\n"
        make_private_folder(self.path.parent)
        with self._locked():
            descriptor = _open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line  # a process was killed while it wrote
                if os.write(descriptor, line) < len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)

    def _shorten(self) -> list[bytes]:
        """Write the file again with its newest lines alone, and return them. The caller holds the lock."""
        lines = self.path.read_bytes().split(b"\n")[-KEPT - 1 :]
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = _open(temporary, os.O_WRONLY)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"\n".join(lines))
        temporary.replace(self.path)
        return lines

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait for the other processes. The lock is a file of its own, because this one may be replaced."""
        descriptor = _open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)


def _parse(line: bytes) -> str | None:
    try:
        text = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(text, str) and text else None
