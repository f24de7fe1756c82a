"""The next command of a report: what is missing decides, and it can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer.main

import evaluation.cli.app
from evaluation.judging.rubric import Method
from evaluation.judging.trust import Level
from evaluation.people.agreement import RowScore, measure_agreement
from evaluation.reports.advice import next_step
from evaluation.reports.report import make_report
from tests.support.scored_answers import FOUR_ROWS, add_judgements, measured_answers, score_fields, trust_of

URL = "http://127.0.0.1:1"


def test_without_a_judge_it_is_a_judge(tmp_path: Path) -> None:
    place = tmp_path / "it's"
    place.mkdir()
    folder = measured_answers(place, FOUR_ROWS).folder
    command = next_step(make_report(folder)).command
    assert shlex.split(command) == ["evaluation", "score", str(folder), "--judge", "llama3.1"]
    assert "--judge" in {name for item in _commands()["score"].params for name in item.opts}


@pytest.mark.parametrize(
    ("fields", "level", "words"),
    [
        ({"unscored": "timeout"}, "green", ["score", "--judge", "m", "--host", "http://127.0.0.1:1"]),
        (score_fields(1), "green", ["label", "--count", "20"]),
        (score_fields(1), "red", ["score", "--judge", "llama3.1", "--host", "http://127.0.0.1:1"]),
        ({"unscored": "timeout"}, "red", ["score", "--judge", "llama3.1", "--host", "http://127.0.0.1:1"]),
        ({"unscored": "unparsable"}, "untested", ["label", "--count", "20"]),
    ],
)
def test_what_is_missing_decides(tmp_path: Path, fields: dict[str, object], level: Level, words: list[str]) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: fields, 2: score_fields(0, "empty"), 3: score_fields(4)})
    verdict = trust_of(level)
    report = make_report(answers.folder).model_copy(update={"judge_verdict": verdict})
    parts = shlex.split(next_step(report).command)
    assert [part for part in parts[1:] if part != str(answers.folder)] == words


@pytest.mark.parametrize(
    ("fields", "url", "words"),
    [
        ({"rubric": Method(name="quick").hash}, URL, ["--judge", "m", "--host", URL, "--method", "quick"]),
        ({"api": "openai"}, URL, ["--api", "openai", "--judge", "m", "--host", URL]),
        ({"options": {"num_ctx": 8192}}, URL, ["--num-ctx", "8192", "--judge", "m", "--host", URL]),
        ({}, f"{URL}, http://127.0.0.1:2", ["--judge", "m", "--host", URL, "--host", "http://127.0.0.1:2"]),
        ({}, "http://127.0.0.1:11434", ["--judge", "m"]),
    ],
)
def test_same_judge_goes_on_with_its_own_options(
    tmp_path: Path, fields: dict[str, object], url: str, words: list[str]
) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(1)})
    report = make_report(answers.folder)
    assert report.judge is not None
    assert "not_judged" in report.unscored
    judge = report.judge.model_copy(update={"rubric": Method().hash, "url": url} | fields)
    verdict = trust_of("green")
    step = next_step(report.model_copy(update={"judge": judge, "judge_verdict": verdict}))
    assert shlex.split(step.command) == ["evaluation", "score", str(answers.folder), *words]
    assert step.purpose == "ask about the rows that have no score yet"
    own = next_step(report.model_copy(update={"judge_verdict": verdict}))
    assert own.purpose.endswith("with your --method, --rubric and --prompt")


def test_red_judge_without_another_one_needs_labels(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {1: score_fields(1)})
    report = make_report(answers.folder)
    assert report.judge is not None
    for fields in ({"api": "openai"}, {"model": "llama3.1:8b"}):
        judge = report.judge.model_copy(update=fields)
        step = next_step(report.model_copy(update={"judge": judge, "judge_verdict": trust_of("red")}))
        assert shlex.split(step.command) == ["evaluation", "label", str(answers.folder), "--count", "20"]


def _commands() -> dict[str, typer.core.TyperCommand]:
    return typer.main.get_command(evaluation.cli.app.app).commands  # type: ignore[attr-defined,no-any-return]


def test_after_twenty_labels_it_is_the_index(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers, {0: score_fields(5, "exact"), 1: score_fields(1), 2: score_fields(0, "empty"), 3: score_fields(4)}
    )
    points = [RowScore(id=str(number), score=number, label=number) for number in range(20)]
    report = make_report(answers.folder).model_copy(update={"judge_verdict": trust_of("green")})
    for n_labels, command in ((19, "label"), (20, "runs")):
        labelled = report.model_copy(update={"agreement": measure_agreement(points[:n_labels])})
        assert shlex.split(next_step(labelled).command)[1] == command
