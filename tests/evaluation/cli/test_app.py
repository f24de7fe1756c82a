"""The command `evaluation`: exit codes, error messages, help, and what it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.evaluation_command import evaluation, score
from tests.support.ollama_double import OllamaDouble

pytestmark = pytest.mark.usefixtures("work_in_tmp_path")


@pytest.mark.parametrize("arguments", [["score"], ["score", "x", "--no-such"], ["nothing"], ["report"], []])
def test_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    result = evaluation(*arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


def test_malformed_host_is_a_usage_error_and_nothing_is_written(answers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "abc:99999")
    result = evaluation("score", answers, "--judge", "llama3.1")
    assert result.code == 2
    assert result.error.startswith("error: OLLAMA_HOST: expected an address")
    assert not Path("runs").exists()


def test_host_option_overrides_a_malformed_ollama_host(
    answers: Path, double: OllamaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "abc:99999")
    assert score(answers, double).code == 0


def test_option_without_effect_gets_a_note(answers: Path) -> None:
    result = evaluation("score", answers, "--host", "localhost")
    assert result.code == 0
    assert "do nothing without --judge" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["score", "none.json"], 1, "none.json: expected an answers folder or a file of answers"),
        (["score", "empty"], 1, "empty: expected an answers folder, got no run.json there"),
        (["report", "empty"], 1, "empty: expected an answers folder"),
        (["report", "none"], 1, "none: expected an answers folder"),
        (["score", "answers.json", "--judge", " "], 2, "--judge: expected the name of a model"),
        (
            ["score", "empty", "--run", "other"],
            2,
            "--run: expected no other folder for the answers folder empty, got 'other'",
        ),
        (["score", "answers.json", "--run", "answers.json"], 1, "answers.json"),
    ],
)
@pytest.mark.usefixtures("answers")
def test_user_error_is_one_message_with_an_exit_code(arguments: list[str], code: int, words: str) -> None:
    Path("empty").mkdir()
    result = evaluation(*arguments)
    assert result.code == code
    assert words in result.error


def test_all_bad_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"output": "y", "model_response": "z"}] * 3))
    result = evaluation("score", path)
    assert result.code == 1
    assert [f"row {number}" in result.err for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert not Path("runs").exists()


def test_report_without_scores_names_the_command_to_run(answers: Path) -> None:
    evaluation("score", answers)
    Path("runs/answers/metrics.jsonl").unlink()
    result = evaluation("report", "runs/answers")
    assert result.code == 1
    assert "Run: evaluation score runs/answers" in result.error


def test_help_imports_no_heavy_package() -> None:
    program = (
        "import sys\nfrom evaluation.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'pandas', 'ollama', 'scipy', 'numpy', 'httpx', 'sacrebleu'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    for command in ("respond", "score", "report", "label", "pairs", "check-judge"):
        assert command in result.stdout.decode()


@pytest.mark.parametrize("command", ["respond", "score", "report", "label", "pairs", "check-judge"])
def test_help_of_every_command_has_an_example(command: str) -> None:
    result = evaluation(command, "--help")
    assert result.code == 0
    assert f"Example: evaluation {command}" in result.out
    assert "--json" in result.out


def test_module_runs_and_a_pipe_gets_plain_text(answers: Path) -> None:
    command = [sys.executable, "-m", "evaluation", "score", str(answers)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert result.returncode == 0, result.stderr
    assert "Score 16.7 of 100" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
