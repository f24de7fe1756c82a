"""Runs the `assistant` command, in a new process or in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from typer.testing import CliRunner, Result

from assistant.cli.app import app
from assistant.training.run_folder import read_records
from tests.conftest import REPOSITORY

FINETUNE = ("--epochs", "2", "--learning-rate", "3e-3", "--precision", "float32")
"""Options for `assistant finetune` that train the tiny model quickly."""


def assistant(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process until it ends, with `text` as its standard input."""
    return subprocess.run(
        _command(*words), input=text, stdin=None if text is not None else subprocess.DEVNULL, capture_output=True,
        text=True, check=False, env=_environment(),
    )  # fmt: skip


def invoke(*words: str, text: str | None = None) -> Result:
    """Run the command in this process, which is faster, with `text` as its standard input."""
    return CliRunner().invoke(app, words, input=text)


def interrupt(*words: str, metrics: Path, steps: int) -> Result:
    """Run the command in this process, and send it Ctrl-C once the metrics file has `steps` lines."""
    ended = threading.Event()

    def press() -> None:
        while len(read_records(metrics)) < steps:
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        return invoke(*words)
    finally:
        ended.set()
        presser.join()


def start(*words: str) -> subprocess.Popen[str]:
    """Start the command in a new process, without waiting for it."""
    return _start(_command(*words), _environment())


def start_two(*words: str, torchrun: bool = False) -> subprocess.Popen[str]:
    """Start the command on two ranks, one thread each, without waiting for it; with torchrun it takes seconds more."""
    command = ["tests.support.two_ranks"]
    if torchrun:
        command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "assistant"]
    return _start([sys.executable, "-m", *command, *words], _environment() | {"OMP_NUM_THREADS": "1"})


def wait_for_steps(path: Path, steps: int, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Wait until the metrics file has `steps` lines, or the process has ended, or a minute has passed."""
    deadline = time.monotonic() + 60
    while len(read_records(path)) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_hear_ctrl_c
    )  # fmt: skip


def _hear_ctrl_c() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and the commands would rightly go on ignoring it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "assistant", *words]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)}
