"""The trainer: the settings it refuses, its windows, accumulation, frozen weights, and the check of the fast path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assistant.dataset.encode import count_targets
from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import SettingsError
from assistant.model import linear
from assistant.model.checkpoint import load_checkpoint
from assistant.model.gpt import GPT
from assistant.model.packing import PackedBatch
from assistant.settings import FinetuneSettings, TrainOn
from assistant.training.loss import summed_loss
from assistant.training.trainer import Trainer
from tests.support.models import tiny_checkpoint
from tests.support.runs import FAST, train, weights


def make_trainer(tokenizer: Tokenizer, examples: list[Example], settings: FinetuneSettings) -> Trainer:
    return Trainer(tiny_checkpoint(tokenizer), split_examples(examples), settings)


# --- settings -----------------------------------------------------------------------------------------------------


def test_rows_longer_than_the_context_are_refused(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    with pytest.raises(SettingsError, match="--max-length: expected at most 256, the model's context, got 300"):
        make_trainer(byte_tokenizer, examples, FAST.model_copy(update={"max_length": 300}))


def test_best_by_answers_needs_answers(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    settings = FAST.model_copy(update={"best_by": "exact", "validation_answers": 0})
    with pytest.raises(SettingsError, match="--best-by exact: expected answers to choose by"):
        make_trainer(byte_tokenizer, examples, settings)


# --- the loss -----------------------------------------------------------------------------------------------------


def test_every_row_counts_the_same_if_asked(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    """The gradient is that of the mean over rows of each row's mean loss, in one micro-batch or in three."""
    long = [replace(row, output=row.output * 9) for row in examples[:7]]
    settings = FAST.model_copy(update={"loss_per": "row", "max_grad_norm": 0.0})
    trainer = make_trainer(byte_tokenizer, [*long, *examples[7:]], settings)
    rows = trainer.train.rows[:6]
    assert len({count_targets(row, "response") for row in rows}) > 2
    trainer.model.train()
    means = [
        summed_loss(trainer.model, trainer.collate([row], "response")) / count_targets(row, "response") for row in rows
    ]
    mean = torch.stack(means).mean()
    expected = torch.autograd.grad(mean, list(trainer.model.parameters()))
    for batches in ([rows], [rows[:1], rows[1:3], rows[3:]]):
        trainer.model.zero_grad()
        totals = trainer._accumulate(batches)
        assert totals["loss"] == pytest.approx(mean.item(), rel=1e-5)
        for weight, gradient in zip(trainer.model.parameters(), expected, strict=True):
            assert weight.grad is not None
            assert torch.allclose(weight.grad, gradient, atol=1e-6)


def test_a_step_after_a_validation_weighs_rows_as_the_first_step(
    byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    """A validation is a mean over tokens, and it leaves the model in evaluation mode."""
    settings = FAST.model_copy(update={"loss_per": "row"})
    plain, by_row = (make_trainer(byte_tokenizer, examples, given) for given in (FAST, settings))
    assert by_row.evaluate(by_row.train.rows) == plain.evaluate(plain.train.rows)
    fresh = make_trainer(byte_tokenizer, examples, settings)
    _, window = next(fresh.windows(0))
    assert by_row.train_step(1, window).loss == fresh.train_step(1, window).loss


# --- windows and accumulation -------------------------------------------------------------------------------------


def test_windows_hold_every_row_once_per_epoch_and_continue_after_any_step(
    byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    """34 rows in micro-batches of 8 are 5 micro-batches, so 3 steps of at most 2 micro-batches per epoch."""
    settings = FAST.model_copy(update={"gradient_accumulation_steps": 2})
    trainer = make_trainer(byte_tokenizer, examples, settings)
    windows = list(trainer.windows(0))
    assert [epoch for epoch, _ in windows] == [0, 0, 0, 1, 1, 1]
    assert [len(window) for _, window in windows] == [2, 2, 1, 2, 2, 1]
    for epoch in (0, 1):
        rows = [row for number, window in windows if number == epoch for batch in window for row in batch]
        assert sorted(rows) == list(range(34))
    for first_step in range(7):
        assert list(trainer.windows(first_step)) == windows[first_step:]


def test_max_steps_overrides_epochs(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    for steps in (3, 13):
        settings = FAST.model_copy(update={"max_steps": steps})
        result, watcher = train(byte_tokenizer, examples, tmp_path / str(steps), settings)
        assert (result.steps, watcher.steps[-1].step, watcher.steps[-1].epoch) == (steps, steps, (steps - 1) // 5)


@pytest.mark.parametrize("train_on", ["response", "all"])
def test_accumulated_micro_batches_equal_one_large_batch(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], train_on: TrainOn
) -> None:
    losses = []
    for batch_size, accumulation in ((34, 1), (3, 12)):
        settings = FAST.model_copy(
            update={
                "batch_size": batch_size, "gradient_accumulation_steps": accumulation, "train_on": train_on,
                "epochs": 3, "warmup_steps": 0, "max_grad_norm": 0.0,
            }
        )  # fmt: skip
        _, watcher = train(byte_tokenizer, examples, tmp_path / str(batch_size), settings)
        losses.append([report.metrics.loss for report in watcher.steps])
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)


# --- weights ------------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_gives_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "stored")
    settings = FAST.model_copy(update={"gradient_checkpointing": True})
    train(byte_tokenizer, examples, tmp_path / "recomputed", settings)
    assert weights(tmp_path / "stored") == weights(tmp_path / "recomputed")


@pytest.mark.parametrize("stop_at", [None, 5])
def test_frozen_embeddings_do_not_change_and_the_other_weights_do(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int | None
) -> None:
    settings = FAST.model_copy(update={"freeze_embeddings": True, "best_by": "last"})
    before = tiny_checkpoint(byte_tokenizer).model.state_dict()
    result, watcher = train(byte_tokenizer, examples, tmp_path / "whole", settings)
    n_frozen = sum(before[f"transformer.{name}.weight"].numel() for name in ("wte", "wpe"))
    assert watcher.plans[0].n_trained == watcher.plans[0].n_weights - n_frozen
    assert result.best_validation_loss is not None
    assert result.first_validation_loss is not None
    assert result.best_validation_loss < result.first_validation_loss
    for name, value in load_checkpoint(tmp_path / "whole").model.state_dict().items():
        is_embedding = name in ("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight")
        assert torch.equal(value, before[name]) == is_embedding, name
    if stop_at is not None:
        train(byte_tokenizer, examples, tmp_path / "parts", settings, stop_at=stop_at)
        train(byte_tokenizer, examples, tmp_path / "parts", settings, resume=True)
        assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


# --- the check of the fast path -----------------------------------------------------------------------------------


def multiply_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the logits of packed batches a tenth too large."""
    target_logits = GPT.target_logits
    monkeypatch.setattr(GPT, "target_logits", lambda model, batch: target_logits(model, batch) * 1.1)


def double_embedding_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Double the embedding's gradient of packed batches without changing the loss."""
    embed_tied = linear.embed_tied

    def embed(weight: torch.Tensor, ids: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
        embedded = embed_tied(weight, ids, gradients)
        return embedded * 2 - embedded.detach()

    monkeypatch.setattr("assistant.model.gpt.embed_tied", embed)


@pytest.mark.parametrize(
    ("break_packing", "reason"),
    [(multiply_logits, "a loss of"), (double_embedding_gradients, "gradients that differ")],
)
def test_a_wrong_fast_path_is_replaced_by_padded_rows_with_a_warning(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
    break_packing: Callable[[pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    train(byte_tokenizer, examples, tmp_path / "packed")
    break_packing(monkeypatch)
    _, watcher = train(byte_tokenizer, examples, tmp_path / "padded")
    (warning,) = watcher.warnings
    assert "This run uses padded rows" in warning
    assert reason in warning
    packed, padded = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("packed", "padded"))
    assert all(torch.allclose(packed[name], padded[name], atol=1e-3) for name in packed)


def test_a_right_fast_path_is_kept_and_leaves_no_gradients(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    trainer = make_trainer(byte_tokenizer, examples, FAST)
    assert trainer.check_fast_path(next(window for _, window in trainer.windows(0))) is None
    assert not trainer.reference
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert isinstance(trainer.collate(trainer.train.rows[:2], "response"), PackedBatch)
