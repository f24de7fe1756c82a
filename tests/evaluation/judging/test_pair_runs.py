"""`evaluation compare --judge`: the judge chooses between two runs, with an Ollama double."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from assistant.statistics import bounded_mean_interval
from evaluation.judging.ledger import read_ledger
from evaluation.judging.pair_runs import PAIRWISE_FILE
from evaluation.judging.rubric import TAG
from evaluation.judging.verdict_cache import VERDICTS_FILE
from tests.support.evaluation_command import CommandResult, evaluation
from tests.support.ollama_double import Answer, Behaviour, JsonObject, OllamaDouble
from tests.support.scored_answers import measured_answers

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")

CACHE = Path("cache/instruction-assistant", VERDICTS_FILE)


def write_run(name: str, responses: Sequence[str]) -> Path:
    """Write a run whose row number k has the reference "Reference k."."""
    Path(name).mkdir()
    rows = [(f"Reference {number}.", response) for number, response in enumerate(responses)]
    return measured_answers(Path(name), rows).folder


def block(body: JsonObject, name: str) -> str:
    """Return the text of one block of a question, as a judge reads it."""
    prompt = str(body["messages"][-1]["content"])
    return prompt.partition(f"<{name}-{TAG}>\n")[2].partition(f"\n</{name}-{TAG}>")[0]


def winner(name: str) -> Answer:
    return Answer(json.dumps({"analysis": "One of them is better.", "winner": name}))


def prefers_good(body: JsonObject) -> Behaviour:
    """A judge that looks for the word "good" and at nothing else."""
    a, b = ("good" in block(body, f"response-{name}") for name in "ab")
    return winner("tie" if a == b else "A" if a else "B")


def compare(double: OllamaDouble, *arguments: object) -> CommandResult:
    return evaluation("compare", *arguments, "--judge", "llama3.1", "--host", double.url)


def questions(double: OllamaDouble) -> list[str]:
    return [str(body["messages"]) for body in double.chat() if body["messages"]]


FIRST = ["good 0", "bad 1", "bad 2", "bad 3", "same", "Reference 5.", "\n", "bad 7", "bad 8"]
SECOND = ["bad 0", "good 1", "good 2", "good 3", " same\n", "Reference 5.", "Reference 6.", "poor 7", ""]
"""By row: a loss, three wins, two ties without asking, a win without asking, and two ties."""


def test_win_rate_of_the_second_run_and_nothing_is_asked_twice(double: OllamaDouble) -> None:
    double.default = prefers_good
    first, second = write_run("a", FIRST), write_run("b", SECOND)
    result = compare(double, first, second, "--json")
    (found,) = result.json["pairwise"]
    assert (result.code, found["first"], found["second"]) == (0, str(first), str(second))
    wins = found["wins"]
    assert (wins["n"], wins["wins"], wins["ties"], wins["losses"]) == (9, 4, 4, 1)
    assert wins["rate"] == pytest.approx(100 * (4 + 4 / 2) / 9, abs=1e-3)
    expected = bounded_mean_interval([100.0] * 4 + [50.0] * 4 + [0.0])
    assert expected is not None
    assert wins["interval"] == pytest.approx([expected.low, expected.high], abs=1e-3)
    assert (found["settled"], found["unscored"], found["left_out"]) == (3, 0, 0)
    assert (found["flips"]["n"], found["flips"]["flips"]) == (6, 0)
    assert len(questions(double)) == 2 * 6
    assert "asked 12 of 12" in result.err
    assert "sees no more than noise" in found["sentence"]

    stored = (second / PAIRWISE_FILE).read_bytes()
    CACHE.unlink()
    double.requests.clear()
    again = compare(double, first, second)
    assert questions(double) == []
    assert (second / PAIRWISE_FILE).read_bytes() == stored
    lines = [" ".join(line.split()) for line in again.out.splitlines()]
    assert "win rate in pairs 66.7 % (95 % interval 39.4 to 87.6), ties count half" in lines
    assert "wins, ties, losses 4, 4, 1; 3 of them without asking" in lines
    assert "position flips 0 of 6, 0.0 % (95 % interval 0.0 to 45.9)" in lines


def test_other_runs_take_over_the_choices(double: OllamaDouble) -> None:
    double.default = prefers_good
    first, second = write_run("a", FIRST[:4]), write_run("b", SECOND[:4])
    compare(double, first, second)
    double.requests.clear()
    third = write_run("c", [*SECOND[:3], "good and new 3"])
    result = compare(double, first, third, "--json")
    assert len(questions(double)) == 2
    assert "6 verdicts are known from earlier runs" in result.err
    assert len(read_ledger(third / PAIRWISE_FILE).judgements) == 8
    # The other way round, the questions are the same ones in the other order.
    back = compare(double, third, first, "--json").json["pairwise"][0]["wins"]
    assert len(questions(double)) == 2
    assert (back["wins"], back["losses"]) == (1, 3)


def test_clear_gain_is_preferred_by_the_judge(double: OllamaDouble) -> None:
    double.default = prefers_good
    runs = [write_run(name, [f"{name} {row}" for row in range(10)]) for name in ("bad", "good")]
    result = compare(double, *runs, "--json").json["pairwise"][0]
    assert result["sentence"].startswith("In pairs, judge llama3.1 prefers good/run to bad/run (win rate 100 %")
    stored = read_ledger(runs[1] / PAIRWISE_FILE).judgements
    assert {(line.purpose, line.points) for line in stored} == {("pair:forward", 100), ("pair:backward", 0)}
    result = compare(double, *reversed(runs), "--json").json["pairwise"][0]
    assert result["sentence"].startswith("In pairs, judge llama3.1 prefers good/run to bad/run (win rate 0 %")


def test_disagreement_of_the_orders_is_a_tie(double: OllamaDouble) -> None:
    double.default = winner("A")
    result = compare(double, write_run("a", FIRST[:4]), write_run("b", SECOND[:4]), "--json")
    (found,) = result.json["pairwise"]
    assert (found["wins"]["ties"], found["wins"]["rate"]) == (4, 50)
    assert (found["flips"]["flips"], found["flips"]["shown_first"]) == (4, 4)
    assert found["sentence"].endswith("in 4 of 4 pairs the place of a response decided: try another judge.")


def test_pair_without_a_valid_answer_is_left_out_and_not_asked_again(double: OllamaDouble) -> None:
    double.default = lambda body: Answer("{}") if "bad 0" in block(body, "response-b") else prefers_good(body)
    runs = write_run("a", FIRST[:4]), write_run("b", SECOND[:4])
    first = compare(double, *runs, "--json").json["pairwise"][0]
    assert (first["unscored"], first["wins"]["n"], first["wins"]["wins"]) == (1, 3, 3)
    double.requests.clear()
    assert compare(double, *runs, "--json").json["pairwise"][0] == first
    assert questions(double) == []


def test_every_run_is_compared_with_the_baseline(double: OllamaDouble) -> None:
    double.default = prefers_good
    runs = [write_run(name, [f"{name} {row}" for row in range(4)]) for name in ("bad", "good", "poor")]
    result = compare(double, *runs, "--json").json["pairwise"]
    assert [(one["second"], one["wins"]["rate"]) for one in result] == [("good/run", 100), ("poor/run", 50)]
    assert all(Path(name, "run", PAIRWISE_FILE).exists() == (name != "bad") for name in ("bad", "good", "poor"))


def test_without_a_judge_nothing_is_asked_or_stored(double: OllamaDouble) -> None:
    first, second = write_run("a", FIRST), write_run("b", SECOND)
    result = evaluation("compare", first, second, "--json")
    assert (result.code, "pairwise" in result.json, result.err) == (0, False, "")
    assert "do nothing without --judge" in evaluation("compare", first, second, "--host", double.url).err
    assert double.requests == []
    assert not (second / PAIRWISE_FILE).exists()


def test_server_that_does_not_answer_leaves_the_score_comparison(double: OllamaDouble) -> None:
    double.stop()
    result = compare(double, write_run("a", FIRST), write_run("b", SECOND))
    assert (result.code, "ollama serve" in result.error) == (1, True)
    assert "rows in both" in result.out


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt. A shell that starts the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_the_choices(double: OllamaDouble) -> None:
    def interrupt(_body: JsonObject) -> Behaviour:
        os.kill(os.getpid(), signal.SIGINT)
        return Answer("{}", delay=5)

    double.default = prefers_good
    double.enqueue(prefers_good, prefers_good, prefers_good, interrupt)
    runs = write_run("a", FIRST[:4]), write_run("b", SECOND[:4])
    result = compare(double, *runs)
    assert result.code == 130
    assert "choices so far are kept" in result.err
    assert "rows in both" in result.out
    double.requests.clear()
    CACHE.unlink()
    assert compare(double, *runs, "--json").json["pairwise"][0]["wins"]["n"] == 4
    assert len(questions(double)) == 8 - 3
