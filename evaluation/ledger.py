"""Files that only grow: one JSON object a line, on the disk before the next is begun, one writer at a time.

A process that is killed while it writes leaves a last line that is torn. Readers leave it out; the next writer cuts it
off first, so that no record is ever glued to a torn one. `judgements.jsonl`, the ledger of what every judge said, is
such a file, and `responses.jsonl` another.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from assistant.config import Frozen
from assistant.errors import DataError, PrerequisiteError
from evaluation.judgement import Attempt, JudgeIdentity
from evaluation.rubric import POINTS_PER_SCORE

Purpose = Literal["score", "ceiling"]
Source = Literal["judge", "exact", "empty"]
Record = TypeVar("Record", bound=BaseModel)


class JudgeLine(Frozen):
    """Opens the work of a judge in the ledger; written whenever it is another than before."""

    kind: Literal["judge"] = "judge"
    fingerprint: str
    identity: JudgeIdentity
    url: str
    created: datetime


class Judgement(Attempt):
    """One attempt at one row, under one judge. The last line with the same `key` and judge is what counts."""

    kind: Literal["judgement"] = "judgement"
    id: str
    response_hash: str
    fingerprint: str
    purpose: Purpose = "score"
    """`ceiling` is an exact match that the judge was asked about all the same; it is no part of the mean."""
    source: Source | None = None
    """Where the score comes from; None without one."""
    created: datetime

    @property
    def key(self) -> Key:
        """What makes two attempts attempts at the same thing."""
        return self.purpose, self.id, self.response_hash

    @property
    def points(self) -> float | None:
        """The score from 0 to 100."""
        return None if self.score is None else float(self.score * POINTS_PER_SCORE)


Key = tuple[Purpose, str, str]
LedgerLine = Annotated[JudgeLine | Judgement, Field(discriminator="kind")]
_LINE: TypeAdapter[JudgeLine | Judgement] = TypeAdapter(LedgerLine)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The ledger as it stands in the file."""

    judges: tuple[JudgeLine, ...]
    judgements: tuple[Judgement, ...]

    @property
    def newest(self) -> JudgeLine | None:
        """The judge of the last scoring run."""
        return self.judges[-1] if self.judges else None

    def outcomes(self, fingerprint: str) -> dict[Key, Judgement]:
        """The last judgement of every key under one judge."""
        return {line.key: line for line in self.judgements if line.fingerprint == fingerprint}


def read_ledger(path: Path) -> Ledger:
    """The ledger; empty where there is no file. Raises DataError for a line that is none of its own."""
    lines = read_lines(path, _LINE)
    return Ledger(
        judges=tuple(line for line in lines if isinstance(line, JudgeLine)),
        judgements=tuple(line for line in lines if isinstance(line, Judgement)),
    )


def now() -> datetime:
    """The time that a record is made, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


# --- files that only grow -----------------------------------------------------------------------------------------


def read_lines(path: Path, adapter: TypeAdapter[Record]) -> list[Record]:
    """The records of a file, without a torn last line. None where there is no file.

    Raises:
        DataError: the file cannot be read, or another line than the last is damaged or of another kind.
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
    """How many bytes of a file of lines are whole: up to the last line end behind which nothing is torn."""
    length = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(length - 1, 0)) + 1
    try:
        json.loads(data[start:length] or b"null")
    except ValueError:  # a line end can reach the disk when what stands before it has not
        return start
    return length


class AppendOnly(Generic[Record]):
    """The one writer of such a file. Opening it makes the folder, takes the lock and cuts a torn last line off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock has a file of its own, so that no reader and no cut can touch it.
        self._lock = path.with_name(f".{path.name}.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise PrerequisiteError(
                f"{path}: expected to be the only one writing, got another process at work on it. "
                f"Wait until it has ended, or choose another --run."
            ) from error
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(sound_length(self._file.read()))

    def __enter__(self) -> AppendOnly[Record]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()  # which gives the lock back

    def append(self, records: Iterable[Record]) -> None:
        """Write the records and wait until they are on the disk."""
        lines = "".join(record.model_dump_json() + "\n" for record in records)
        if lines:
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
