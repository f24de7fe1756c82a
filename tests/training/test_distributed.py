"""Several processes on one machine, with and without shards; one run is started by torchrun, as the docs say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

from assistant.dataset.instructions import Example, dump_rows
from assistant.model.checkpoint import load_checkpoint
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.run_folder import read_records
from tests.support.commands import FINETUNE, invoke, start_two, wait_for_steps
from tests.support.runs import weights

# 34 rows in batches of 3: the last batch has a single row, so one process has none.
STEPS = 60
RUN = (
    *("finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", str(STEPS)),
    *("--batch-size", "3", "--gradient-accumulation-steps", "2"),
)


def kill_with_children(process: subprocess.Popen[str]) -> None:
    """Kill a process and the ranks that it started, as a power cut would."""
    parent = psutil.Process(process.pid)
    for killed in [*parent.children(recursive=True), parent]:
        killed.kill()
    process.communicate(timeout=60)


def test_every_row_is_in_one_share() -> None:
    rows = list(range(7))
    shares = [Ranks(rank=rank, world_size=3).share(rows) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows
    assert SINGLE_PROCESS.share(rows) == rows
    assert Ranks(rank=1, world_size=2).share([5]) == []


@pytest.mark.timeout(300)  # up to four starts, and each is slow on a busy machine
@pytest.mark.parametrize(("options", "loss_per"), [((), "row"), (("--shard",), "token")])
def test_two_processes_give_the_losses_of_one_and_resume_to_the_same_weights(
    folder: Path, options: tuple[str, ...], loss_per: str
) -> None:
    run = (*RUN, "--loss-per", loss_per)
    assert invoke(*run, "-o", "one").exit_code == 0
    process = start_two(*run, *options, "-o", "two", "--json", torchrun=not options)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["steps"] == STEPS
    assert errors.count("34 training rows") == 1
    one, two = (read_records(folder / name / "metrics.jsonl") for name in ("one", "two"))
    assert [record["step"] for record in two] == list(range(1, STEPS + 1))
    for of_one, of_two in zip(one, two, strict=True):
        assert of_one["loss"] == pytest.approx(of_two["loss"], abs=1e-5 if of_one["step"] <= 12 else 1e-3)
        assert of_one["tokens"] == of_two["tokens"]
        assert of_one["supervised_tokens"] == of_two["supervised_tokens"]
    states = [load_checkpoint(folder / name / "last").model.state_dict() for name in ("one", "two")]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-3) for name in states[0])

    process = start_two(*run, *options, "-o", "parts", "--save-every", "0")
    wait_for_steps(folder / "parts" / "metrics.jsonl", 4, process)
    kill_with_children(process)
    refused = invoke(*run, *options, "-o", "parts", "--resume")
    assert refused.exit_code == 2
    assert "expected to resume with the same number of processes, 2, got 1" in refused.stderr
    if options:
        process = start_two(*run, "-o", "parts", "--resume")
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "expected to resume with --shard" in errors
    process = start_two(*run, *options, "-o", "parts", "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for name in (".", "last"):
        assert weights(folder / "parts" / name) == weights(folder / "two" / name)


def test_two_processes_give_the_preference_losses_of_one(folder: Path, pairs: list[Example]) -> None:
    (folder / "pairs.json").write_text(dump_rows(pairs))
    prefer = ("prefer", "pairs.json", "-m", "base", "--batch-size", "3", "--learning-rate", "1e-3")
    assert invoke(*prefer, "-o", "one").exit_code == 0
    process = start_two(*prefer, "-o", "two")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    one, two = (read_records(folder / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 12
    for of_one, of_two in zip(one[1:], two[1:], strict=True):
        for name in ("loss", "margin", "reward_accuracy"):
            assert of_one[name] == pytest.approx(of_two[name], abs=1e-4)
