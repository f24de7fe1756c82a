"""Limits for CI: what breaks them, and what they accept."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import SettingsError
from evaluation.judging.trust import Level
from evaluation.reports.gates import broken_limits, parse_limit
from evaluation.reports.report import make_report
from evaluation.reports.values import Report
from tests.support.scored_answers import FOUR_ROWS, add_judgements, measured_answers, score_fields, trust_of

LEVELS: tuple[Level, ...] = ("red", "amber")


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """Mean 50 over three rows; one of four has no score."""
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers,
        {0: score_fields(5, "exact"), 1: score_fields(0), 2: score_fields(0, "empty"), 3: {"unscored": "timeout"}},
    )
    return make_report(answers.folder).model_copy(update={"mean": 50.0})


@pytest.mark.parametrize(
    ("fail_under", "max_unscored", "n_broken"),
    [
        (50, None, 0),
        (50.01, None, 1),
        (None, "25%", 0),
        (None, "24.9%", 1),
        (None, "1", 0),
        (None, "0", 1),
        (60, "0", 2),
    ],
)
def test_limits(report: Report, fail_under: float | None, max_unscored: str | None, n_broken: int) -> None:
    assert len(broken_limits(report, fail_under, max_unscored)) == n_broken


def test_report_without_a_score_keeps_no_limit(report: Report) -> None:
    assert broken_limits(report.model_copy(update={"mean": None}), 0, None) == [
        "--fail-under: expected a score of at least 0, got no score."
    ]


def test_score_of_a_red_judge_keeps_no_lowest_score(report: Report) -> None:
    red, amber = (report.model_copy(update={"mean": 99.0, "judge_verdict": trust_of(level)}) for level in LEVELS)
    (sentence,) = broken_limits(red, 60, None)
    assert "red judge" in sentence
    assert broken_limits(red, None, "25%") == broken_limits(amber, 60, None) == []


def test_sentence_names_limit_and_value(report: Report) -> None:
    assert broken_limits(report, 60, "2%") == [
        "--fail-under: expected a score of at least 60, got 50.00.",
        "--max-unscored: expected at most 2% of the rows without a score, got 1 of 4 (25.0 %).",
    ]


@pytest.mark.parametrize("text", ["", "two", "-1", "101%", "1.5", "%", "1e3", "nan"])
def test_bad_limit_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--max-unscored"):
        parse_limit(text)
