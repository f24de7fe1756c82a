"""What `scores.jsonl` in a model's folder holds for the chat: its newest score, and questions that it can answer.

`evaluation score` writes the file; this module reads nothing else of evaluation's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assistant.escape import one_line
from assistant.interop.inventory import score_records

MAX_SUGGESTIONS = 6
LONGEST_SUGGESTION = 80
"""Characters of the instruction and the input together."""
LONGEST_JUDGE = 24


class Suggestion(NamedTuple):
    """A question for the welcome: a held-out row that the model answered right."""

    instruction: str
    input: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScore:
    """The newest score of a model."""

    mean: float
    """From 0 to 100."""
    n: int | None
    """Rows with a score. None if the line does not have it."""
    judge: str | None
    """None if the score is the rate of exact matches. Escaped for one line."""
    judge_level: str | None
    """How far the judge can be trusted: `red` is not at all. None without a judge."""
    is_held_out: bool
    """Whether the rows were the test part of the model's own data."""

    @property
    def words(self) -> str:
        """The score for the title line, such as `held-out 62 % of 594`."""
        what = "held-out" if self.is_held_out else "scored"
        rows = "" if self.n is None else f" of {self.n}"
        if self.judge is None:
            return f"{what} {_rounded(self.mean)} %{rows}"
        doubt = "?" if self.judge_level == "red" else ""
        return f"{what} {_rounded(self.mean)}{doubt} points{rows} by {self.judge}"


def read_score(folder: Path) -> ModelScore | None:
    """Return the newest score of the model's test rows, or else its newest score. None without any."""
    scores = [_score(record) for record in score_records(folder)]
    return next((score for score in scores if score.is_held_out), scores[0] if scores else None)


def read_suggestions(folder: Path) -> tuple[Suggestion, ...]:
    """Return the questions of the newest line that has any. What is damaged is left out."""
    for record in score_records(folder):
        rows = record.get("right")
        found = [_suggestion(row) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        suggestions = [suggestion for suggestion in found if suggestion is not None]
        if suggestions:
            return tuple(suggestions[:MAX_SUGGESTIONS])
    return ()


def _score(record: dict[str, Any]) -> ModelScore:
    n, judge, level = record.get("n"), record.get("judge"), record.get("judge_level")
    return ModelScore(
        mean=float(record["mean"]),
        n=n if isinstance(n, int) and not isinstance(n, bool) and 0 < n < 10**9 else None,
        judge=one_line(judge)[:LONGEST_JUDGE] if isinstance(judge, str) and judge.strip() else None,
        judge_level=level if isinstance(level, str) else None,
        is_held_out=record.get("part") == "test",
    )


def _suggestion(row: dict[str, Any]) -> Suggestion | None:
    instruction, input_ = row.get("instruction"), row.get("input", "")
    if not isinstance(instruction, str) or not isinstance(input_, str) or not instruction.strip():
        return None
    is_short = len(instruction) + len(input_) <= LONGEST_SUGGESTION
    return Suggestion(instruction, input_) if is_short and (instruction + input_).isprintable() else None


def _rounded(mean: float) -> str:
    """Return a mean without decimals. Only a mean of exactly 0 or 100 is shown as one."""
    if 0 < mean < 1:
        return "<1"
    return ">99" if 99 < mean < 100 else f"{mean:.0f}"
