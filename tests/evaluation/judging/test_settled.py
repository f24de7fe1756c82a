"""Scores without a judge: exact matches, accepted answers, checks, and rows that nobody can score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset import checks
from evaluation.answers.files import import_answers
from evaluation.answers.folder import ResponseRecord, read_answers
from evaluation.judging.scoring import write_metrics
from evaluation.judging.settled import Settled, judged_all_the_same, settle
from evaluation.reports.report import make_report
from tests.support.evaluation_command import score
from tests.support.ollama_double import OllamaDouble


def record(response: str | None, **fields: Any) -> ResponseRecord:
    defaults = {"id": "x", "source": "f.json", "row": 1, "instruction": "Say it.", "reference": "Paris"}
    return ResponseRecord.model_validate(defaults | {"response": response} | fields)


@pytest.mark.parametrize(
    ("row", "points", "source"),
    [
        (record(" Paris\n"), 100, "exact"),
        (record(" \n"), 0, "empty"),
        (record("Rome", accept=["Rom", "Rome "]), 100, "accept"),
        (record("It is Paris.", check={"contains": "Paris"}), 100, "check"),
        (record("It is Rome.", check={"contains": "Paris"}), 0, "check"),
        (record("It is Rome.", check={"contains": "Rome", "max_words": 2}), 0, "check"),
        (record("Paris", check={"contains": "Rome"}), 100, "exact"),
        (record("", reference="", check={"max_words": 3}), 0, "empty"),
        (record("yes", reference="", check={"max_words": 3}), 100, "check"),
        (record("no rhyme", reference="", check={"max_words": 1}, rubric=["Does it rhyme?"]), 0, "check"),
    ],
)
def test_rows_that_need_no_judge(row: ResponseRecord, points: int, source: str) -> None:
    assert settle(row) == Settled(points, source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row",
    [
        record("paris"),
        record("Paris!", accept=["Rome"]),
        record("poem", reference="", rubric=["Does it rhyme?"]),
        record("poem", reference="", check={"max_words": 1}, rubric=["Does it rhyme?"]),
    ],
)
def test_rows_that_need_a_judge(row: ResponseRecord) -> None:
    assert settle(row) is None


def test_rows_that_nobody_can_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "REGEX_SECONDS", 0.01)
    slow = record("a" * 100 + "b", check={"regex": "^(a|aa)+$"})
    rows = [record(None, error="no room"), record(None, too_long=True), record("A", reference=""), slow]
    outcomes = [settle(row) for row in rows]
    assert [outcome and (outcome.points, outcome.source, outcome.unscored) for outcome in outcomes] == [
        (None, None, "no_response"),
        (None, None, "response_too_long"),
        (None, None, "no_reference"),
        (None, None, "check_timeout"),
    ]
    assert outcomes[0] is not None
    assert outcomes[0].detail == "no room"


def test_a_tenth_of_the_settled_rows_is_judged_all_the_same() -> None:
    right = [record("Paris", id=f"{n:016x}") for n in range(31)]
    others = [record("Rome", id="a"), record(" ", id="b"), record("x", id="c", reference="", check={"max_words": 1})]
    wrong = record("Rome", id="d", check={"contains": "Paris"})
    sample = judged_all_the_same([*right, *others, wrong])
    assert len(sample) == 4
    assert all(row.response == "Paris" for row in sample)
    assert [row.id for row in judged_all_the_same([*right[::-1], wrong])] == [row.id for row in sample]


def test_the_report_counts_settled_rows_and_keeps_rows_without_reference_apart(tmp_path: Path) -> None:
    rows = [
        {"instruction": "1", "output": "Paris", "model_response": "Rome", "accept": ["Rome"]},
        {"instruction": "2", "output": "Paris", "model_response": "Rome", "check": {"contains": "Rome"}},
        {"instruction": "3", "output": "Paris", "model_response": "Rome"},
        {"instruction": "4", "output": "Paris", "model_response": "Paris"},
        {"instruction": "5", "check": {"max_words": 1}, "model_response": "two words"},
        {"instruction": "6", "rubric": ["Does it rhyme?"], "model_response": "no"},
    ]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    import_answers(tmp_path / "answers.json", tmp_path / "run")
    write_metrics(read_answers(tmp_path / "run"))
    report = make_report(tmp_path / "run")
    assert (report.n, report.scored, report.mean, report.exact_matches) == (4, 4, 75.0, 1)
    assert (report.reference_free.n, report.reference_free.mean) == (1, 0.0)


@pytest.mark.usefixtures("work_in_tmp_path")
def test_the_ledger_says_what_settled_a_row(tmp_path: Path, double: OllamaDouble) -> None:
    rows = [
        {"instruction": "1", "output": "Paris", "model_response": "Rome", "accept": ["Rome"]},
        {"instruction": "2", "output": "Paris", "model_response": "Oslo", "check": {"contains": "Rome"}},
        {"instruction": "3", "output": "Paris", "model_response": "Rome"},
        {"instruction": "4", "output": "Paris", "model_response": "Paris"},
        {"instruction": "5", "output": "Paris", "model_response": None},
        {"instruction": "6", "output": "Paris", "model_response": " "},
    ]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    report = score(tmp_path / "answers.json", double).json
    assert report["sources"] == {"accept": 1, "check": 1, "judge": 1, "exact": 1, "empty": 1}
    assert report["unscored"] == {"no_response": 1}
    assert (report["scored"], report["mean"]) == (5, (100 + 0 + 60 + 100 + 0) / 5)
    assert report["ceiling"]["rows"] == 1
