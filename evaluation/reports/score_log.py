"""The scores of a model, in its own folder: `scores.jsonl`. `assistant models` and the chat show the newest.

A line is added when a report of the model's answers is made. Does not know how answers are scored.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter

from assistant.errors import AssistantError
from assistant.jsonl import AppendOnly, read_lines
from assistant.model.digest import weights_digest
from assistant.settings import Frozen
from assistant.shipped import POCKET, shipped
from assistant.statistics import Interval
from evaluation.answers.folder import AnswersFolder
from evaluation.answers.records import now
from evaluation.reports.values import Report

SCORES_FILE = "scores.jsonl"


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
    )
    try:
        with AppendOnly[ScoreLine](path) as file:
            lines = read_lines(path, LINE)
            if not lines or lines[-1].model_copy(update={"created": line.created}) != line:
                file.append([line])
    except (OSError, AssistantError):
        return None
    return path
