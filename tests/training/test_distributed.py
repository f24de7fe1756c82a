"""Several processes on one machine, started by torchrun as the README says."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch

from assistant.model.checkpoint import load_checkpoint
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.run_folder import read_records
from tests.support.commands import FINETUNE, invoke, start_two, wait_for_steps

# 34 rows in batches of 3: the last one has a single row, which leaves one process without any.
STEPS = 60
WORDS = (
    *("finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", str(STEPS)),
    *("--batch-size", "3", "--gradient-accumulation-steps", "2"),
)


def test_every_row_is_in_one_share() -> None:
    rows = list(range(7))
    shares = [Ranks(rank=rank, world_size=3).share(rows) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows
    assert SINGLE_PROCESS.share(rows) == rows
    assert Ranks(rank=1, world_size=2).share([5]) == []


@pytest.mark.parametrize("arrangement", [(), ("--shard",)])
def test_two_processes_lose_what_one_loses_and_resume_to_the_same_bytes(
    folder: Path, arrangement: tuple[str, ...]
) -> None:
    assert invoke(*WORDS, "-o", "one").exit_code == 0
    words = (*WORDS, *arrangement)
    process = start_two(*words, "-o", "two", "--json")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output)["steps"] == STEPS
    assert errors.count("34 training rows") == 1
    one, two = (read_records(folder / name / "metrics.jsonl") for name in ("one", "two"))
    assert [record["step"] for record in two] == list(range(1, STEPS + 1))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5 if ours["step"] <= 12 else 1e-3)
        assert [ours[name] for name in ("tokens", "supervised_tokens")] == [
            theirs[name] for name in ("tokens", "supervised_tokens")
        ]
    weights = [load_checkpoint(folder / name / "last").model.state_dict() for name in ("one", "two")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-3) for name in weights[0])

    process = start_two(*words, "-o", "parts", "--save-every", "0")
    wait_for_steps(folder / "parts" / "metrics.jsonl", 4, process)
    torchrun = psutil.Process(process.pid)
    for one_of_them in [*torchrun.children(recursive=True), torchrun]:
        one_of_them.kill()
    process.communicate(timeout=60)
    refused = invoke(*words, "-o", "parts", "--resume")
    assert refused.exit_code == 2
    assert "expected to resume with the same number of processes, 2, got 1" in refused.stderr
    if arrangement:
        process = start_two(*WORDS, "-o", "parts", "--resume")
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "expected to resume with --shard" in errors
    process = start_two(*words, "-o", "parts", "--resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for name in ("model.safetensors", "last/model.safetensors"):
        assert (folder / "parts" / name).read_bytes() == (folder / "two" / name).read_bytes()
