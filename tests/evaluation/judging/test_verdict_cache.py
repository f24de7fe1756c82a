"""What is asked again and what is not: verdicts of other runs, corrections, new versions, parts, and old ledgers."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from evaluation.judging.ledger import read_ledger
from evaluation.judging.scoring import LEDGER_FILE
from evaluation.judging.verdict_cache import VERDICTS_FILE
from tests.support.evaluation_command import evaluation, score
from tests.support.guesses import asked, write_guesses
from tests.support.ollama_double import Answer, OllamaDouble, verdict

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")
RUN = Path("runs/guesses")


# --- what is asked again ------------------------------------------------------------------------------------------


def test_identical_questions_are_asked_once(tmp_path: Path, double: OllamaDouble) -> None:
    rows = [{"instruction": "Q?", "output": "A.", "model_response": "Guess 1."}] * 5
    path = tmp_path / "guesses.json"
    path.write_text(json.dumps(rows))
    result = score(path, double)
    assert (asked(double), result.json["scored"], result.json["sources"]) == ([1], 5, {"judge": 5})
    assert "1 question to ask about 5 responses. The server" in result.err
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
    words = evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--plan", "--controls", 0).out
    assert "7 questions to llama3.1; 3 are asked now" in words
    assert "4 are left" in words
    double.requests.clear()
    assert score(path, double).json["scored"] == 10
    assert len(asked(double)) == 4


def test_plan_names_what_has_no_score(tmp_path: Path, double: OllamaDouble) -> None:
    double.default = Answer("I cannot say.")
    path = write_guesses(tmp_path, 9)
    words = evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--plan", "--controls", 0)
    assert (words.code, "Without a score: unparsable 3." in words.out) == (0, True)
    double.default = verdict(3)
    words = evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--plan", "--controls", 0)
    assert "Without a score" not in words.out


def test_plan_leaves_no_trace_in_a_limited_score(tmp_path: Path, double: OllamaDouble) -> None:
    """A plan over all rows settled all exact matches, and --limit then added them to its part."""
    rows = json.loads(write_guesses(tmp_path, 20).read_text())
    for row in rows[10:]:
        row["model_response"] = row["output"]
    path = tmp_path / "guesses.json"
    path.write_text(json.dumps(rows))
    plan = evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--plan", "--controls", 0)
    assert "3 of 11 questions to ask" in plan.err
    assert "judged 3 of 3" in plan.err
    assert read_ledger(RUN / LEDGER_FILE).judgements == ()
    part = score(path, double, "--limit", 6)
    assert (part.json["scored"], part.json["unscored"]) == (6, {"not_judged": 14})
    assert score(path, double).json["scored"] == 20
    questions = [body["messages"] for body in double.chat() if body["messages"]]
    assert len(questions) == 11  # none of them twice: 10 guesses, and one exact match as a check


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
