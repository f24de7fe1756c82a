"""The command `assistant`, run in a process of its own or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner, Result

from assistant.cli.app import app
from assistant.training.run_folder import read_records
from tests.conftest import REPOSITORY

FINETUNE = ("--epochs", "2", "--learning-rate", "3e-3", "--precision", "float32")


def assistant(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "assistant", *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, input=text, stdin=None if text is not None else subprocess.DEVNULL, capture_output=True, text=True,
        check=False, env=environment,
    )  # fmt: skip


def invoke(*words: str, text: str | None = None) -> Result:
    """The same in this process, which is quicker."""
    return CliRunner().invoke(app, words, input=text)


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assistant", *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_steps(path: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(read_records(path)) < steps and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def start_two(*words: str) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m assistant ...`"""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "assistant", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
