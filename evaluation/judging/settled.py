"""Which rows have a score without a judge, and which of them a judge scores all the same.

An exact match after stripping both ends, and an accepted answer, score 100; an empty response scores 0. A check scores
100 or 0. Where a row has a rubric too, only a failed check settles it. Knows no judge and no files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

from assistant.dataset.checks import CheckTimeoutError
from assistant.exact_match import is_exact
from evaluation.answers.folder import ResponseRecord
from evaluation.judging.judgement import Reason
from evaluation.judging.ledger import Source

SETTLED_SHARE = 0.1
SETTLED_SEED = 123
FULL_POINTS = 100


class Settled(NamedTuple):
    """The outcome of a row that needs no judge: points and their source, or the reason why it can have none."""

    points: int | None
    """0 or 100."""
    source: Source | None
    unscored: Reason | None = None
    detail: str | None = None


def settle(record: ResponseRecord) -> Settled | None:
    """Return a row's outcome if it does not need the judge, or None if it does."""
    if record.response is None:
        return Settled(None, None, "response_too_long" if record.too_long else "no_response", record.error)
    if not record.response.strip():
        return Settled(0, "empty")
    if record.reference and is_exact(record.response, record.reference):
        return Settled(FULL_POINTS, "exact")
    if any(is_exact(record.response, answer) for answer in record.accept):
        return Settled(FULL_POINTS, "accept")
    if record.check is not None:
        try:
            passes = record.check.passes(record.response)
        except CheckTimeoutError as error:
            return Settled(None, None, "check_timeout", str(error))
        if not passes or not record.rubric:
            return Settled(FULL_POINTS * passes, "check")
    if not record.reference and not record.rubric:
        return Settled(None, None, "no_reference", "the row has no reference, rubric or check")
    return None


def judged_all_the_same(records: Iterable[ResponseRecord]) -> list[ResponseRecord]:
    """Return a tenth of the rows that are settled with 100 and have a reference, rounded up. Always the same sample.

    The judge's scores of these rows show how high it goes. They do not count in the mean.
    """
    right = []
    for record in records:
        settled = settle(record) if record.reference else None
        if settled is not None and settled.points == FULL_POINTS:
            right.append(record)
    order = sorted(right, key=lambda record: hashlib.sha256(f"{SETTLED_SEED} {record.key}".encode()).hexdigest())
    return order[: math.ceil(SETTLED_SHARE * len(right))]
