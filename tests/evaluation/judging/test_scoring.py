"""Scoring of an answers folder: metrics of all responses, and the check of the judge with exact matches.

Runs with a judge are tested through the command, in `test_cli_score`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import DataError
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE, METRICS_FILE, outcome_of, read_metrics
from evaluation.judging.settled import judged_all_the_same
from tests.support.scored_answers import FOUR_ROWS, IDENTITY, add_judgements, measured_answers, score_fields


def test_metrics_are_read_back_by_row(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    metrics = read_metrics(answers)
    assert [metrics[record.id].exact for record in answers.responses] == [True, False, False, False]


def test_responses_without_metrics_are_refused(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    path = answers.folder / METRICS_FILE
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match=r"all 4 responses, got none for 1 of them\. Run: evaluation score"):
        read_metrics(answers)


def test_ceiling_sample_is_a_tenth_of_the_exact_matches_and_always_the_same(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("x", "x")] * 15 + [("x", "y")])
    sample = judged_all_the_same(answers.responses)
    assert len(sample) == 2
    assert sample == judged_all_the_same(answers.responses)
    assert all(record.response == record.reference for record in sample)


def test_outcome_is_the_points_or_the_reason(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: {"unscored": "timeout", "final": False}})
    outcomes = read_ledger(answers.folder / LEDGER_FILE).outcomes(IDENTITY.fingerprint)
    exact, wrong, empty, _ = answers.responses
    assert outcome_of(exact, outcomes) == (100, None)
    assert outcome_of(wrong, outcomes) == (None, "timeout")
    assert outcome_of(empty, outcomes) == (None, "not_judged")
    unanswered = empty.model_copy(update={"response": None})
    assert outcome_of(unanswered, {}) == (None, "no_response")
