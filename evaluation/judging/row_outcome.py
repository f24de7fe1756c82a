"""The headline score of one response: the judge's, or what is known without a judge. Report and comparison share it."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.answers.folder import ResponseRecord
from evaluation.judging.judgement import Reason
from evaluation.judging.ledger import Judgement, JudgementKey
from evaluation.judging.scoring import outcome_of
from evaluation.judging.settled import settle

Outcomes = Mapping[JudgementKey, Judgement]


def headline_score(record: ResponseRecord, outcomes: Outcomes | None) -> tuple[float | None, Reason | None]:
    """Return the points of a response from 0 to 100, or the reason why it has none.

    `outcomes` are the judge's, or None without a judge. Then a response that does not match its reference is wrong.
    """
    if outcomes is not None:
        return outcome_of(record, outcomes)
    settled = settle(record)
    if settled is not None:
        return settled.points, settled.unscored
    return (None, "not_judged") if record.is_reference_free else (0.0, None)
