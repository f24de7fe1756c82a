"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

ALLOCATE_AND_FREE = """
import torch
from assistant.training.malloc import keep_freed_memory
print(keep_freed_memory())
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
torch.ones(30_000_000)
print(resident() - before > 100e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc and Linux's /proc")
def test_freed_memory_is_kept() -> None:
    """In a new process, because the change holds for a whole process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    completed = subprocess.run(
        [sys.executable, "-c", ALLOCATE_AND_FREE],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout.split() == ["True", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc and Linux's /proc")
def test_a_malloc_variable_of_the_user_is_respected() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", "from assistant.training.malloc import keep_freed_memory; print(keep_freed_memory())"],
        cwd=REPOSITORY, env=os.environ | {"MALLOC_ARENA_MAX": "2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert completed.stdout.strip() == "False"
