"""The scores of a model, in its own folder: `scores.jsonl`. `assistant models` and the chat show the newest.

The chat also suggests the rows of a line that the model answered right. A line is added when a report of the model's
answers is made. Does not know how answers are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from itertools import islice, zip_longest
from pathlib import Path

from pydantic import TypeAdapter

from assistant.errors import AssistantError
from assistant.exact_match import is_exact
from assistant.jsonl import AppendOnly, read_lines
from assistant.model.config import SCORES_FILE
from assistant.model.digest import weights_digest
from assistant.settings import Frozen
from assistant.shipped import POCKET, shipped
from assistant.statistics import Interval
from evaluation.answers.folder import AnswersFolder, ResponseRecord
from evaluation.answers.records import now
from evaluation.reports.values import Report

N_RIGHT_ROWS = 6
LONGEST_RIGHT_ROW = 80
"""Characters of the instruction and the input together."""


class RightRow(Frozen):
    """A short held-out row that the model answered right. The chat suggests it as a first question."""

    instruction: str
    input: str = ""


class ScoreLine(Frozen):
    """One report of a model's answers. `mean` goes from 0 to 100."""

    mean: float
    interval: Interval | None
    n: int
    """Rows with a score."""
    rows: int
    judge: str | None
    """None if the score is the rate of exact matches."""
    metric: str
    judge_level: str | None
    """How far the judge can be trusted."""
    part: str
    data_files: tuple[str, ...]
    run: str
    created: datetime
    right: tuple[RightRow, ...] = ()
    """Empty in a line of an older version, too."""


LINE: TypeAdapter[ScoreLine] = TypeAdapter(ScoreLine)


def log_score(answers: AnswersFolder, report: Report) -> Path | None:
    """Add the report's score to the folder of the model that gave the answers. Returns the file.

    Returns None, and writes nothing, if there is no score, if the answers are not of a model folder, if the weights
    have changed since, if the newest line is the same, or if the folder cannot be written.
    """
    folder = Path(answers.info.path)
    if report.mean is None or answers.info.kind != "model" or folder.resolve() == shipped(POCKET).resolve():
        return None
    if answers.info.digest is None or weights_digest(folder) != answers.info.digest:
        return None
    path = folder / SCORES_FILE
    line = ScoreLine(
        mean=report.mean,
        interval=report.interval,
        n=report.scored,
        rows=report.n,
        judge=None if report.judge is None else report.judge.model,
        metric="exact match" if report.judge is None else "judge",
        judge_level=None if report.judge_verdict is None else report.judge_verdict.level,
        part=report.part,
        data_files=report.data_files,
        run=report.run,
        created=now(),
        right=right_rows(answers.responses, part=report.part),
    )
    try:
        with AppendOnly[ScoreLine](path) as file:
            lines = read_lines(path, LINE)
            if not lines or lines[-1].model_copy(update={"created": line.created}) != line:
                file.append([line])
    except (OSError, AssistantError):
        return None
    return path


def right_rows(responses: Iterable[ResponseRecord], *, part: str) -> tuple[RightRow, ...]:
    """Choose up to six short rows whose response equals the reference, of as many categories as possible.

    Rows that the model was trained on, or may have been, are left out, and so are those with a history, with more than
    one line, and with characters that a terminal does not show. The choice depends on the rows only.
    """
    rows = [row for row in responses if _is_short_and_right(row) and _is_held_out(row, part)]
    rows.sort(key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())
    by_category: dict[str | None, list[ResponseRecord]] = {}
    for row in rows:
        by_category.setdefault(row.category, []).append(row)
    # The first row of each category, then the second of each, and so on.
    rounds = (row for each in zip_longest(*by_category.values()) for row in each if row is not None)
    return tuple(RightRow(instruction=row.instruction, input=row.input) for row in islice(rounds, N_RIGHT_ROWS))


def _is_held_out(row: ResponseRecord, part: str) -> bool:
    return row.seen_in_training is False or (row.seen_in_training is None and part == "test")


def _is_short_and_right(row: ResponseRecord) -> bool:
    return (
        row.sample == 0
        and not row.history
        and len(row.instruction) + len(row.input) <= LONGEST_RIGHT_ROW
        and (row.instruction + row.input).isprintable()
        and bool(row.response and row.reference)
        and is_exact(row.response or "", row.reference)
    )
