"""Runs of `assistant finetune`: they can be killed, stopped, resumed and repeated, and nothing is replaced unasked."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint
from tests.support.commands import FINETUNE, assistant, interrupt, invoke, start, wait_for_steps
from tests.support.models import save_tiny


@pytest.mark.parametrize("more", [[], ["--lora", "--learning-rate", "0.01"]])
def test_a_killed_and_interrupted_run_resumes_to_the_same_weights(folder: Path, more: list[str]) -> None:
    """SIGKILL first, then SIGINT. The weights equal those of a run without interruptions."""
    words = ["finetune", "rows.json", "-m", "base", *FINETUNE, "--max-steps", "90", "--batch-size", "2", *more]
    whole = invoke(*words, "-o", "whole")
    assert whole.exit_code == 0, whole.stderr
    words += ["--save-every", "0.05"]
    metrics = folder / "parts" / "metrics.jsonl"
    process = start(*words, "-o", "parts")
    wait_for_steps(metrics, 10, process)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    stopped = interrupt(*words, "-o", "parts", "--resume", metrics=metrics, steps=30)
    assert stopped.exit_code == 130, stopped.stderr
    assert "The same command with --resume continues from there." in stopped.stderr
    assert load_checkpoint(folder / "parts").info is not None
    assert invoke(*words, "-o", "parts").exit_code == 2  # needs --resume or --overwrite
    resumed = invoke(*words, "-o", "parts", "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    for name in ("model.safetensors", "last/model.safetensors"):
        assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    for other in (["--split", "book"], ["--split-seed", "7"], ["-m", "parts"]):
        assert invoke(*words, *other, "-o", "parts", "--resume").exit_code == 2
    again = invoke(*words, "-o", "parts", "--resume", "--json")
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["steps"] == 90


def test_resume_refuses_another_model(folder: Path, byte_tokenizer: Tokenizer) -> None:
    save_tiny(folder / "other", byte_tokenizer)
    words = ["finetune", "rows.json", "-o", "out", *FINETUNE, "--save-every", "0"]
    metrics = folder / "out" / "metrics.jsonl"
    stopped = interrupt(*words, "-m", "base", "--max-steps", "5000", metrics=metrics, steps=3)
    assert stopped.exit_code == 130, stopped.stderr
    refused = invoke(*words, "-m", "other", "--max-steps", "5000", "--resume")
    assert refused.exit_code == 2
    assert "expected to resume with the model base, got other" in refused.stderr


@pytest.mark.usefixtures("folder")
def test_overwrite_refuses_a_folder_that_contains_the_model() -> None:
    assert invoke("finetune", "rows.json", "-m", "base", "-o", "out", "--max-steps", "1").exit_code == 0
    done = invoke("finetune", "rows.json", "-m", "out/last", "-o", "out", "--overwrite")
    assert done.exit_code == 2
    assert "expected another folder than the one that --model out/last is in" in done.stderr
    assert Path("out/last/model.safetensors").exists()
    assert invoke("finetune", "rows.json", "-m", "out", "-o", "out", "--max-steps", "1", "--overwrite").exit_code == 0


def test_two_deterministic_runs_give_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them in a process of its own, with other hashes of strings. The option changes all of torch."""
    options = ("--deterministic", "--max-steps", "3", "--precision", "bfloat16", "--epochs", "1")
    words = ("finetune", "rows.json", "-m", "base", *options)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the option sets it
    other = assistant(*words, "-o", "one")
    assert other.returncode == 0, other.stderr
    try:
        here = invoke(*words, "-o", "two")
    finally:
        torch.use_deterministic_algorithms(False)
    assert here.exit_code == 0, here.stderr
    assert (folder / "one" / "model.safetensors").read_bytes() == (folder / "two" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("word", "message"), [("--plan", "expected one process"), ("--shard", "does nothing without")])
@pytest.mark.usefixtures("folder")
def test_plan_needs_one_process_and_shard_needs_two(monkeypatch: pytest.MonkeyPatch, word: str, message: str) -> None:
    if word == "--plan":
        monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke("finetune", "rows.json", "-m", "base", "-o", "run", *FINETUNE, "--max-steps", "1", word)
    assert message in result.stderr
    assert result.exit_code == (2 if word == "--plan" else 0)


def test_finetune_on_plain_text_then_ask_continues_a_text(folder: Path) -> None:
    texts = [f"Once, {number} times, there was a number that grew and grew. " * 8 for number in range(20)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["--template", "text", "--train-on", "all", "--test-share", "0", "--max-steps", "2"]
    done = invoke("finetune", "text.jsonl", "-m", "base", "-o", "read", *words, "--json")
    assert done.exit_code == 0, done.stderr
    assert "38 training rows, 2 validation rows" in done.stderr  # over 400 bytes fill two rows of 256
    steps = [json.loads(line) for line in (folder / "read" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < step["tokens"] - step["supervised_tokens"] <= 8 for step in steps)  # first tokens are not targets
    said = json.loads(invoke("ask", "read", "Once, 3", "--max-new-tokens", "3", "--json").stdout)
    assert said["prompt"] == "Once, 3"
