"""The command as it is typed: exit codes, sentences, JSON, and whole scoring runs against a double of Ollama."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.splits import split_examples
from assistant.jsonl import AppendOnly
from evaluation import cli
from evaluation.judgement import TRANSIENT
from evaluation.ledger import read_ledger
from evaluation.scoring import GIVE_UP_AFTER, LEDGER_FILE
from tests.conftest import REPOSITORY, shared_file
from tests.evaluation.test_responses import FakeSession, trained_on
from tests.support.ollama_double import (
    Answer,
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

runner = CliRunner()


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def evaluation(*arguments: object) -> Done:
    """Run a command in this process, in the current folder."""
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default folders come to lie under the test's own; pauses between retries cost nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble(default=verdict(3)) as running:
        yield running


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Twelve answers: two exact, one empty, nine that need a judge."""
    rows = [
        {"instruction": f"Question {number}?", "output": f"Answer {number}.", "model_response": f"Guess {number}."}
        for number in range(12)
    ]
    rows[0]["model_response"] = "\nAnswer 0."
    rows[1]["model_response"] = "Answer 1."
    rows[2]["model_response"] = " \n"
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def score(path: Path, double: OllamaDouble, *options: object) -> Done:
    return evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--json", *options)


def asked(double: OllamaDouble) -> list[str]:
    """The questions to the judge, loading the model not among them."""
    return [body["messages"][0]["content"] for body in double.chat() if body["messages"]]


def one_sentence(done: Done) -> str:
    """The last line on stderr, which must be an error without a traceback."""
    lines = done.err.strip().splitlines()
    assert lines[-1].startswith("error: "), done.err
    assert "Traceback" not in done.err
    return lines[-1]


# --- score --------------------------------------------------------------------------------------------------------


def test_a_file_is_scored_without_a_judge(answers: Path) -> None:
    done = evaluation("score", answers, "--json")
    assert done.code == 0
    assert (done.json["n"], done.json["exact_matches"], done.json["score"]) == (12, 2, "exact")
    low, high = done.json["interval"]
    assert low < done.json["mean"] < high
    assert {file.name for file in Path("runs/answers").iterdir() if not file.name.startswith(".")} == {
        "run.json",
        "responses.jsonl",
        "metrics.jsonl",
        "report.json",
        "report.md",
    }
    assert json.loads(Path("runs/answers/report.json").read_text()) == done.json
    assert evaluation("report", "runs/answers", "--json").json == done.json
    assert evaluation("score", "runs/answers", "--json").json == done.json
    assert evaluation("score", "runs/answers/responses.jsonl", "--json").json == done.json


def test_the_books_file_is_scored(tmp_path: Path) -> None:
    done = evaluation("score", shared_file("data/book-responses.json"), "--run", tmp_path / "book", "--json")
    assert (done.code, done.json["n"], done.json["exact_matches"]) == (0, 110, 17)


def test_the_report_is_shown_in_plain_lines(answers: Path) -> None:
    done = evaluation("score", answers)
    assert done.code == 0
    assert "Score 16.7 of 100" in done.out
    assert "chrF" in done.out
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "report.md" in done.err


def test_a_judged_file_adds_up(answers: Path, double: OllamaDouble) -> None:
    done = score(answers, double)
    assert done.code == 0
    report = done.json
    assert report["score"] == "judge"
    assert report["sources"] == {"exact": 2, "empty": 1, "judge": 9}
    assert report["mean"] == pytest.approx((2 * 100 + 0 + 9 * 60) / 12, abs=1e-3)
    assert (report["unscored"], report["scored"]) == ({}, 12)
    assert report["ceiling"] == {"rows": 1, "judged": 1, "mean": 60, "lowest": 60}
    assert len(asked(double)) == 9 + 1
    assert "judged 10 of 10" in done.err


def test_a_second_run_asks_for_nothing(answers: Path, double: OllamaDouble) -> None:
    first = score(answers, double)
    ledger = Path("runs/answers", LEDGER_FILE).read_bytes()
    double.requests.clear()
    again = score(answers, double)
    assert double.chat() == []
    assert again.json == first.json
    assert Path("runs/answers", LEDGER_FILE).read_bytes() == ledger
    assert "nothing left to ask" in again.err


# Rows 3 to 11 need the judge; what happens to the first of them, and its reason.
FAILURES: dict[str, tuple[list[Scripted], str]] = {
    "503 for ever": ([busy()] * 4, "server_error"),
    "an error inside the stream": ([StreamError('{"analysis": "a')] * 2, "server_error"),
    "a stream that ends without done": ([NoDone('{"analysis": "a", "score": 5}')], "incomplete"),
    "a cut JSON": ([Truncated('{"analysis": "a')], "incomplete"),
    "a cut connection": ([Cut('{"analysis": "a"', at=250)] * 2, "incomplete"),
    "no verdict": ([Answer("5"), Answer("5")], "unparsable"),
    "no context": ([too_long_nested(9000, 4096)], "too_long"),
    "a prompt cut in silence": ([verdict(5, prompt_cut=True)], "truncated"),
}


@pytest.mark.parametrize(("behaviours", "reason"), FAILURES.values(), ids=FAILURES)
def test_every_row_ends_scored_or_with_a_reason_and_a_second_run_asks_only_for_what_is_missing(
    answers: Path, double: OllamaDouble, behaviours: list[Scripted], reason: str
) -> None:
    double.enqueue(*behaviours)
    done = score(answers, double)
    report = done.json
    assert done.code == 0
    assert report["unscored"] == {reason: 1}
    assert report["scored"] + sum(report["unscored"].values()) == report["n"] == 12
    assert report["mean"] == pytest.approx((200 + 8 * 60) / 11, abs=1e-3)
    assert report["bounds"]["low"] < report["mean"] < report["bounds"]["high"]
    assert len(asked(double)) == len(behaviours) + 8 + 1

    first_question = asked(double)[0]
    double.requests.clear()
    again = score(answers, double)
    assert (f"note: {reason} may pass" in done.err) == (reason in TRANSIENT)
    if reason in TRANSIENT:
        assert asked(double) == [first_question]
        assert (again.json["unscored"], again.json["scored"]) == ({}, 12)
    else:
        assert asked(double) == []
        assert again.json["unscored"] == {reason: 1}
        retried = score(answers, double, "--retry-unscored")
        assert asked(double) == [first_question]
        assert retried.json["unscored"] == {}


def test_every_attempt_is_in_the_ledger(answers: Path, double: OllamaDouble) -> None:
    double.enqueue(busy(), Answer("Five."), StreamError("{"), Answer("Six."))
    score(answers, double)
    ledger = read_ledger(Path("runs/answers", LEDGER_FILE))
    first = [line for line in ledger.judgements if line.source is None]
    assert [line.unscored for line in first] == ["server_error", "unparsable", "server_error", "unparsable"]
    assert [line.final for line in first] == [False, False, False, True]
    assert [line.content for line in first] == [None, "Five.", None, "Six."]
    assert Counter(line.source for line in ledger.judgements if line.source) == {"judge": 9, "exact": 2, "empty": 1}


def test_no_server_leaves_the_metrics_and_one_sentence(answers: Path, double: OllamaDouble) -> None:
    double.stop()
    done = score(answers, double)
    assert done.code == 1
    assert "ollama serve" in one_sentence(done)
    assert (done.json["score"], done.json["n"], done.json["exact_matches"]) == ("exact", 12, 2)
    double.start()
    assert score(answers, double).json["scored"] == 12


def test_a_missing_model_leaves_the_metrics_and_one_sentence(answers: Path, double: OllamaDouble) -> None:
    done = evaluation("score", answers, "--judge", "nope", "--host", double.url)
    assert done.code == 1
    assert one_sentence(done).endswith("got only llama3.1:latest. Fetch it: ollama pull nope")
    assert "Score 16.7 of 100" in done.out
    assert double.chat() == []


def test_a_model_that_cannot_be_loaded_stops_before_the_first_question(answers: Path, double: OllamaDouble) -> None:
    double.enqueue_load(load_failed())
    done = score(answers, double)
    assert done.code == 1
    assert "process has terminated" in one_sentence(done)
    assert asked(double) == []
    assert done.json["score"] == "exact"


def test_a_model_removed_in_mid_run_stops_it(answers: Path, double: OllamaDouble) -> None:
    double.enqueue(verdict(4), verdict(4), missing_model("llama3.1"))
    done = score(answers, double)
    assert done.code == 1
    assert "ollama pull llama3.1" in one_sentence(done)
    assert len(asked(double)) == 3
    assert done.json["unscored"] == {"not_judged": 7}
    assert done.json["scored"] + 7 == done.json["n"]
    double.requests.clear()
    assert score(answers, double).json["unscored"] == {}
    assert len(asked(double)) == 7 + 1


def test_a_server_that_dies_in_mid_run_is_given_up_and_the_next_run_goes_on(
    answers: Path, double: OllamaDouble
) -> None:
    def die(_body: JsonObject) -> Answer:
        double.stop()
        return verdict(4)

    double.enqueue(verdict(4), verdict(4), die)
    done = score(answers, double)
    assert done.code == 1
    assert "ollama serve" in one_sentence(done)
    assert done.json["unscored"] == {"unreachable": 7}
    assert done.json["scored"] + 7 == done.json["n"]
    lines = read_ledger(Path("runs/answers", LEDGER_FILE)).judgements
    tried = {line.id for line in lines if line.unscored == "unreachable" and "not asked" not in (line.detail or "")}
    assert len(tried) == GIVE_UP_AFTER
    double.start()
    double.requests.clear()
    again = score(answers, double)
    assert again.code == 0
    assert (again.json["unscored"], len(asked(double))) == ({}, 7 + 1)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started the tests in the background and let it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_was_judged(answers: Path, double: OllamaDouble) -> None:
    def interrupt(_body: JsonObject) -> Answer:
        raise_in_main()
        return verdict(4, delay=5)

    def raise_in_main() -> None:
        os.kill(os.getpid(), 2)

    double.enqueue(verdict(4), interrupt)
    done = score(answers, double)
    assert done.code == 130
    assert "Give the same command again to go on" in done.err
    assert done.json["unscored"] == {"not_judged": 8}
    double.requests.clear()
    assert score(answers, double).json["unscored"] == {}
    assert len(asked(double)) == 8 + 1


def test_another_judge_starts_afresh_and_the_old_scores_stay(answers: Path, double: OllamaDouble) -> None:
    score(answers, double)
    double.install("other")
    double.requests.clear()
    done = evaluation("score", answers, "--judge", "other", "--host", double.url, "--json")
    assert len(asked(double)) == 10
    assert (done.json["judge"]["model"], done.json["judge"]["other_judges"]) == ("other", 1)
    double.requests.clear()
    back = score(answers, double)
    assert asked(double) == []
    assert back.json["judge"]["model"] == "llama3.1"


def test_two_processes_do_not_write_one_ledger(answers: Path, double: OllamaDouble) -> None:
    evaluation("score", answers, "--json")
    with AppendOnly[Any](Path("runs/answers", LEDGER_FILE)):
        done = score(answers, double)
    assert done.code == 1
    assert "another process at work" in one_sentence(done)
    assert asked(double) == []


def test_a_torn_ledger_goes_on(answers: Path, double: OllamaDouble) -> None:
    first = score(answers, double)
    path = Path("runs/answers", LEDGER_FILE)
    path.write_bytes(path.read_bytes()[:-30])
    double.requests.clear()
    again = score(answers, double)
    assert len(asked(double)) == 1
    assert again.json == first.json


def test_what_the_server_says_cannot_steer_the_terminal(answers: Path, double: OllamaDouble) -> None:
    double.enqueue_load(Failure(500, "\x1b[2J\x1b]0;title\x07 gone"))
    done = score(answers, double)
    assert "␛[2J" in done.err
    assert "\x1b" not in done.err


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["score"], ["score", "x", "--no-such"], ["nothing"], ["report"], []])
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    done = evaluation(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_a_malformed_host_is_usage_and_nothing_is_done(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "abc:99999")
    done = evaluation("score", answers, "--judge", "llama3.1")
    assert done.code == 2
    assert one_sentence(done).startswith("error: OLLAMA_HOST: expected an address")
    assert not Path("runs").exists()


def test_host_wins_over_a_malformed_ollama_host(
    answers: Path, double: OllamaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "abc:99999")
    assert score(answers, double).code == 0


def test_an_option_without_effect_is_told(answers: Path) -> None:
    done = evaluation("score", answers, "--host", "localhost")
    assert done.code == 0
    assert "do nothing without --judge" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["score", "none.json"], 1, "none.json: expected a run folder or a file of answers"),
        (["score", "empty"], 1, "empty: expected a run folder, got none with run.json"),
        (["report", "empty"], 1, "empty: expected a run folder"),
        (["report", "none"], 1, "none: expected a run folder"),
        (["score", "answers.json", "--judge", " "], 2, "--judge: expected the name of an Ollama model"),
        (["score", "empty", "--run", "other"], 2, "--run: expected none, got 'other'"),
        (["score", "answers.json", "--run", "answers.json"], 1, "answers.json"),
    ],
)
@pytest.mark.usefixtures("answers")
def test_what_a_person_can_cause_is_one_sentence(arguments: list[str], code: int, words: str) -> None:
    Path("empty").mkdir()
    done = evaluation(*arguments)
    assert done.code == code
    assert words in one_sentence(done)


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"instruction": "x", "output": "y"}] * 3))
    done = evaluation("score", path)
    assert done.code == 1
    assert [f"row {number}" in done.err for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert not Path("runs").exists()


def test_a_report_before_the_scores_says_what_to_do(answers: Path) -> None:
    evaluation("score", answers)
    Path("runs/answers/metrics.jsonl").unlink()
    done = evaluation("report", "runs/answers")
    assert done.code == 1
    assert "Run: evaluation score runs/answers" in one_sentence(done)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom evaluation.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'torch', 'pandas', 'ollama', 'scipy', 'numpy', 'httpx', 'sacrebleu'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for command in ("respond", "score", "report"):
        assert command in done.stdout.decode()


@pytest.mark.parametrize("command", ["respond", "score", "report"])
def test_every_command_shows_an_example(command: str) -> None:
    done = evaluation(command, "--help")
    assert done.code == 0
    assert f"Example: evaluation {command}" in done.out
    assert "--json" in done.out


def test_the_module_runs_and_a_pipe_gets_plain_text(answers: Path) -> None:
    command = [sys.executable, "-m", "evaluation", "score", str(answers)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert "Score 16.7 of 100" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


# --- respond ------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, examples: list[Example]) -> Path:
    path = tmp_path / "data.json"
    path.write_text(dump_rows(examples), encoding="utf-8")
    return path


def use(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    monkeypatch.setattr(cli, "load_session", lambda _model, _precision: session)
    return session


def test_respond_then_score(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeSession(), monkeypatch)
    done = evaluation("respond", "some-model", "--data", data, "--run", "mine", "--json")
    assert done.code == 0
    assert done.json == {"run": "mine", "rows": 40, "new": 40, "without_response": 0}
    assert "all rows: the model was not trained on a split of these files" in done.err
    report = evaluation("score", "mine", "--json").json
    assert (report["n"], report["name"], report["template"], report["stop_reasons"]) == (
        40,
        "fake",
        "alpaca",
        {"eos": 40},
    )


def test_respond_takes_the_test_part_of_the_models_own_data(
    data: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = use(FakeSession(info=trained_on(examples)), monkeypatch)
    done = evaluation("respond", "some-model", "--data", data, "--run", "mine")
    test = split_examples(examples).test
    assert sorted(session.asked) == sorted(example.instruction for example in test)
    assert f"the test part ({len(test)} of 40 rows; grouped, seed 123)" in done.err
    assert "Next: evaluation score mine" in done.out
    assert "test part of" in evaluation("score", "mine").out


def test_respond_passes_its_options_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    class Recording(FakeSession):
        def replies(self, examples: Any, settings: Any, *, batch_size: int = 32) -> Any:
            seen.update(settings.model_dump(), batch_size=batch_size)
            return super().replies(examples, settings, batch_size=batch_size)

    use(Recording(), monkeypatch)
    evaluation(
        *("respond", "m", "--data", data, "--run", "mine", "--max-new-tokens", 9, "--temperature", 0.5),
        *("--top-k", 4, "--top-p", 0.9, "--min-p", 0.1, "--repetition-penalty", 1.2, "--seed", 7),
        *("--stop", "\n", "--stop", "END", "--batch-size", 3),
    )
    assert seen == {
        **{"max_new_tokens": 9, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
        **{"seed": 7, "stop": ("\n", "END"), "logprobs": None, "batch_size": 3},
    }


def test_ctrl_c_keeps_the_answers_and_the_same_command_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeSession(interrupt_after=11), monkeypatch)
    done = evaluation("respond", "m", "--data", data, "--run", "mine")
    assert done.code == 130
    assert "mine keeps 11 answers. Give the same command again to go on." in done.err
    session = use(FakeSession(), monkeypatch)
    done = evaluation("respond", "m", "--data", data, "--run", "mine", "--json")
    assert len(session.asked) == 29
    assert (done.json["rows"], done.json["new"]) == (40, 29)


def test_an_unfinished_run_is_scored_as_such(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeSession(interrupt_after=10, too_long=("Say teal once.",)), monkeypatch)
    evaluation("respond", "m", "--data", data, "--run", "mine")
    report = evaluation("score", "mine", "--json").json
    assert (report["n"], report["scored"], report["unanswered"]) == (40, 9, 30)
    assert report["unscored"] == {"no_response": 31}


def test_another_run_in_the_same_folder_is_usage(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeSession(), monkeypatch)
    evaluation("respond", "m", "--data", data, "--run", "mine")
    done = evaluation("respond", "m", "--data", data, "--run", "mine", "--max-new-tokens", 5)
    assert done.code == 2
    assert one_sentence(done).endswith("got --max-new-tokens 5 (it has 256). Choose another --run.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top-p", "0"], "--top-p: expected greater than 0, got 0.0"),
        (["--temperature", "inf"], "--temperature: expected a finite number, got inf"),
        (["--part", "test"], "--part: expected rows in 'test', got none of 3"),
    ],
)
def test_settings_that_cannot_be_used_are_usage(
    tmp_path: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    use(FakeSession(), monkeypatch)
    path = tmp_path / "three.json"
    path.write_text(dump_rows(examples[:3]))
    done = evaluation("respond", "m", "--data", path, "--run", "mine", *options)
    assert done.code == 2
    assert words in one_sentence(done)
    assert not Path("mine").exists()


def test_a_model_that_is_none_is_one_sentence(data: Path) -> None:
    done = evaluation("respond", "no-such-model", "--data", data, "--run", "mine")
    assert done.code == 1
    assert "no-such-model" in one_sentence(done)
    assert not Path("mine").exists()


def test_a_file_whose_name_is_no_utf_8_is_scored(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.json"))
    path.write_text('[{"instruction": "i", "output": "o", "model_response": "o"}]')
    done = evaluation("score", path, "--run", tmp_path / "run", "--json")
    assert done.code == 0
    assert json.loads(done.out)["name"] == "bad\\xff.json"
