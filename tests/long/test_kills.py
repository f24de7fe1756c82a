"""A run that is killed or interrupted at random moments ends with the bytes of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import FINETUNE, invoke, start
from tests.support.runs import weights

ROUNDS = 12
DISTURBANCES = 67
"""For each of the four kinds of run: 268 in all."""
LONGEST_WAIT_S = 6.0
"""A little longer than the whole run takes."""
LONGEST_END_S = 300.0
"""How long a run may take to end after a signal, on a busy machine."""
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
IGNORED = {signal.SIGPIPE}
"""The run goes on."""


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "more", [(), ("--lora", "--learning-rate", "0.01"), ("--precision", "bfloat16"), ("--trained", "last-block")]
)
def test_a_disturbed_run_ends_with_the_same_bytes(folder: Path, more: tuple[str, ...]) -> None:
    command: tuple[str, ...] = ("finetune", "rows.json")
    if "--trained" in more:
        rows = [{"text": f"{word} {number}", "label": word} for number in range(40) for word in ("red", "blue")]
        (folder / "texts.json").write_text(json.dumps(rows))
        command = ("classify", "train", "texts.json")
    words = (*command, "-m", "base", *FINETUNE, "--max-steps", "120", "--batch-size", "2", *more)
    assert invoke(*words, "-o", "whole").exit_code == 0
    chance = random.Random(f"kills {more}")
    n_disturbed = number = 0
    while n_disturbed < DISTURBANCES or number < ROUNDS:
        output, is_done = f"disturbed-{number}", False
        number += 1
        while not is_done:
            resume = ("--resume",) if (folder / output).exists() else ()
            process = start(*words, "-o", output, "--save-every", "0.02", *resume)
            is_read, sent, errors = chance.random() < 0.5, None, ""
            try:
                _, errors = process.communicate(timeout=chance.uniform(1.5, LONGEST_WAIT_S))
            except subprocess.TimeoutExpired:
                sent = chance.choice(SIGNALS)
                n_disturbed += 1
                if not is_read:  # as when Ctrl-C ends `tee` too
                    for stream in (process.stdout, process.stderr):
                        assert stream is not None
                        stream.close()
                process.send_signal(sent)
                if is_read:
                    _, errors = process.communicate(timeout=LONGEST_END_S)
                process.wait(LONGEST_END_S)
            is_done = process.returncode == 0
            # Before the program handles signals, they end it as they end any other.
            ends = {0} if sent is None or sent in IGNORED else {0, 128 + sent, -sent}
            # A classifier's report goes to stdout.
            ends |= set() if is_read else {128 + signal.SIGPIPE}
            assert process.returncode in ends, errors
            assert "Traceback" not in errors or process.returncode == -signal.SIGINT, errors
        for name in (".", "last"):
            assert weights(folder / output / name) == weights(folder / "whole" / name)
