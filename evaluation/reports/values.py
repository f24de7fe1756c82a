"""The values of a report: one `Report` sums up a scored answers folder. `report.json` contains it.

A figure without data is None and never 0. Does not know how a report is made or how it looks.
"""

from __future__ import annotations

from typing import Literal

from assistant.settings import Frozen
from assistant.statistics import Interval
from evaluation.answers.response_facts import ResponseFacts
from evaluation.figures import Bounds, Mean, SmallestDifference
from evaluation.judging.judgement import JudgeIdentity, Reason
from evaluation.judging.ledger import Source
from evaluation.judging.trust import CorrectedRate, Trust
from evaluation.people.agreement import Agreement

ScoreName = Literal["judge", "exact"]


class Category(Mean):
    """The headline score of one category. `n` is the number of its rows with a score."""

    name: str | None
    """None for the rows without a category."""
    rows: int
    exact_matches: int
    chrf: float | None
    """Mean over the rows that have a response."""
    ended: int
    """Number of responses that the model ended with EOS, before the token limit."""


class Ceiling(Frozen):
    """The judge's scores of exact matches, from 0 to 100. They show how high it goes and do not count in the mean."""

    rows: int
    """Number of exact matches in the sample."""
    judged: int
    mean: float | None
    lowest: float | None


class ShownRow(Frozen):
    """A row in the list of the worst rows."""

    id: str
    row: int
    source: str
    instruction: str
    input: str
    reference: str
    response: str
    score: float
    chrf: float
    analysis: str | None


class JudgeSummary(JudgeIdentity):
    """The judge that was asked last. The report contains only its scores."""

    url: str
    judge_fingerprint: str
    other_judges: int
    """Number of other judges in the ledger. Their scores are kept, but not included here."""
    other_versions: dict[str, int]
    """Number of verdicts by each other version of the server that are included."""


class Report(Frozen):
    """All results of an answers folder. Scores and metrics go from 0 to 100."""

    run: str
    name: str
    kind: Literal["model", "file"]
    template: str | None
    data_files: tuple[str, ...]
    part: str
    score: ScoreName
    """What `mean` summarises: `judge` is the judge's points (exact matches 100), `exact` the rate of exact matches."""
    n: int
    """All rows, including rows without a score and rows without a response."""
    scored: int
    mean: float | None
    interval: Interval | None
    interval_method: str
    standard_deviation: float | None
    smallest_difference: SmallestDifference | None
    bounds: Bounds | None
    exact_matches: int
    unscored: dict[Reason, int]
    """Rows without a score. With several samples, a row counts here if none of its responses has a score."""
    responses: ResponseFacts
    reference_free: Mean
    """The rows without a reference. They count in no other mean, and not in `n`."""
    reference_free_rows: int = 0
    """Rows without a reference, with or without a score."""
    unanswered: int
    """Rows that the model was not asked about yet. They count under `no_response`."""
    sources: dict[Source, int]
    """Where the scores come from."""
    metrics: dict[str, Mean]
    stop_reasons: dict[str, int]
    categories: tuple[Category, ...]
    ceiling: Ceiling | None
    judge: JudgeSummary | None
    judge_verdict: Trust | None = None
    """How far the judge can be trusted. None without a judge."""
    corrected_rate: CorrectedRate | None = None
    """The rate of right rows, corrected for the judge's errors on control items. None without a judge."""
    agreement: Agreement | None = None
    """People's labels against the scores. None without labels."""
    doubted: int = 0
    """Number of responses whose score the judge was unsure about. Only the method `quick` shows that."""
    judge_failed: bool = False
    """Whether the judge was asked and gave no usable verdict at all. Then there is no mean."""
    worst: tuple[ShownRow, ...]
    notes: tuple[str, ...]

    @property
    def scorer(self) -> str:
        """Who gave the scores: the judge's fingerprint, or `exact`. Means of different ones cannot be compared."""
        return self.judge.judge_fingerprint if self.judge else "exact"
