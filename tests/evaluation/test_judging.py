"""Many rows at one or several servers: failing rows, failing servers, failing judges, and verdicts that are known."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from evaluation.judgement import TRANSIENT
from evaluation.judging import FIRST_ROWS
from evaluation.ledger import read_ledger
from evaluation.scoring import LEDGER_FILE
from evaluation.verdicts import VERDICTS_FILE
from tests.evaluation.test_judge import FAILURES
from tests.support.evaluation_command import CommandResult, evaluation, score
from tests.support.guesses import outcomes_by_row, row_of, write_guesses
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


def by_row(behave: Callable[[int], Scripted]) -> Callable[[JsonObject], Behaviour]:
    """Return a behaviour that depends on the row in question."""

    def answer(body: JsonObject) -> Behaviour:
        behaviour = behave(row_of(prompt_of(body)))
        return behaviour(body) if callable(behaviour) else behaviour

    return answer


def asked(*doubles: OllamaDouble) -> list[int]:
    """Return the rows of all questions in order."""
    return [row_of(prompt_of(body)) for double in doubles for body in double.chat() if body["messages"]]


@pytest.fixture
def two(double: OllamaDouble) -> Iterator[tuple[OllamaDouble, OllamaDouble]]:
    """Two servers with the same model."""
    with OllamaDouble(default=verdict(3)) as other:
        yield double, other


def score_at(path: Path, doubles: tuple[OllamaDouble, ...], *options: object) -> CommandResult:
    hosts = [text for double in doubles for text in ("--host", double.url)]
    return evaluation("score", path, "--judge", "llama3.1", *hosts, "--json", *options)


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


# --- what is asked again ------------------------------------------------------------------------------------------


def test_identical_questions_are_asked_once(tmp_path: Path, double: OllamaDouble) -> None:
    rows = [{"instruction": "Q?", "output": "A.", "model_response": "Guess 1."}] * 5
    path = tmp_path / "guesses.json"
    path.write_text(json.dumps(rows))
    result = score(path, double)
    assert (asked(double), result.json["scored"], result.json["sources"]) == ([1], 5, {"judge": 5})
    assert "judged 5 of 5" in result.err


def test_verdicts_are_shared_between_runs(tmp_path: Path, double: OllamaDouble) -> None:
    first = score(write_guesses(tmp_path, 6), double)
    double.requests.clear()
    double.default = verdict(0)
    rows = json.loads(write_guesses(tmp_path, 7, "more.json").read_text())
    rows[2]["output"] = "Another reference."
    (tmp_path / "more.json").write_text(json.dumps(rows))
    second = score(tmp_path / "more.json", double)
    assert sorted(asked(double)) == [2, 6]
    assert "5 verdicts are known from other runs" in second.err
    assert (first.json["mean"], second.json["scored"]) == (60, 7)
    assert second.json["mean"] == pytest.approx(5 * 60 / 7, abs=1e-3)


def test_corrected_reference_in_the_same_file_asks_about_that_row_only(tmp_path: Path, double: OllamaDouble) -> None:
    path = write_guesses(tmp_path, 6)
    score(path, double)
    rows = json.loads(path.read_text())
    rows[4]["output"] = "A corrected reference."
    path.write_text(json.dumps(rows))
    double.requests.clear()
    double.default = verdict(5)
    result = score(path, double)
    assert (result.code, asked(double), result.json["scored"]) == (0, [4], 6)
    assert result.json["mean"] == pytest.approx((5 * 60 + 100) / 6, abs=1e-3)
    rows[4]["model_response"] = "Another answer."
    path.write_text(json.dumps(rows))
    assert "expected the model, rows and settings of the stored answers" in score(path, double).error


def test_verdicts_of_another_judge_are_not_shared(tmp_path: Path, double: OllamaDouble) -> None:
    path = write_guesses(tmp_path, 3)
    score(path, double)
    double.requests.clear()
    double.install("llama3.1", digest="ab" * 32)
    score(path, double)
    assert sorted(asked(double)) == [0, 1, 2]


def test_damaged_file_of_verdicts_is_only_a_cache(tmp_path: Path, double: OllamaDouble) -> None:
    verdicts = Path("cache/instruction-assistant", VERDICTS_FILE)
    score(write_guesses(tmp_path, 3), double)
    verdicts.write_bytes(b"{nonsense\n" + verdicts.read_bytes()[:-20])
    double.requests.clear()
    assert score(write_guesses(tmp_path, 4, "more.json"), double).json["scored"] == 4
    assert sorted(asked(double)) == [2, 3]
    double.requests.clear()
    assert score(write_guesses(tmp_path, 4, "again.json"), double).json["scored"] == 4
    assert asked(double) == []


def test_another_num_ctx_asks_only_about_rows_that_did_not_fit(tmp_path: Path, double: OllamaDouble) -> None:
    path = write_guesses(tmp_path, 5)
    rows = json.loads(path.read_text())
    rows[3]["model_response"] = "Guess 3. " + "word " * 3000
    path.write_text(json.dumps(rows))
    first = score(path, double)
    assert first.json["unscored"] == {"too_long": 1}
    assert "Raise --num-ctx" in str(read_ledger(RUN / LEDGER_FILE).judgements)
    double.requests.clear()
    assert score(path, double).json["unscored"] == {"too_long": 1}
    assert asked(double) == []
    second = score(path, double, "--num-ctx", 16384)
    assert (second.json["unscored"], asked(double)) == ({}, [3])
    assert second.json["judge"]["other_judges"] == 0


def test_limit_of_the_judge_itself_is_named(tmp_path: Path, double: OllamaDouble) -> None:
    double.install("llama3.1", context_length=1024)
    path = write_guesses(tmp_path, 1)
    path.write_text(path.read_text().replace("Guess 0.", "Guess 0. " + "word " * 600))
    result = score(path, double)
    assert result.json["unscored"] == {"too_long": 1}
    (line,) = (line for line in read_ledger(RUN / LEDGER_FILE).judgements if line.unscored)
    assert "The judge itself reads at most 1024 tokens" in (line.detail or "")
    assert "--num-ctx" not in (line.detail or "")


def test_another_version_of_the_server_is_reported_and_asked_again_only_on_demand(
    tmp_path: Path, double: OllamaDouble
) -> None:
    path = write_guesses(tmp_path, 4)
    score(path, double)
    double.version = "0.99.0"
    double.requests.clear()
    double.default = verdict(1)
    kept = score(path, double)
    assert asked(double) == []
    assert "the server's version is now 0.99.0; 4 verdicts are of version 0.32.15. --rejudge" in kept.err
    assert (kept.json["mean"], kept.json["judge"]["other_versions"]) == (60, {"0.32.15": 4})
    again = score(path, double, "--rejudge")
    assert sorted(asked(double)) == [0, 1, 2, 3]
    assert (again.json["mean"], again.json["judge"]["other_versions"]) == (20, {})
    double.requests.clear()
    score(path, double, "--rejudge")
    assert asked(double) == []


# --- plan and limit -----------------------------------------------------------------------------------------------


def test_plan_times_three_questions_and_keeps_their_verdicts(tmp_path: Path, double: OllamaDouble) -> None:
    path = write_guesses(tmp_path, 10)
    plan = score(path, double, "--plan")
    assert plan.code == 0
    assert (plan.json["questions"], plan.json["asked"], len(asked(double))) == (10, 3, 3)
    assert plan.json["seconds"] == pytest.approx(7 * plan.json["seconds_each"])
    words = evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--plan").out
    assert "7 questions to llama3.1; 3 are asked now" in words
    assert "4 are left" in words
    double.requests.clear()
    assert score(path, double).json["scored"] == 10
    assert len(asked(double)) == 4


def test_limit_scores_a_seeded_part_with_each_category_in_proportion(tmp_path: Path, double: OllamaDouble) -> None:
    rows = json.loads(write_guesses(tmp_path, 40).read_text())
    for number, row in enumerate(rows):
        row["category"] = "rare" if number % 4 == 0 else "common"
        if number % 2:
            row["model_response"] = row["output"] = f"Guess {number}."
    path = tmp_path / "guesses.json"
    path.write_text(json.dumps(rows))
    part = score(path, double, "--limit", 12)
    assert (part.code, part.json["scored"], part.json["unscored"]) == (0, 12, {"not_judged": 28})
    assert {category["name"]: category["n"] for category in part.json["categories"]} == {"common": 9, "rare": 3}
    before = asked(double)
    double.requests.clear()
    larger = score(path, double, "--limit", 20)
    assert larger.json["scored"] == 20
    assert not set(asked(double)) & set(before)


# --- old ledgers --------------------------------------------------------------------------------------------------

OLD_JUDGE = (
    '{"kind":"judge","fingerprint":"0123456789abcdef","identity":{"model":"llama3.1","digest":"d","server_version":'
    '"0.24.0","client_version":"0.6.3","options":{"temperature":0,"seed":123,"num_ctx":4096,"num_predict":512},'
    '"rubric":"99be009d7713db3d"},"url":"http://127.0.0.1:11434","created":"2026-10-01T10:00:00Z"}'
)
OLD_JUDGEMENT = (
    '{"score":SCORE,"analysis":"a","unscored":null,"detail":null,"final":true,"content":"{}","seed":123,'
    '"prompt_tokens":500,"response_tokens":40,"seconds":1.5,"kind":"judgement","id":"ID","response_hash":"HASH",'
    '"fingerprint":"0123456789abcdef","purpose":"score","source":"judge","created":"2026-10-01T10:00:00Z"}'
)


def test_ledger_of_an_older_version_is_read_and_its_scores_stay(tmp_path: Path, double: OllamaDouble) -> None:
    path = write_guesses(tmp_path, 3)
    evaluation("score", path)
    records = [json.loads(line) for line in (RUN / "responses.jsonl").read_text().splitlines()]
    with ExitStack() as stack:
        file = stack.enter_context((RUN / LEDGER_FILE).open("w"))
        file.write(OLD_JUDGE + "\n")
        for record in records:
            response_hash = hashlib.sha256(record["response"].encode()).hexdigest()[:16]
            line = OLD_JUDGEMENT.replace("SCORE", "2").replace("ID", record["id"]).replace("HASH", response_hash)
            file.write(line + "\n")
    old = evaluation("report", RUN, "--json")
    assert (old.json["mean"], old.json["scored"], old.json["judge"]["server_version"]) == (40, 3, "0.24.0")
    new = score(path, double)
    assert (sorted(asked(double)), new.json["mean"], new.json["judge"]["other_judges"]) == ([0, 1, 2], 60, 1)


def test_page_of_a_proxy_is_not_a_verdict(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = by_row(lambda row: html() if row == 1 else Failure(404, b"nothing here", "text/plain"))
    result = score(write_guesses(tmp_path, 2), double)
    assert (result.code, result.json["unscored"], result.json["judge_failed"]) == (1, {"server_error": 2}, True)
