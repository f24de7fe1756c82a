"""The ledger of all judgements, `judgements.jsonl`: every attempt of every judge, in order. Records are only added.

Owns the lines of the ledger and which judgement of a row counts. Does not know how a judge is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from assistant.jsonl import read_lines
from assistant.settings import Frozen
from evaluation.judging.judgement import Attempt, JudgeIdentity

Purpose = Literal[
    "score",
    "ceiling",
    "control:reference",
    "control:other_reference",
    "control:colon",
    "control:echo",
    "control:shuffled",
    "control:empty",
    "control:order",
    "pair:forward",
    "pair:backward",
]
"""`score` counts in the mean. The others do not: `ceiling` is a settled row that the judge was asked about as a check,
and a control item is a response whose right score is known (`controls`). A pair is two responses in one of
two orders (`pair_judge`)."""
Source = Literal["judge", "exact", "accept", "check", "empty"]
"""Where a score comes from: the judge, an exact match or an accepted answer (100), a check (0 or 100), or an empty
response (0)."""


class JudgeLine(Frozen):
    """The first line of a judge's work in the ledger. Written whenever the judge differs from the previous one."""

    kind: Literal["judge"] = "judge"
    fingerprint: str
    identity: JudgeIdentity
    url: str
    created: datetime


class Judgement(Attempt):
    """One attempt at one row by one judge. Of the lines with the same key and judge, the last one counts."""

    kind: Literal["judgement"] = "judgement"
    id: str
    """The row's id; see `evaluation.answers.records.row_ids`."""
    response_hash: str
    fingerprint: str
    """Fingerprint of the judge."""
    purpose: Purpose = "score"
    source: Source | None = None
    """Where the score comes from. None if there is no score."""
    created: datetime

    @property
    def key(self) -> JudgementKey:
        """What was judged: purpose, row id and response hash."""
        return self.purpose, self.id, self.response_hash


JudgementKey = tuple[Purpose, str, str]
LedgerLine = Annotated[JudgeLine | Judgement, Field(discriminator="kind")]
_LINE: TypeAdapter[JudgeLine | Judgement] = TypeAdapter(LedgerLine)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The contents of a ledger file."""

    judges: tuple[JudgeLine, ...]
    judgements: tuple[Judgement, ...]

    @property
    def newest_judge(self) -> JudgeLine | None:
        """The judge that was asked last. None if no judge was asked."""
        return self.judges[-1] if self.judges else None

    def outcomes(self, fingerprint: str) -> dict[JudgementKey, Judgement]:
        """Return the last judgement of every key by one judge."""
        return {line.key: line for line in self.judgements if line.fingerprint == fingerprint}


def read_ledger(path: Path) -> Ledger:
    """Read the ledger. A missing file gives an empty ledger.

    Raises:
        DataError: a complete line is not a valid ledger line.
    """
    lines = read_lines(path, _LINE)
    return Ledger(
        judges=tuple(line for line in lines if isinstance(line, JudgeLine)),
        judgements=tuple(line for line in lines if isinstance(line, Judgement)),
    )
