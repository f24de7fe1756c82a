"""One row of a report, with all that is known about it: texts, score, reason, metrics. Pages and exports list them all.

`report.json` has only the worst rows. `row-scores.json` beside it has the score of every row and the beginning of its
task, so that an index of many runs reads no ledger and no responses. Does not know how a row is scored, and not how it
looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from assistant.dataset.instructions import Exchange
from assistant.files import write_atomic
from assistant.settings import Frozen
from evaluation.answers.folder import ResponseRecord
from evaluation.answers.metrics import Metrics
from evaluation.judging.judgement import Reason
from evaluation.judging.ledger import Judgement, Source

ROW_SCORES_FILE = "row-scores.json"
BRIEF_LENGTH = 200

Origin = Source | Literal["metric"]
"""Where a score comes from: as in the ledger, or the metric without a judge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRow:
    """A row of the data, its response and its headline score. Scores and metrics go from 0 to 100."""

    id: str
    row: int
    source: str
    category: str | None
    instruction: str
    input: str
    history: tuple[Exchange, ...]
    """Earlier turns of the conversation."""
    reference: str
    response: str | None
    """None if the model gave none."""
    score: float | None
    unscored: Reason | None
    origin: Origin | None
    """None for a row without a score."""
    analysis: str | None
    """The judge's reason for the score."""
    detail: str | None
    """The words of the server, the parser or the model about a row without a score."""
    metrics: Metrics | None
    stop_reason: str | None
    num_tokens: int | None
    looping: bool
    seen_in_training: bool | None
    """Whether the prompt stands in the training data; None if that is not known."""
    reference_bits_per_byte: float | None
    sample: int = 0
    """The number of the response, of several to one row."""
    label: float | None = None
    """A person's label, from 0 to 100."""
    answers: tuple[tuple[str, bool], ...] = ()
    """The questions of the row's rubric, each with the judge's answer."""
    doubt: str | None = None
    """Why the judge's score may mean little."""

    @property
    def cut(self) -> bool:
        """Whether the response ends at the token limit."""
        return self.stop_reason == "length"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRow:
    """One response with its metrics and its headline score."""

    record: ResponseRecord
    metrics: Metrics | None
    score: float | None
    unscored: Reason | None
    outcome: Judgement | None
    """What the ledger says of it."""

    @property
    def label_key(self) -> tuple[str, int]:
        """What a label is stored under: row and sample."""
        return self.record.id, self.record.sample

    def shown(self, label: float | None = None) -> ReportRow:
        """Return the row as pages and exports list it. `label` is the points that people gave."""
        record, outcome = self.record, self.outcome
        origin: Origin | None = None
        if self.score is not None:
            origin = (outcome.source or "judge") if outcome else "metric"
        return ReportRow(
            id=record.key,
            row=record.row,
            source=record.source,
            category=record.category,
            instruction=record.instruction,
            input=record.input,
            history=record.history,
            reference=record.reference,
            response=record.response,
            score=self.score,
            unscored=self.unscored,
            origin=origin,
            analysis=outcome.analysis if outcome else None,
            detail=(outcome.detail if outcome else None) or record.error,
            metrics=self.metrics,
            stop_reason=record.stop_reason,
            num_tokens=record.num_tokens,
            looping=record.is_looping,
            seen_in_training=record.seen_in_training,
            reference_bits_per_byte=record.reference_bits_per_byte,
            sample=record.sample,
            label=label,
            answers=tuple(zip(record.rubric, outcome.answers, strict=False)) if outcome else (),
            doubt=outcome.doubt if outcome else None,
        )


class BriefRow(Frozen):
    """A row in `row-scores.json`. Its texts are cut to `BRIEF_LENGTH` characters."""

    row: int
    source: str
    instruction: str
    input: str
    score: float | None
    """The mean over the row's responses that have a score. None without any."""


class RowScores(Frozen):
    """The contents of `row-scores.json`: every row with a reference, by id."""

    rows: dict[str, BriefRow]


def write_row_scores(folder: Path, rows: Sequence[ReportRow]) -> None:
    """Write `row-scores.json` into the answers folder, in one step."""
    samples: dict[str, list[ReportRow]] = {}
    for row in rows:
        if row.reference:
            samples.setdefault(row.id.removesuffix(f".{row.sample}") if row.sample else row.id, []).append(row)
    brief: dict[str, BriefRow] = {}
    for row_id, (row, *others) in samples.items():
        scores = [one.score for one in (row, *others) if one.score is not None]
        brief[row_id] = BriefRow(
            row=row.row,
            source=row.source,
            instruction=row.instruction[:BRIEF_LENGTH],
            input=row.input[:BRIEF_LENGTH],
            score=math.fsum(scores) / len(scores) if scores else None,
        )
    write_atomic(folder / ROW_SCORES_FILE, RowScores(rows=brief).model_dump_json() + "\n")


def read_row_scores(folder: Path) -> dict[str, BriefRow] | None:
    """Read `row-scores.json`. None if it is missing or damaged: the report can be made again."""
    try:
        return RowScores.model_validate_json((folder / ROW_SCORES_FILE).read_bytes()).rows
    except (OSError, ValidationError):
        return None
