"""The report: its figures, its notes, and what it contains if data are missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from evaluation.answers.files import import_answers
from evaluation.answers.folder import RESPONSES_FILE, read_answers
from evaluation.figures import INTERVAL_METHOD
from evaluation.judging.scoring import write_metrics
from evaluation.judging.settled import judged_all_the_same
from evaluation.reports.report import make_report, write_report
from evaluation.reports.values import Report
from tests.conftest import shared_file
from tests.support.scored_answers import (
    FOUR_ROWS,
    IDENTITY,
    ROWS_WITH_CATEGORIES,
    add_judgements,
    measured_answers,
    score_fields,
)

JUDGED_FOUR_ROWS = {0: score_fields(5, "exact"), 1: score_fields(0), 2: score_fields(0, "empty"), 3: score_fields(4)}


def test_score_without_a_judge_is_the_rate_of_exact_matches(tmp_path: Path) -> None:
    report = make_report(measured_answers(tmp_path, FOUR_ROWS).folder)
    assert (report.score, report.n, report.scored, report.mean) == ("exact", 4, 4, 25.0)
    assert report.exact_matches == 1
    assert report.interval == pytest.approx((0.63, 80.59), abs=0.01)  # Clopper and Pearson for 1 of 4
    assert report.unscored == {}
    assert report.judge is None
    assert report.notes == ("No judge has scored the answers, so correct paraphrases count as wrong.",)


def test_book_responses_have_the_published_figures(tmp_path: Path) -> None:
    import_answers(shared_file("data/book-responses.json"), tmp_path)
    write_metrics(read_answers(tmp_path))
    report = make_report(tmp_path)
    assert (report.n, report.exact_matches) == (110, 17)
    assert report.mean == pytest.approx(100 * 17 / 110, abs=1e-3)
    assert report.interval == pytest.approx((9.27, 23.59), abs=0.01)
    assert report.metrics["exact"].mean == report.mean
    low, high = report.metrics["f1"].interval or (0, 0)
    assert low < (report.metrics["f1"].mean or 0) < high
    assert len(report.worst) == 10
    assert make_report(tmp_path) == report


def test_score_with_a_judge_is_the_mean_of_its_points(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, JUDGED_FOUR_ROWS)
    report = make_report(answers.folder)
    assert (report.score, report.mean, report.scored) == ("judge", 45.0, 4)
    assert report.sources == {"exact": 1, "judge": 2, "empty": 1}
    assert report.bounds is not None
    assert (report.bounds.low, report.bounds.high) == (45, 45)
    assert report.interval is not None
    assert report.interval.low < 45 < report.interval.high
    assert report.standard_deviation == pytest.approx(math.sqrt((55**2 + 45**2 + 45**2 + 35**2) / 3), abs=1e-3)
    assert report.judge is not None
    assert (report.judge.model, report.judge.judge_fingerprint) == ("m", IDENTITY.fingerprint)


def test_row_without_a_score_is_left_out_of_the_mean_and_counted(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers, {0: score_fields(5, "exact"), 1: {"unscored": "timeout", "final": False}, 3: score_fields(4)}
    )
    report = make_report(answers.folder)
    assert report.unscored == {"not_judged": 1, "timeout": 1}
    assert report.scored + sum(report.unscored.values()) == report.n == 4
    assert report.mean == 90
    assert report.bounds is not None
    assert (report.bounds.low, report.bounds.high) == (45, 95)
    assert any("from 45.0 to 95.0" in note for note in report.notes)
    assert any("likely too high" in note for note in report.notes)


def test_judge_that_failed_on_every_row_gives_no_score_and_all_rows_are_counted(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: {"unscored": "unparsable"}, 3: {"unscored": "unparsable"}})
    report = make_report(answers.folder)
    assert (report.score, report.mean, report.interval, report.judge_failed) == ("judge", None, None, True)
    assert report.unscored == {"not_judged": 1, "unparsable": 2}
    assert report.scored + sum(report.unscored.values()) == report.n == 4
    assert report.judge is not None
    assert any("gave no usable verdict" in note for note in report.notes)


def test_judge_that_was_asked_about_no_row_is_not_the_source_of_the_score(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact")})
    report = make_report(answers.folder)
    assert (report.score, report.mean, report.judge_failed) == ("exact", 25.0, False)
    assert any("The judge m scored no row" in note for note in report.notes)


def test_verdicts_of_another_version_are_counted(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:2])
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(5, server_version="0.24.0")})
    report = make_report(answers.folder)
    assert report.judge is not None
    assert report.judge.other_versions == {"0.24.0": 1}
    assert any("1 of 0.24.0" in note and "--rejudge" in note for note in report.notes)


def test_scores_of_two_judges_are_not_mixed(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:2])
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(5)})
    newer = IDENTITY.model_copy(update={"digest": "e" * 64})
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(1)}, newer)
    report = make_report(answers.folder)
    assert report.mean == 60
    assert report.judge is not None
    assert (report.judge.judge_fingerprint, report.judge.other_judges) == (newer.fingerprint, 1)
    assert any("1 other judge" in note for note in report.notes)


def test_score_of_another_response_is_not_used(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:2])
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(5, response_hash="0" * 16)})
    assert make_report(answers.folder).mean == 50  # the rate of exact matches: there is no verdict on this response


def test_rows_without_a_response_have_no_score(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    lines = (answers.folder / RESPONSES_FILE).read_text().splitlines()
    refused = json.loads(lines[1]) | {"response": None, "error": "too long"}
    (answers.folder / RESPONSES_FILE).write_text("\n".join([lines[0], json.dumps(refused), lines[2]]) + "\n")
    write_metrics(read_answers(answers.folder))
    report = make_report(answers.folder)
    assert (report.n, report.scored, report.unanswered) == (4, 2, 1)
    assert report.unscored == {"no_response": 2}
    assert report.mean == 50
    assert any("1 of 4 rows are not answered yet" in note for note in report.notes)


def test_report_without_any_score_has_null_and_not_0(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:1])
    line = json.loads((answers.folder / RESPONSES_FILE).read_text()) | {"response": None, "error": "too long"}
    (answers.folder / RESPONSES_FILE).write_text(json.dumps(line) + "\n")
    write_metrics(read_answers(answers.folder))
    report = make_report(answers.folder)
    assert (report.mean, report.interval, report.standard_deviation, report.smallest_difference) == (None,) * 4
    assert report.metrics["chrf"].mean is None
    assert '"mean": null' in report.model_dump_json(indent=1)


def test_each_category_has_its_own_mean_and_interval(tmp_path: Path) -> None:
    report = make_report(measured_answers(tmp_path, ROWS_WITH_CATEGORIES).folder)
    assert [(category.name, category.rows, category.n, category.exact_matches) for category in report.categories] == [
        ("letters", 1, 1, 0),
        ("sums", 3, 3, 2),
        (None, 1, 1, 1),
    ]
    assert report.categories[1].mean == pytest.approx(66.667, abs=1e-3)
    assert report.categories[1].interval is not None
    assert make_report(measured_answers(tmp_path / "run", FOUR_ROWS).folder).categories == ()


def test_small_category_has_a_wide_interval_and_the_report_says_which_interval_it_is(tmp_path: Path) -> None:
    rows = [("x", f"y{number}", "small" if number < 3 else "large") for number in range(14)]
    answers = measured_answers(tmp_path, rows)
    add_judgements(answers, {number: score_fields(5) for number in range(14)})
    report = make_report(answers.folder)
    intervals = {category.name: category.interval for category in report.categories}
    assert intervals["small"] == pytest.approx((100 * 0.025 ** (1 / 3), 100), abs=1e-3)
    assert intervals["large"] == pytest.approx((100 * 0.025 ** (1 / 11), 100), abs=1e-3)
    assert report.interval_method == INTERVAL_METHOD
    assert report.notes == ()


def test_ceiling_check_does_not_count_in_the_mean(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("x", "x")] * 15 + [("x", "y")])
    sample = judged_all_the_same(answers.responses)
    add_judgements(answers, {index: score_fields(5, "exact") for index in range(15)} | {15: score_fields(1)})
    first, second = (answers.responses.index(record) for record in sample)
    add_judgements(answers, {first: score_fields(4, purpose="ceiling"), second: score_fields(2, purpose="ceiling")})
    report = make_report(answers.folder)
    assert report.mean == (15 * 100 + 20) / 16
    assert report.ceiling is not None
    assert report.ceiling.model_dump() == {"rows": 2, "judged": 2, "mean": 60, "lowest": 40}
    assert any("gave 2 exact matches 60 on average" in note for note in report.notes)


def test_worst_rows_come_first_with_the_judges_analysis(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers,
        {
            0: score_fields(5, "exact"),
            1: score_fields(2, analysis="Wrong sum."),
            2: score_fields(0, "empty"),
            3: score_fields(1, analysis="Eh."),
        },
    )
    worst = make_report(answers.folder).worst
    assert [(row.row, row.score, row.analysis) for row in worst] == [
        (3, 0, None),
        (4, 20, "Eh."),
        (2, 40, "Wrong sum."),
    ]


def test_stop_reasons_are_counted(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    records = [record.model_copy(update={"stop_reason": "length"}) for record in answers.responses[:3]]
    lines = [record.model_dump_json() for record in [*records, answers.responses[3]]]
    (answers.folder / RESPONSES_FILE).write_text("\n".join(lines) + "\n")
    report = make_report(answers.folder)
    assert report.stop_reasons == {"length": 3}
    assert any("3 responses were cut at the token limit" in note for note in report.notes)


def test_written_json_is_the_report(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    report = make_report(answers.folder)
    write_report(answers.folder, report, "# Title\n")
    written = json.loads((answers.folder / "report.json").read_text())
    assert Report.model_validate(written) == report
    assert written["interval"] == list(report.interval or ())
    assert (answers.folder / "report.md").read_text() == "# Title\n"
