"""The training loop: it learns, keeps the best weights, stops and resumes, and reports what goes wrong."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from assistant.dataset.encode import encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import AssistantError, CheckpointError
from assistant.model import fused
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import BestBy, Precision
from assistant.training.collate import collate
from assistant.training.loss import summed_loss
from assistant.training.plots import plot_losses
from assistant.training.run_folder import read_records
from tests.support.runs import FAST, records_without_seconds, train, weights, with_random_answers


def test_a_run_learns_and_leaves_a_model_with_its_records(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    result, watcher = train(byte_tokenizer, examples, output, FAST.model_copy(update={"epochs": 12}))
    assert (result.steps, result.total_steps, result.stopped) == (60, 60, False)
    assert result.best_validation_loss is not None
    assert result.first_validation_loss is not None
    assert result.best_validation_loss < 0.6 * result.first_validation_loss
    assert {path.name for path in output.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt",
        "tokenizer_config.json", "assistant.json", "trained_prompts.bin", "metrics.jsonl", "validation.jsonl", "last",
    }  # fmt: skip
    assert not (output / "last" / "training").exists()
    assert len(watcher.validations[-1].samples) == watcher.validations[-1].answered == 2
    assert not watcher.warnings
    info = load_checkpoint(output).info
    assert info is not None
    assert info.rows == {"train": 34, "validation": 2, "test": 4}
    assert info.metrics["best_step"] == result.best_step
    path = plot_losses(output)
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")

    records = read_records(output / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 61))
    assert records[0].keys() >= {"step", "loss", "learning_rate", "tokens", "supervised_tokens", "seconds"}
    rows = encode_examples(split_examples(examples).train, get_template("alpaca"), byte_tokenizer, max_length=256).rows
    n_targets = sum(len(row.input_ids) - row.prompt_length for row in rows)
    assert sum(record["tokens"] for record in records[:5]) == sum(len(row.input_ids) for row in rows)
    assert sum(record["supervised_tokens"] for record in records[:5]) == n_targets


# --- the best and the last weights --------------------------------------------------------------------------------


def test_the_folder_has_the_best_weights_and_last_has_the_newest(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    random_answers = with_random_answers(examples)
    settings = FAST.model_copy(update={"epochs": 20, "learning_rate": 0.02, "validate_every": 5})
    result, watcher = train(byte_tokenizer, random_answers, tmp_path / "run", settings)
    losses = {report.step: report.validation_loss for report in watcher.validations if report.step}
    assert result.best_step == min(losses, key=lambda step: losses[step])
    assert result.best_step != result.steps

    def validation_loss(folder: Path) -> float:
        checkpoint = load_checkpoint(folder)
        validation = split_examples(random_answers).validation
        rows = encode_examples(validation, checkpoint.template, byte_tokenizer, max_length=256).rows
        batch = collate(rows, pad_id=256)
        with torch.inference_mode():
            return (summed_loss(checkpoint.model, batch) / batch.target_mask.sum()).item()

    assert validation_loss(tmp_path / "run") == pytest.approx(losses[result.best_step], rel=1e-5)
    assert validation_loss(tmp_path / "run" / "last") == pytest.approx(losses[100], rel=1e-5)


def test_without_validation_rows_the_last_weights_are_the_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    result, watcher = train(byte_tokenizer, examples[:1], tmp_path / "run")
    assert (result.best_step, watcher.validations) == (None, [])
    assert weights(tmp_path / "run") == weights(tmp_path / "run" / "last")


@pytest.mark.parametrize("best_by", ["loss", "exact", "ended"])
def test_early_stopping_ends_a_run_after_three_validations_without_better_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], best_by: BestBy
) -> None:
    changes = {"epochs": 40, "learning_rate": 0.02, "validate_every": 5, "patience": 3, "best_by": best_by}
    settings = FAST.model_copy(update=changes)
    result, watcher = train(byte_tokenizer, with_random_answers(examples), tmp_path / "run", settings)
    assert result.ended_early
    assert not result.stopped
    assert result.best_step is not None
    assert result.steps == result.best_step + 3 * 5 < result.total_steps
    assert not (tmp_path / "run" / "last" / "training").exists()
    shares = {report.step: getattr(report, best_by, None) or 0.0 for report in watcher.validations if report.step}
    losses = {report.step: report.validation_loss for report in watcher.validations if report.step}
    assert result.best_step == min(losses, key=lambda step: (-shares[step], losses[step]))


def test_validating_does_not_change_the_training(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    for name, steps in (("often", 1), ("rarely", 1000)):
        train(byte_tokenizer, examples, tmp_path / name, FAST.model_copy(update={"validate_every": steps}))
    assert weights(tmp_path / "often" / "last") == weights(tmp_path / "rarely" / "last")


# --- stopping and resuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        *((stop_at, {"gradient_accumulation_steps": 2}) for stop_at in (1, 4, 5, 7)),
        (3, {"gradient_accumulation_steps": 2, "optimizer": "muon"}),
        (3, {"precision": "bfloat16"}),
        (5, {"precision": "bfloat16", "gradient_accumulation_steps": 2}),
    ],
)
def test_a_stopped_run_resumes_to_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int, changes: dict[str, object]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = FAST.model_copy(update={"batch_size": 4, "validate_every": 2, **changes})
    uninterrupted, _ = train(byte_tokenizer, examples, whole, settings)
    stopped, _ = train(byte_tokenizer, examples, parts, settings, stop_at=stop_at)
    assert stopped.stopped
    assert load_checkpoint(parts).info is not None  # a stopped run leaves a model that can be used
    resumed, watcher = train(byte_tokenizer, examples, parts, settings, resume=True)
    assert watcher.plans[0].first_step == stop_at
    assert weights(parts) == weights(whole)
    assert weights(parts / "last") == weights(whole / "last")
    assert resumed.best_step == uninterrupted.best_step
    assert resumed.best_validation_loss == uninterrupted.best_validation_loss
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert records_without_seconds(parts / name) == records_without_seconds(whole / name)


def test_a_resumed_run_has_the_precision_that_it_began_with(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` picks bfloat16 when the run begins, and would pick float32 when it is resumed."""
    picked_by_auto = iter((torch.bfloat16, torch.float32))

    def pick(name: Precision, *_: object) -> torch.dtype:
        if name == "auto":
            return next(picked_by_auto)
        return torch.float32 if name == "float32" else torch.bfloat16

    monkeypatch.setattr("assistant.training.trainer.pick_precision", pick)
    settings = FAST.model_copy(update={"precision": "auto"})
    train(byte_tokenizer, examples, tmp_path / "run", settings, stop_at=2)
    _, watcher = train(byte_tokenizer, examples, tmp_path / "run", settings, resume=True)
    assert watcher.plans[0].precision == "bfloat16"


# --- what can go wrong --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    settings = FAST.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0})
    with pytest.raises(AssistantError, match="expected a finite loss"):
        train(byte_tokenizer, examples, tmp_path / "run", settings)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_problem_with_the_compiled_loops_is_a_warning(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "problem", lambda: "They are not used.")
    _, watcher = train(byte_tokenizer, examples[:1], tmp_path / "run")
    assert watcher.warnings == ["They are not used."]


def test_a_lack_of_memory_is_reported_in_one_sentence(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr("assistant.training.trainer.summed_loss", raise_out_of_memory)
    with pytest.raises(AssistantError, match="after step 0: expected enough memory for a batch of 8"):
        train(byte_tokenizer, examples, tmp_path / "run")


def test_a_full_disk_is_reported_in_one_sentence_and_leaves_no_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def raise_no_space(path: Path, *options: str, **more: str) -> IO[Any]:
        if options == ("wb",) and path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *options, **more)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(Path, "open", raise_no_space)
    with pytest.raises(CheckpointError, match=r"expected room to write the weights, got .*No space left"):
        train(byte_tokenizer, examples, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"metrics.jsonl", "validation.jsonl"}
