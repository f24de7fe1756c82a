"""Files that only grow: one JSON object a line, on the disk before the next is begun, one writer at a time.

A process that is killed while it writes leaves a last line that is torn. Readers leave it out; the next writer cuts it
off first, so that no record is ever glued to a torn one. `judgements.jsonl`, the ledger of what every judge said, is
such a file, and `responses.jsonl` another.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from assistant.jsonl import read_lines
from assistant.settings import Frozen
from evaluation.judgement import Attempt, JudgeIdentity
from evaluation.rubric import POINTS_PER_SCORE

Purpose = Literal["score", "ceiling"]
Source = Literal["judge", "exact", "empty"]


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
