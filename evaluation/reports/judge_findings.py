"""What a ledger shows about its judge: whether it worked, how high it goes, and how far it can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from evaluation.answers.folder import AnswersFolder
from evaluation.judging.controls import KIND_OF
from evaluation.judging.judgement import WITHOUT_JUDGE
from evaluation.judging.ledger import JudgeLine, Judgement, JudgementKey, Ledger
from evaluation.judging.settled import judged_all_the_same
from evaluation.judging.trust import ControlScore, CorrectedRate, Trust, corrected_rate, judge_trust
from evaluation.reports.values import Ceiling, JudgeSummary


def judge_with_scores(answers: AnswersFolder, ledger: Ledger) -> JudgeLine | None:
    """Return the judge that was asked last, unless it was needed and has not been asked about any row yet.

    Exact matches score 100 without the judge. If no row was judged, the mean over them would always be 100.
    """
    judge = ledger.newest_judge
    if judge is None:
        return None
    outcomes = _row_outcomes(answers, ledger, judge)
    was_asked = any(outcome and (outcome.source == "judge" or _needs_judge(outcome)) for outcome in outcomes)
    return judge if was_asked or not any(map(_needs_judge, outcomes)) else None


def has_failed(answers: AnswersFolder, ledger: Ledger, judge: JudgeLine) -> bool:
    """Return whether rows needed the judge, and it has scored none of them."""
    outcomes = _row_outcomes(answers, ledger, judge)
    return any(map(_needs_judge, outcomes)) and not any(one and one.source == "judge" for one in outcomes)


def _needs_judge(outcome: Judgement | None) -> bool:
    """Return whether a row has no score, and only a judge can give it one."""
    return outcome is None or outcome.unscored not in {None, *WITHOUT_JUDGE}


def _row_outcomes(answers: AnswersFolder, ledger: Ledger, judge: JudgeLine) -> list[Judgement | None]:
    outcomes = ledger.outcomes(judge.fingerprint)
    return [outcomes.get(("score", record.id, record.response_hash)) for record in answers.responses]


def ceiling(answers: AnswersFolder, outcomes: Mapping[JudgementKey, Judgement]) -> Ceiling | None:
    """Return the judge's scores of settled rows. None if no row is settled."""
    sample = judged_all_the_same(answers.responses)
    judgements = [outcomes.get(("ceiling", record.id, record.response_hash)) for record in sample]
    points = [judgement.points for judgement in judgements if judgement is not None and judgement.points is not None]
    if not sample:
        return None
    mean = round(math.fsum(points) / len(points), 4) if points else None
    return Ceiling(rows=len(sample), judged=len(points), mean=mean, lowest=min(points, default=None))


def judge_summary(judge: JudgeLine, ledger: Ledger, outcomes: Mapping[JudgementKey, Judgement]) -> JudgeSummary:
    """Return the judge of the report."""
    versions = Counter(
        outcome.server_version
        for outcome in outcomes.values()
        if outcome.source == "judge" and outcome.server_version is not None
    )
    del versions[judge.identity.server_version]
    others = {line.fingerprint for line in ledger.judges} - {judge.fingerprint}
    return JudgeSummary(
        **judge.identity.model_dump(),
        url=judge.url,
        judge_fingerprint=judge.fingerprint,
        other_judges=len(others),
        other_versions=dict(versions),
    )


def trust_in_judge(outcomes: Mapping[JudgementKey, Judgement], pass_mark: float) -> Trust:
    """Return how far the judge can be trusted, from its scores of the control items and of the rows."""
    controls = [outcome for outcome in outcomes.values() if outcome.purpose in KIND_OF]
    scores = [ControlScore(kind=KIND_OF[outcome.purpose], points=outcome.points) for outcome in controls]
    judged = [outcome for outcome in outcomes.values() if outcome.purpose == "score" and outcome.source == "judge"]
    points = [outcome.points for outcome in judged if outcome.points is not None]
    return judge_trust(scores, points, pass_mark=pass_mark)


def corrected_rate_of(rows: Sequence[Judgement], trust: Trust) -> CorrectedRate:
    """Return the rate of right rows, corrected for the judge's errors. `rows` are the outcomes of the report's rows."""
    judged = [row.points for row in rows if row.source == "judge" and row.points is not None]
    settled = [row.points for row in rows if row.source not in {"judge", None} and row.points is not None]
    n_right = sum(points >= trust.pass_mark for points in settled)
    return corrected_rate(
        sum(points >= trust.pass_mark for points in judged),
        len(judged),
        trust,
        settled_right=n_right,
        settled_wrong=len(settled) - n_right,
    )
