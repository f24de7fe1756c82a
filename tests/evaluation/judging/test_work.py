"""Many rows at one or several servers: failing rows, failing servers, failing judges, and verdicts that are known."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.judging.judgement import TRANSIENT
from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE
from evaluation.judging.work import FIRST_ROWS
from tests.evaluation.judging.test_judge import FAILURES
from tests.support.evaluation_command import CommandResult, evaluation, score
from tests.support.guesses import asked, by_row, outcomes_by_row, row_of, write_guesses
from tests.support.ollama_calls import wait_until
from tests.support.ollama_double import (
    Answer,
    Behaviour,
    Cut,
    Failure,
    Hang,
    JsonObject,
    OllamaDouble,
    Scripted,
    busy,
    html,
    missing_model,
    prompt_of,
    too_long_nested,
    verdict,
)

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")
RUN = Path("runs/guesses")


@pytest.fixture
def two(double: OllamaDouble) -> Iterator[tuple[OllamaDouble, OllamaDouble]]:
    """Two servers with the same model."""
    with OllamaDouble(default=verdict(3)) as other:
        yield double, other


def score_at(path: Path, doubles: tuple[OllamaDouble, ...], *options: object) -> CommandResult:
    hosts = [text for double in doubles for text in ("--host", double.url)]
    return evaluation("score", path, "--judge", "llama3.1", *hosts, "--json", "--controls", 0, *options)


# --- rows that fail -----------------------------------------------------------------------------------------------


def test_every_row_of_a_run_is_scored_or_has_its_reason(tmp_path: Path, double: OllamaDouble) -> None:
    """One row for each failure, after some that are scored: the counts add up, and a second run asks the right ones."""
    # Without silence: on a busy machine, a limit that is short enough for a test would end good answers too.
    failures = [(behaviours, reason) for behaviours, reason in FAILURES.values() if reason != "timeout"]
    scripts: list[list[Scripted]] = [[verdict(4)] for _ in range(3)]
    scripts += [behaviours for behaviours, _ in failures]
    reasons = [reason for _, reason in failures]
    n_asked: Counter[int] = Counter()

    def behave(row: int) -> Scripted:
        n_asked[row] += 1
        return scripts[row][min(n_asked[row], len(scripts[row])) - 1]

    double.default = by_row(behave)
    path = write_guesses(tmp_path, len(scripts))
    result = score(path, double)
    assert (result.code, result.json["scored"]) == (0, 3)
    assert result.json["unscored"] == dict(Counter(reasons))
    assert result.json["scored"] + sum(result.json["unscored"].values()) == result.json["n"]
    assert outcomes_by_row(RUN) == [None] * 3 + reasons
    assert [n_asked[row] for row in range(3, len(scripts))] == [len(script) for script in scripts[3:]]
    double.default = verdict(4)
    double.requests.clear()
    score(path, double)
    assert sorted(asked(double)) == [row for row, reason in enumerate(reasons, start=3) if reason in TRANSIENT]


def test_rows_that_break_the_connection_do_not_block_the_others(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: Cut("x", at=-1, reset=True) if row < 3 else verdict(4))
    path = write_guesses(tmp_path, 10)
    result = score(path, double)
    assert (result.code, result.json["unscored"], result.json["scored"]) == (0, {"unreachable": 3}, 7)
    assert asked(double) == [0, 1, 2, *range(3, 10), 0, 1, 2]
    double.requests.clear()
    double.default = verdict(4)
    assert score(path, double).json["scored"] == 10
    assert sorted(asked(double)) == [0, 1, 2]


def test_silent_row_is_unscored(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: Hang(60) if row == 1 else verdict(4))
    result = score(write_guesses(tmp_path, 3), double, "--timeout", 0.8)
    assert (result.code, result.json["unscored"], asked(double)) == (0, {"timeout": 1}, [0, 1, 2, 1])


def test_rows_that_failed_before_are_asked_last_in_the_next_run(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: missing_model("llama3.1") if row == 4 else verdict(4) if row else busy())
    path = write_guesses(tmp_path, 6)
    assert score(path, double).code == 1
    assert asked(double) == [0, 1, 2, 3, 4]
    double.requests.clear()
    double.default = verdict(4)
    assert score(path, double).json["scored"] == 6
    assert asked(double) == [4, 5, 0]


# --- judges that fail ---------------------------------------------------------------------------------------------


FENCED = Answer('```json\n{"analysis": "a", "score": 4}\n```')


def test_judge_that_fails_at_its_first_rows_is_not_asked_about_the_others(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = FENCED
    path = write_guesses(tmp_path, 40)
    result = score(path, double)
    assert result.code == 1
    assert f"got none for the first {FIRST_ROWS} rows (unparsable {FIRST_ROWS})" in result.error
    assert "```json" in result.error
    assert "Try a larger judge" in result.error
    assert sorted(set(asked(double))) == list(range(FIRST_ROWS))
    report = result.json
    assert (report["mean"], report["judge_failed"], report["judge"]["model"]) == (None, True, "llama3.1")
    assert report["unscored"] == {"not_judged": 35, "unparsable": 5}
    shown = evaluation("report", RUN)
    assert "No score: the judge llama3.1 failed on every row that needed it" in " ".join(shown.out.split())


@pytest.mark.parametrize("run", [1, 2])
def test_judge_that_fails_on_every_row_never_ends_with_status_0(tmp_path: Path, double: OllamaDouble, run: int) -> None:
    double.default = FENCED
    path = write_guesses(tmp_path, FIRST_ROWS - 1)
    for _ in range(run):
        result = score(path, double)
    assert result.code == 1
    assert result.json["unscored"] == {"unparsable": FIRST_ROWS - 1}
    assert "got none for any row" in result.error
    assert len(asked(double)) == 2 * (FIRST_ROWS - 1)  # the second run asks nothing


def test_long_rows_at_the_front_are_not_the_judges_fault(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: too_long_nested(9000, 4096) if row < 6 else verdict(4))
    result = score(write_guesses(tmp_path, 8), double)
    assert (result.code, result.json["unscored"]) == (0, {"too_long": 6})


def test_server_that_is_always_busy_ends_the_run(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: verdict(4) if row < 2 else busy())
    result = score(write_guesses(tmp_path, 60), double)
    assert result.code == 1
    assert "got none for the last" in result.error
    assert len(asked(double)) < 20


# --- several servers ----------------------------------------------------------------------------------------------


def test_rows_are_spread_and_none_is_asked_twice(tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]) -> None:
    for double in two:
        double.default = lambda _body: verdict(4, delay=0.01)
    result = score_at(write_guesses(tmp_path, 24), two)
    assert (result.code, result.json["scored"]) == (0, 24)
    assert sorted(asked(*two)) == list(range(24))
    assert all(len(asked(double)) >= 6 for double in two)
    assert [double.max_in_flight for double in two] == [1, 1]


def test_parallel_is_the_number_in_flight_at_each_server(
    tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]
) -> None:
    def answer(_body: JsonObject) -> Behaviour:
        wait_until(lambda: len(asked(*two)) >= 6)  # the first six are in flight at once
        return verdict(4, delay=0.01)

    for double in two:
        double.num_parallel = 8
        double.default = answer
    assert score_at(write_guesses(tmp_path, 24), two, "--parallel", 3).json["scored"] == 24
    assert [double.max_in_flight for double in two] == [3, 3]


def test_other_server_takes_over_when_one_dies(tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]) -> None:
    first, second = two
    stopped = threading.Event()

    def die(_body: JsonObject) -> Behaviour:
        if not stopped.is_set() and len(asked(first)) > 2:
            stopped.set()
            first.stop()
        return verdict(4, delay=0.01)

    first.default = die
    second.default = lambda _body: verdict(4, delay=0.01)
    result = score_at(write_guesses(tmp_path, 20), two)
    assert (result.code, result.json["scored"], result.json["unscored"]) == (0, 20, {})
    assert f"the other servers did the rest. judge: {first.url} does not answer any more." in result.err
    lines = [line for line in read_ledger(RUN / LEDGER_FILE).judgements if line.source == "judge"]
    assert len({line.id for line in lines}) == len(lines) == 20


def test_server_without_the_model_is_left_out_with_a_note(
    tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]
) -> None:
    two[0].remove("llama3.1")
    result = score_at(write_guesses(tmp_path, 4), two)
    assert (result.code, result.json["scored"]) == (0, 4)
    assert f"expected the model 'llama3.1' at {two[0].url}" in result.err
    assert len(asked(two[1])) == 4


def test_two_models_under_one_name_are_refused(tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]) -> None:
    two[1].install("llama3.1", digest="ab" * 32)
    result = score_at(write_guesses(tmp_path, 4), two)
    assert result.code == 1
    assert "expected the same 'llama3.1' at all servers" in result.error
    assert asked(*two) == []


def test_run_ends_when_no_server_is_left(tmp_path: Path, two: tuple[OllamaDouble, OllamaDouble]) -> None:
    def die(body: JsonObject) -> Behaviour:
        if row_of(prompt_of(body)) >= 4:
            for double in two:
                threading.Thread(target=double.stop).start()
        return verdict(4, delay=0.1)

    for double in two:
        double.default = die
    result = score_at(write_guesses(tmp_path, 12), two)
    assert (result.code, "got none for the last" in result.error) == (1, True)
    assert result.json["scored"] + sum(result.json["unscored"].values()) == 12


def test_page_of_a_proxy_is_not_a_verdict(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: html() if row == 1 else Failure(404, b"nothing here", "text/plain"))
    result = score(write_guesses(tmp_path, 2), double)
    assert (result.code, result.json["unscored"], result.json["judge_failed"]) == (1, {"server_error": 2}, True)
