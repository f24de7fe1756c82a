"""Ollama doubles as processes of their own, which do not share the interpreter with what is measured or killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import REPOSITORY


@contextmanager
def running_doubles(number: int, *options: str) -> Iterator[list[str]]:
    """Start doubles that give hashed verdicts, and yield their addresses."""
    command = [sys.executable, "-m", "tests.support.ollama_double", "--port", "0", *options]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    try:
        yield [process.stdout.readline().strip() for process in processes if process.stdout is not None]
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
