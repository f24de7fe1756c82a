"""The command `evaluation score` with an Ollama double: complete runs, failures, interruptions, and repetition."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from assistant.jsonl import AppendOnly
from evaluation.judging.judgement import TRANSIENT
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE
from evaluation.judging.verdict_cache import VERDICTS_FILE
from tests.conftest import shared_file
from tests.support.evaluation_command import evaluation, score
from tests.support.ollama_double import (
    Answer,
    Behaviour,
    Cut,
    Failure,
    JsonObject,
    NoDone,
    OllamaDouble,
    Scripted,
    StreamError,
    Truncated,
    busy,
    load_failed,
    missing_model,
    too_long_nested,
    verdict,
)

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")


def questions(double: OllamaDouble) -> list[str]:
    """Return the questions to the judge, without the requests that only load the model."""
    return [body["messages"][0]["content"] for body in double.chat() if body["messages"]]


def script_row(double: OllamaDouble, row: int, *behaviours: Scripted) -> None:
    """Let the double answer the questions about one row with these behaviours, and all others with 3 points."""
    left = deque(behaviours)

    def answer(body: JsonObject) -> Behaviour:
        behaviour = left.popleft() if left and f"Guess {row}." in str(body["messages"]) else verdict(3)
        return behaviour(body) if callable(behaviour) else behaviour

    double.default = answer


def test_file_is_scored_without_a_judge(answers: Path) -> None:
    result = evaluation("score", answers, "--json")
    assert result.code == 0
    assert (result.json["n"], result.json["exact_matches"], result.json["score"]) == (12, 2, "exact")
    low, high = result.json["interval"]
    assert low < result.json["mean"] < high
    assert {file.name for file in Path("runs/answers").iterdir() if not file.name.startswith(".")} == {
        "run.json",
        "responses.jsonl",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "report.md",
        "row-scores.json",
    }
    assert json.loads(Path("runs/answers/report.json").read_text()) == result.json
    assert evaluation("report", "runs/answers", "--json").json == result.json
    assert evaluation("score", "runs/answers", "--json").json == result.json
    assert evaluation("score", "runs/answers/responses.jsonl", "--json").json == result.json


def test_book_responses_are_scored(tmp_path: Path) -> None:
    result = evaluation("score", shared_file("data/book-responses.json"), "--run", tmp_path / "book", "--json")
    assert (result.code, result.json["n"], result.json["exact_matches"]) == (0, 110, 17)


def test_report_is_shown_without_colours_in_80_columns(answers: Path) -> None:
    result = evaluation("score", answers)
    assert result.code == 0
    assert "Score 16.7 of 100" in result.out
    assert "chrF" in result.out
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert "report.md" in result.err


def test_limits_end_the_command_with_status_1_after_the_report_was_written(answers: Path) -> None:
    assert evaluation("score", answers, "--fail-under", "16.6", "--max-unscored", "0").code == 0
    result = evaluation("score", answers, "--fail-under", "60")
    assert result.code == 1
    assert result.error == "error: --fail-under: expected a score of at least 60, got 16.67."
    assert "Score 16.7 of 100" in result.out
    assert evaluation("report", "runs/answers", "--fail-under", "60").code == 1
    assert evaluation("report", "runs/answers", "--max-unscored", "many").code == 2


def test_report_writes_the_same_rows_for_other_programs(answers: Path) -> None:
    evaluation("score", answers)
    result = evaluation("report", "runs/answers", "--csv", "rows.csv", "--junit", "rows.xml", "--html", "page.html")
    assert result.code == 0
    with Path("rows.csv").open(newline="") as file:
        assert [row["score"] for row in csv.DictReader(file)] == ["100", "100", *["0"] * 10]
    assert ElementTree.parse("rows.xml").getroot()[0].attrib["failures"] == "10"
    assert Path("page.html").read_bytes() == Path("runs/answers/report.html").read_bytes()
    Path("rows.csv").write_text("mine\n")
    assert "expected a name for a new file" in evaluation("report", "runs/answers", "--csv", "rows.csv").error


def test_scores_of_a_judged_file_add_up(answers: Path, double: OllamaDouble) -> None:
    result = score(answers, double)
    assert result.code == 0
    report = result.json
    assert report["score"] == "judge"
    assert report["sources"] == {"exact": 2, "empty": 1, "judge": 9}
    assert report["mean"] == pytest.approx((2 * 100 + 0 + 9 * 60) / 12, abs=1e-3)
    assert (report["unscored"], report["scored"]) == ({}, 12)
    assert report["ceiling"] == {"rows": 1, "judged": 1, "mean": 60, "lowest": 60}
    assert len(questions(double)) == 9 + 1
    assert "judged 10 of 10" in result.err


def test_second_run_asks_no_questions(answers: Path, double: OllamaDouble) -> None:
    first = score(answers, double)
    ledger = Path("runs/answers", LEDGER_FILE).read_bytes()
    double.requests.clear()
    again = score(answers, double)
    assert double.chat() == []
    assert again.json == first.json
    assert Path("runs/answers", LEDGER_FILE).read_bytes() == ledger
    assert "no questions left" in again.err


# Rows 3 to 11 need the judge. Behaviours for the first of them, one per request, and its reason.
FAILURES: dict[str, tuple[list[Scripted], str]] = {
    "always busy": ([busy()] * 4, "server_error"),
    "an error inside the stream": ([StreamError('{"analysis": "a')] * 2, "server_error"),
    "a stream that ends without done": ([NoDone('{"analysis": "a", "score": 5}')], "incomplete"),
    "JSON that is cut": ([Truncated('{"analysis": "a')], "incomplete"),
    "a cut connection": ([Cut('{"analysis": "a"', at=250)] * 2, "incomplete"),
    "no valid verdict": ([Answer("5"), Answer("5")], "unparsable"),
    "a prompt that is too long": ([too_long_nested(9000, 4096)], "too_long"),
    "a prompt that was cut without an error": ([verdict(5, prompt_cut=True)], "truncated"),
}


@pytest.mark.parametrize(("behaviours", "reason"), FAILURES.values(), ids=FAILURES)
def test_every_row_has_a_score_or_a_reason_and_a_second_run_asks_only_for_missing_rows(
    answers: Path, double: OllamaDouble, behaviours: list[Scripted], reason: str
) -> None:
    script_row(double, 3, *behaviours)
    result = score(answers, double)
    report = result.json
    assert result.code == 0
    assert report["unscored"] == {reason: 1}
    assert report["scored"] + sum(report["unscored"].values()) == report["n"] == 12
    assert report["mean"] == pytest.approx((200 + 8 * 60) / 11, abs=1e-3)
    assert report["bounds"]["low"] < report["mean"] < report["bounds"]["high"]
    assert len(questions(double)) == len(behaviours) + 8 + 1

    first_question = questions(double)[0]
    double.requests.clear()
    again = score(answers, double)
    assert (f"note: {reason} may be temporary" in result.err) == (reason in TRANSIENT)
    if reason in TRANSIENT:
        assert questions(double) == [first_question]
        assert (again.json["unscored"], again.json["scored"]) == ({}, 12)
    else:
        assert questions(double) == []
        assert again.json["unscored"] == {reason: 1}
        retried = score(answers, double, "--retry-unscored")
        assert questions(double) == [first_question]
        assert retried.json["unscored"] == {}


def test_ledger_has_every_attempt(answers: Path, double: OllamaDouble) -> None:
    script_row(double, 3, StreamError("{"), Answer("Five."), Answer("Six."))
    score(answers, double)
    ledger = read_ledger(Path("runs/answers", LEDGER_FILE))
    first = [line for line in ledger.judgements if line.source is None]
    assert [line.unscored for line in first] == ["server_error", "unparsable", "unparsable"]
    assert [line.final for line in first] == [False, False, True]
    assert [line.content for line in first] == [None, "Five.", "Six."]
    assert Counter(line.source for line in ledger.judgements if line.source) == {"judge": 9, "exact": 2, "empty": 1}


def test_missing_server_leaves_the_metrics_and_one_error(answers: Path, double: OllamaDouble) -> None:
    double.stop()
    result = score(answers, double)
    assert result.code == 1
    assert "ollama serve" in result.error
    assert (result.json["score"], result.json["n"], result.json["exact_matches"]) == ("exact", 12, 2)
    double.start()
    assert score(answers, double).json["scored"] == 12


def test_missing_model_leaves_the_metrics_and_one_error(answers: Path, double: OllamaDouble) -> None:
    result = evaluation("score", answers, "--judge", "nope", "--host", double.url)
    assert result.code == 1
    assert result.error.endswith("got only llama3.1:latest. Fetch it: ollama pull nope")
    assert "Score 16.7 of 100" in result.out
    assert double.chat() == []


def test_model_that_cannot_be_loaded_stops_before_the_first_question(answers: Path, double: OllamaDouble) -> None:
    double.enqueue_load(load_failed())
    result = score(answers, double)
    assert result.code == 1
    assert "process has terminated" in result.error
    assert questions(double) == []
    assert result.json["score"] == "exact"


def test_model_that_is_removed_during_the_run_stops_it(answers: Path, double: OllamaDouble) -> None:
    double.enqueue(verdict(4), verdict(4), missing_model("llama3.1"))
    result = score(answers, double)
    assert result.code == 1
    assert "ollama pull llama3.1" in result.error
    assert len(questions(double)) == 3
    assert result.json["unscored"] == {"not_judged": 7}
    assert result.json["scored"] + 7 == result.json["n"]
    double.requests.clear()
    assert score(answers, double).json["unscored"] == {}
    assert len(questions(double)) == 7 + 1


def test_server_that_dies_during_the_run_ends_it_and_the_next_run_continues(
    answers: Path, double: OllamaDouble
) -> None:
    def die(_body: JsonObject) -> Answer:
        double.stop()
        return verdict(4)

    double.enqueue(verdict(4), verdict(4), die)
    result = score(answers, double)
    assert result.code == 1
    assert "ollama serve" in result.error
    assert result.json["unscored"] == {"unreachable": 7}
    assert result.json["scored"] + 7 == result.json["n"]
    lines = read_ledger(Path("runs/answers", LEDGER_FILE)).judgements
    tried = {line.id for line in lines if line.unscored == "unreachable" and "not asked" not in (line.detail or "")}
    assert len(tried) == 1
    double.start()
    double.requests.clear()
    again = score(answers, double)
    assert again.code == 0
    assert (again.json["unscored"], len(questions(double))) == ({}, 7 + 1)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt. A shell that starts the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_the_judgements(answers: Path, double: OllamaDouble) -> None:
    def interrupt(_body: JsonObject) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        return verdict(4, delay=5)

    double.enqueue(verdict(4), interrupt)
    result = score(answers, double)
    assert result.code == 130
    assert "Give the same command again to continue" in result.err
    assert result.json["unscored"] == {"not_judged": 8}
    double.requests.clear()
    assert score(answers, double).json["unscored"] == {}
    assert len(questions(double)) == 8 + 1


def test_another_judge_scores_all_rows_and_the_old_scores_stay(answers: Path, double: OllamaDouble) -> None:
    score(answers, double)
    double.install("other")
    double.requests.clear()
    result = evaluation("score", answers, "--judge", "other", "--host", double.url, "--json", "--controls", 0)
    assert len(questions(double)) == 10
    assert (result.json["judge"]["model"], result.json["judge"]["other_judges"]) == ("other", 1)
    double.requests.clear()
    back = score(answers, double)
    assert questions(double) == []
    assert back.json["judge"]["model"] == "llama3.1"


def test_second_process_at_the_same_ledger_is_refused(answers: Path, double: OllamaDouble) -> None:
    evaluation("score", answers, "--json")
    with AppendOnly[Any](Path("runs/answers", LEDGER_FILE)):
        result = score(answers, double)
    assert result.code == 1
    assert "another process at work" in result.error
    assert questions(double) == []


def test_row_of_a_torn_ledger_line_is_asked_again(answers: Path, double: OllamaDouble) -> None:
    first = score(answers, double)
    path = Path("runs/answers", LEDGER_FILE)
    path.write_bytes(path.read_bytes()[:-30])
    Path("cache/instruction-assistant", VERDICTS_FILE).unlink()
    double.requests.clear()
    again = score(answers, double)
    assert len(questions(double)) == 1
    assert again.json == first.json


def test_message_of_the_server_is_escaped_on_the_terminal(answers: Path, double: OllamaDouble) -> None:
    double.enqueue_load(Failure(500, "\x1b[2J\x1b]0;title\x07 gone"))
    result = score(answers, double)
    assert "␛[2J" in result.err
    assert "\x1b" not in result.err


def test_file_with_a_name_that_is_not_utf8_is_scored(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.json"))
    path.write_text('[{"instruction": "i", "output": "o", "model_response": "o"}]')
    result = evaluation("score", path, "--run", tmp_path / "run", "--json")
    assert result.code == 0
    assert json.loads(result.out)["name"] == "bad\\xff.json"
