"""A run with a judge at two servers that is killed at random moments ends as an undisturbed one: every row once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.judging.ledger import read_ledger
from tests.conftest import REPOSITORY
from tests.support.double_processes import running_doubles
from tests.support.guesses import outcomes_by_row, write_guesses

N_ROWS = 300
N_KILLS = 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    path = write_guesses(tmp_path, N_ROWS)
    chance = random.Random("kills of a judge")
    with running_doubles(2, "--answer-seconds", "0.02", "--parallel", "2") as urls:
        whole = _start(path, tmp_path / "whole", urls)
        output, errors = whole.communicate(timeout=300)
        assert whole.returncode == 0, errors
        for _ in range(N_KILLS):
            process = _start(path, tmp_path / "killed", urls)
            time.sleep(chance.uniform(0, 0.1))
            _wait_for_rows(process, tmp_path / "killed/judgements.jsonl", chance.randrange(N_ROWS // N_KILLS))
            assert process.poll() is None, "the run was over before it was killed"
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        last = _start(path, tmp_path / "killed", urls)
        report, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
    expected, actual = json.loads(output), json.loads(report)
    expected.pop("run")
    actual.pop("run")
    assert actual == expected
    assert outcomes_by_row(tmp_path / "killed") == [None] * N_ROWS
    judged = [line for line in read_ledger(tmp_path / "killed/judgements.jsonl").judgements if line.source == "judge"]
    assert len({line.id for line in judged}) == len(judged) == N_ROWS


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_reports_what_was_judged(tmp_path: Path, number: signal.Signals) -> None:
    path = write_guesses(tmp_path, N_ROWS)
    with running_doubles(2, "--answer-seconds", "0.05", "--parallel", "2") as urls:
        process = _start(path, tmp_path / "run", urls)
        ledger = tmp_path / "run/judgements.jsonl"
        while not ledger.exists() or ledger.read_bytes().count(b"\n") < 20:
            time.sleep(0.02)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "Give the same command again to continue" in errors
    report = json.loads(output)
    judged = [line for line in read_ledger(ledger).judgements if line.source == "judge"]
    assert report["scored"] == len(judged) >= 19
    assert report["unscored"] == {"not_judged": N_ROWS - len(judged)}


def _wait_for_rows(process: subprocess.Popen[str], ledger: Path, count: int) -> None:
    """Wait until the run has judged `count` rows more, or has ended."""

    def n_lines() -> int:
        return ledger.read_bytes().count(b"\n") if ledger.exists() else 0

    first = n_lines()
    while process.poll() is None and n_lines() < first + count:
        time.sleep(0.005)


def _start(path: Path, run: Path, urls: list[str]) -> subprocess.Popen[str]:
    hosts = [word for url in urls for word in ("--host", url)]
    command = [
        sys.executable,
        "-m",
        "evaluation",
        "score",
        str(path),
        "--run",
        str(run),
        "--judge",
        "llama3.1",
        "--controls",
        "0",
        *hosts,
    ]
    return subprocess.Popen(
        [*command, "--parallel", "2", "--json"],
        # Each run has verdicts of its own, so that the second one asks too.
        env=os.environ | {"XDG_CACHE_HOME": str(run) + "-cache"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
