"""A run that is killed or interrupted at random moments ends with the bytes of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import FINETUNE, invoke, start
from tests.support.runs import weights

ROUNDS = 12
LONGEST_WAIT_S = 6.0
"""A little longer than the whole run takes."""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("more", [(), ("--lora", "--learning-rate", "0.01"), ("--precision", "bfloat16")])
def test_a_disturbed_run_ends_with_the_same_bytes(folder: Path, more: tuple[str, ...]) -> None:
    words = ("finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", "120", "--batch-size", "2", *more)
    assert invoke(*words, "-o", "whole").exit_code == 0
    chance = random.Random(f"kills {more}")
    n_disturbed = 0
    for number in range(ROUNDS):
        output, is_done = f"disturbed-{number}", False
        while not is_done:
            resume = ("--resume",) if (folder / output).exists() else ()
            process = start(*words, "-o", output, "--save-every", "0.02", *resume)
            try:
                _, errors = process.communicate(timeout=chance.uniform(1.5, LONGEST_WAIT_S))
            except subprocess.TimeoutExpired:
                process.send_signal(chance.choice([signal.SIGKILL, signal.SIGINT]))
                n_disturbed += 1
                _, errors = process.communicate(timeout=60)
            is_done = process.returncode == 0
            assert process.returncode in (0, 130, -signal.SIGKILL, -signal.SIGINT), errors
            # A finished run may be interrupted in the handlers that torch runs at exit.
            assert "Traceback" not in errors or is_done or process.returncode == -signal.SIGINT, errors
        for name in (".", "last"):
            assert weights(folder / output / name) == weights(folder / "whole" / name)
    assert n_disturbed >= ROUNDS
