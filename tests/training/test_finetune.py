"""The training loop: it learns, loses nothing, and can be taken up at any step."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from assistant.dataset.encode import encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import AssistantError, CheckpointError, SettingsError
from assistant.model import fused
from assistant.model import gpt as model_module
from assistant.model.checkpoint import load_checkpoint
from assistant.model.gpt import GPT
from assistant.model.linear import Linear, add_copies
from assistant.model.packing import PackedBatch
from assistant.settings import BestBy, FinetuneSettings, LoraSettings
from assistant.training import precision as precision_module
from assistant.training.batches import plan_batches
from assistant.training.collate import collate
from assistant.training.forecast import forecast
from assistant.training.loss import summed_loss
from assistant.training.optimizer import build_optimizers, gradient_norm, take_step
from assistant.training.plots import plot_losses
from assistant.training.precision import pick_precision
from assistant.training.recipe import Recipe
from assistant.training.run_folder import RunFolder, read_records
from assistant.training.trainer import Trainer
from tests.conftest import REPOSITORY
from tests.support.models import requires_loops, tiny_checkpoint
from tests.support.runs import FAST, train, weights


def test_it_learns_and_leaves_a_model_with_its_records(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    settings = FAST.model_copy(update={"epochs": 12})
    result, watcher = train(byte_tokenizer, examples, output, settings)
    assert (result.steps, result.total_steps, result.stopped) == (60, 60, False)
    assert result.best_validation_loss is not None
    assert result.first_validation_loss is not None
    assert result.best_validation_loss < 0.6 * result.first_validation_loss
    names = {path.name for path in output.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt",
        "tokenizer_config.json", "assistant.json", "metrics.jsonl", "validation.jsonl", "last",
    }  # fmt: skip
    assert not (output / "last" / "training").exists()
    records = read_records(output / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 61))
    assert records[0].keys() >= {"step", "loss", "learning_rate", "tokens", "supervised_tokens", "seconds"}
    rows = encode_examples(split_examples(examples).train, get_template("alpaca"), byte_tokenizer, max_length=256).rows
    assert sum(record["tokens"] for record in records[:5]) == sum(len(row.input_ids) for row in rows)
    assert sum(r["supervised_tokens"] for r in records[:5]) == sum(len(r.input_ids) - r.prompt_length for r in rows)
    assert len(watcher.validations[-1].samples) == watcher.validations[-1].answered == 2
    assert not watcher.warnings
    info = load_checkpoint(output).info
    assert info is not None
    assert info.rows == {"train": 34, "validation": 2, "test": 4}
    assert info.metrics["best_step"] == result.best_step
    path = plot_losses(output)
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_best_weights_are_kept_and_the_last(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    # Answers that follow from nothing: learning their letters helps, learning them by heart does not.
    letters = random.Random(0)
    riddles = [replace(e, output="".join(letters.choices("abcdef", k=12))) for e in examples]
    settings = FAST.model_copy(update={"epochs": 20, "learning_rate": 0.02, "validate_every": 5})
    result, watcher = train(byte_tokenizer, riddles, tmp_path / "run", settings)
    losses = {report.step: report.validation_loss for report in watcher.validations if report.step}
    assert result.best_step == min(losses, key=lambda step: losses[step])
    assert result.best_step != result.steps

    def validation_loss(folder: Path) -> float:
        checkpoint = load_checkpoint(folder)
        rows = encode_examples(
            split_examples(riddles).validation, checkpoint.template, byte_tokenizer, max_length=256
        ).rows
        batch = collate(rows, pad_id=256)
        with torch.inference_mode():
            return (summed_loss(checkpoint.model, batch) / batch.target_mask.sum()).item()

    assert validation_loss(tmp_path / "run") == pytest.approx(losses[result.best_step], rel=1e-5)
    assert validation_loss(tmp_path / "run" / "last") == pytest.approx(losses[100], rel=1e-5)


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        *((stop_at, {"gradient_accumulation_steps": 2}) for stop_at in (1, 4, 5, 7)),
        (3, {"gradient_accumulation_steps": 2, "optimizer": "muon"}),
        (3, {"precision": "bfloat16"}),
        (5, {"precision": "bfloat16", "gradient_accumulation_steps": 2}),
    ],
)
def test_a_stopped_run_goes_on_to_the_very_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int, changes: dict[str, object]
) -> None:
    settings = FAST.model_copy(update={"batch_size": 4, "validate_every": 2, **changes})
    whole, _ = train(byte_tokenizer, examples, tmp_path / "whole", settings)
    stopped, _ = train(byte_tokenizer, examples, tmp_path / "parts", settings, stop_at=stop_at)
    assert stopped.stopped
    assert load_checkpoint(tmp_path / "parts").info is not None  # what there is can be used
    resumed, watcher = train(byte_tokenizer, examples, tmp_path / "parts", settings, resume=True)
    assert watcher.plans[0].first_step == stop_at
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert weights(tmp_path / "parts" / "last") == weights(tmp_path / "whole" / "last")
    assert (resumed.best_step, resumed.best_validation_loss) == (whole.best_step, whole.best_validation_loss)
    for name in ("metrics.jsonl", "validation.jsonl"):
        ours, theirs = (
            [{k: v for k, v in record.items() if k != "seconds"} for record in read_records(folder / name)]
            for folder in (tmp_path / "parts", tmp_path / "whole")
        )
        assert ours == theirs


@pytest.mark.parametrize("stop_at", [None, 5])
def test_frozen_embeddings_stay_where_they_are_and_the_rest_learns(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int | None
) -> None:
    settings = FAST.model_copy(update={"freeze_embeddings": True, "best_by": "last"})
    before = tiny_checkpoint(byte_tokenizer).model.state_dict()
    whole, watcher = train(byte_tokenizer, examples, tmp_path / "whole", settings)
    assert watcher.plans[0].n_trained == watcher.plans[0].n_weights - sum(
        before[f"transformer.{name}.weight"].numel() for name in ("wte", "wpe")
    )
    assert whole.best_validation_loss is not None
    assert whole.first_validation_loss is not None
    assert whole.best_validation_loss < whole.first_validation_loss
    for name, value in load_checkpoint(tmp_path / "whole").model.state_dict().items():
        is_embedding = name in ("transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight")
        assert torch.equal(value, before[name]) == is_embedding, name
    if stop_at is not None:
        train(byte_tokenizer, examples, tmp_path / "parts", settings, stop_at=stop_at)
        train(byte_tokenizer, examples, tmp_path / "parts", settings, resume=True)
        assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_looking_does_not_touch(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    for name, every in (("often", 1), ("never", 1000)):
        train(byte_tokenizer, examples, tmp_path / name, FAST.model_copy(update={"validate_every": every}))
    assert weights(tmp_path / "often" / "last") == weights(tmp_path / "never" / "last")


@pytest.mark.parametrize("what", ["loss", "gradients"])
def test_a_faster_way_that_is_wrong_here_is_switched_off_and_said(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    train(byte_tokenizer, examples, tmp_path / "right")
    target_logits, embed_tied = GPT.target_logits, model_module.embed_tied

    def wrong_logits(model: GPT, batch: PackedBatch) -> torch.Tensor:
        return target_logits(model, batch) * 1.1

    def wrong_gradients(weight: torch.Tensor, ids: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
        rows = embed_tied(weight, ids, gradients)
        return rows * 2 - rows.detach()

    if what == "loss":
        monkeypatch.setattr(GPT, "target_logits", wrong_logits)
    else:
        monkeypatch.setattr(model_module, "embed_tied", wrong_gradients)
    _, watcher = train(byte_tokenizer, examples, tmp_path / "run")
    (warning,) = watcher.warnings
    assert "This run uses padded rows" in warning
    assert ("a loss of" if what == "loss" else "gradients that differ") in warning
    fast, plain = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("right", "run"))
    assert all(torch.allclose(fast[name], plain[name], atol=1e-3) for name in fast)


@pytest.mark.parametrize("best_by", ["loss", "exact", "ended"])
def test_a_run_ends_when_nothing_becomes_better(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], best_by: BestBy
) -> None:
    letters = random.Random(0)
    riddles = [replace(e, output="".join(letters.choices("abcdef", k=12))) for e in examples]
    changes = {"epochs": 40, "learning_rate": 0.02, "validate_every": 5, "patience": 3, "best_by": best_by}
    settings = FAST.model_copy(update=changes)
    result, watcher = train(byte_tokenizer, riddles, tmp_path / "run", settings)
    assert result.ended_early
    assert not result.stopped
    assert result.best_step is not None
    assert result.steps == result.best_step + 3 * 5 < result.total_steps
    assert not (tmp_path / "run" / "last" / "training").exists()
    shares = {report.step: getattr(report, best_by, None) or 0.0 for report in watcher.validations if report.step}
    losses = {report.step: report.validation_loss for report in watcher.validations if report.step}
    assert result.best_step == min(losses, key=lambda step: (-shares[step], losses[step]))


def test_the_best_by_answers_needs_answers(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    settings = FAST.model_copy(update={"best_by": "exact", "validation_answers": 0})
    with pytest.raises(SettingsError, match="--best-by exact: expected answers to choose by"):
        train(byte_tokenizer, examples, tmp_path / "run", settings)


def test_another_run_is_not_resumed(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    train(byte_tokenizer, examples, tmp_path / "run", stop_at=2)
    with pytest.raises(SettingsError, match=r"resume with learning-rate 0\.003, got 0\.5"):
        train(byte_tokenizer, examples, tmp_path / "run", FAST.model_copy(update={"learning_rate": 0.5}), resume=True)
    with pytest.raises(SettingsError, match="another data fingerprint"):
        train(byte_tokenizer, examples[1:], tmp_path / "run", resume=True)
    (tmp_path / "run" / "last" / "training" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected the state of a run"):
        RunFolder(tmp_path / "run").read_state()


@pytest.mark.parametrize("train_on", ["response", "all"])
def test_accumulation_equals_the_big_batch(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], train_on: str
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


def test_computing_again_gives_the_very_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "kept")
    train(byte_tokenizer, examples, tmp_path / "again", FAST.model_copy(update={"gradient_checkpointing": True}))
    assert weights(tmp_path / "kept") == weights(tmp_path / "again")


@pytest.mark.parametrize("lora", [None, LoraSettings()])
def test_a_forecast_counts_what_a_run_does_and_leaves_nothing(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], lora: LoraSettings | None
) -> None:
    settings = FAST.model_copy(update={"epochs": 3, "lora": lora})
    trainer = Trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples), settings)
    found = forecast(trainer, save_seconds=60.0, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    result, watcher = train(byte_tokenizer, examples, tmp_path / "run", settings)
    assert (found.steps, found.validations) == (result.total_steps, len(watcher.validations))
    assert found.seconds > 0
    assert found.peak_bytes > 10_000_000
    assert found.free_bytes is None or found.free_bytes > 0
    assert found.largest_batch_size is None or found.largest_batch_size >= settings.batch_size


def test_max_steps_wins_over_epochs(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    for steps in (3, 13):
        result, watcher = train(
            byte_tokenizer, examples, tmp_path / str(steps), FAST.model_copy(update={"max_steps": steps})
        )
        assert (result.steps, watcher.steps[-1].step, watcher.steps[-1].epoch) == (steps, steps, (steps - 1) // 5)


def test_without_validation_rows_the_last_weights_are_the_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    result, watcher = train(byte_tokenizer, examples[:1], tmp_path / "run")
    assert (result.best_step, watcher.validations) == (None, [])
    assert weights(tmp_path / "run") == weights(tmp_path / "run" / "last")


def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    settings = FAST.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0})
    with pytest.raises(AssistantError, match="expected a finite loss"):
        train(byte_tokenizer, examples, tmp_path / "run", settings)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_tells_of_compiled_loops_that_cannot_be_used(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "problem", lambda: "They are left out.")
    _, watcher = train(byte_tokenizer, examples[:1], tmp_path / "run")
    assert watcher.warnings == ["They are left out."]


def test_schedule() -> None:
    settings = FinetuneSettings(learning_rate=1.0, warmup_steps=20)
    rates = [Recipe(settings).learning_rate(step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])  # a tenth of the steps, not 20
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.1)
    assert Recipe(settings).learning_rate(1, 1) == pytest.approx(0.1)
    assert Recipe(settings).learning_rate(1, 200) == pytest.approx(1 / 20)


def test_decay_is_on_matrices_only(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    for name in ("adamw", "muon"):
        settings = FinetuneSettings(weight_decay=0.3, optimizer=name)
        groups = [group for optimizer in build_optimizers(model, settings) for group in optimizer.param_groups]
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        for weight, parameter in model.named_parameters():
            assert (id(parameter) in decayed) == (weight.endswith("weight") and ".ln_" not in weight), weight
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_muon_has_the_matrices_of_the_blocks_and_no_embedding(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    adam, muon = build_optimizers(model, FinetuneSettings(optimizer="muon"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    inside = {names[parameter] for group in muon.param_groups for parameter in group["params"]}
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert inside == {f"transformer.h.{layer}.{kind}.weight" for layer in range(2) for kind in kinds}
    others = {names[parameter] for group in adam.param_groups for parameter in group["params"]}
    assert others == set(names.values()) - inside


def test_bfloat16_stays_near_float32(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        _, watcher = train(
            byte_tokenizer, examples, tmp_path / precision, FAST.model_copy(update={"precision": precision})
        )
        assert watcher.plans[0].precision == precision
        found[precision] = [report.metrics.loss for report in watcher.steps]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)
    assert found["bfloat16"] != found["float32"]
    assert load_checkpoint(tmp_path / "bfloat16").model.transformer.wte.weight.dtype == torch.float32


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=requires_loops)])
def test_a_step_beside_copies_is_the_optimizers_own(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, narrow: bool, compiled: bool
) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled)
    settings = FinetuneSettings(weight_decay=0.3, learning_rate=0.01)
    models = [tiny_checkpoint(byte_tokenizer).model for _ in range(2)]
    optimizers = [build_optimizers(model, settings) for model in models]
    add_copies(models[0], narrow_gradients=narrow)
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 0.5):  # powers of two, which round nothing
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            gradient = torch.randn(ours.shape, generator=generator).bfloat16()
            ours.grad = gradient.clone() if ours.grad_dtype is None else gradient.float()
            theirs.grad = gradient.float() * factor
        take_step(optimizers[0], models[0], factor)
        optimizers[1][0].step()
    # The loops round as torch's do but for the order of a few operations.
    is_same = partial(torch.allclose, rtol=1e-5, atol=1e-7) if compiled else torch.equal
    for name, weight in models[0].named_parameters():
        assert weight.grad is None
        assert is_same(weight, models[1].get_parameter(name))
    for layer in (layer for layer in models[0].modules() if isinstance(layer, Linear)):
        assert layer.copy is not None
        assert torch.equal(layer.copy, layer.weight.bfloat16())
    states = [list(optimizer.state.values()) for (optimizer,) in optimizers]
    for one, other in zip(*states, strict=True):
        assert all(is_same(one[name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=requires_loops)])
def test_the_norm_of_gradients(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, compiled: bool) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled)
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in ((3,), (2**10 + 5, 2**10))]
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        weight.grad_dtype = None
        weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
    whole = torch.cat([weight.grad.double().view(-1) for weight in weights if weight.grad is not None])
    margin = (
        1e-3 if dtype is torch.bfloat16 and not compiled else 1e-4
    )  # a thousand rows; a model has a hundred thousand
    assert gradient_norm(weights) == pytest.approx(whole.norm().item(), rel=margin)


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_processor_gets_bfloat16_only_where_it_was_found_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    widths = []

    def probe(width: int) -> bool:
        widths.append(width)
        return is_faster

    monkeypatch.setattr(precision_module, "_is_much_faster_in_bfloat16", probe)
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu, 768) is (torch.bfloat16 if is_faster else torch.float32)
    assert pick_precision("auto", cpu, 64) is torch.float32
    assert pick_precision("bfloat16", cpu, 64) is torch.bfloat16
    assert widths == [768]


@pytest.mark.parametrize("slower", [torch.float32, torch.bfloat16])
def test_the_probe_takes_what_is_faster_here(monkeypatch: pytest.MonkeyPatch, slower: torch.dtype) -> None:
    linear = precision_module.F.linear
    now = 0.0

    def timed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 3.0 if left.dtype is slower else 1.0
        return linear(left, right)

    monkeypatch.setattr(precision_module.time, "perf_counter", lambda: now)
    monkeypatch.setattr(precision_module.F, "linear", timed)
    assert precision_module._is_much_faster_in_bfloat16(256) is (slower is torch.float32)


def test_a_resumed_run_has_the_precision_it_was_begun_with(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter((torch.bfloat16, torch.float32))
    auto = lambda name, *_: next(found) if name == "auto" else getattr(torch, name)  # noqa: E731
    monkeypatch.setattr("assistant.training.trainer.pick_precision", auto)
    settings = FAST.model_copy(update={"precision": "auto"})
    train(byte_tokenizer, examples, tmp_path / "run", settings, stop_at=2)
    _, watcher = train(byte_tokenizer, examples, tmp_path / "run", settings, resume=True)
    assert watcher.plans[0].precision == "bfloat16"


def test_remains_of_a_killed_save_are_cleared_up(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "whole")
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output, stop_at=3)
    # Killed between the two renames of a save: the earlier folder stands aside, the new one is not yet in place.
    (output / ".last.abc").mkdir()
    (output / "last").rename(output / ".last.abc" / "last")
    (output / ".best.half").mkdir()
    folder = RunFolder(output)
    folder.recover()
    folder.unlock()
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    train(byte_tokenizer, examples, output, resume=True)
    assert weights(output / "last") == weights(tmp_path / "whole" / "last")


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    lengths = [n % 40 + 5 for n in range(200)]
    torch.manual_seed(1)
    first = plan_batches(lengths, batch_size=8, seed=3, epoch=2)
    torch.manual_seed(2)
    assert plan_batches(lengths, batch_size=8, seed=3, epoch=2) == first
    assert math.ceil(200 / 8) == len(first)


def test_a_torn_record_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_records(path) == [{"step": 1}]


@pytest.mark.parametrize("stop_at", [None, 2])
def test_what_is_published_is_this_runs_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], stop_at: int | None
) -> None:
    """Without validations too, over an earlier model, and after a stop."""
    output = tmp_path / "run"
    one = examples[:1]
    train(byte_tokenizer, one, output, FAST.model_copy(update={"max_steps": 1}))
    before = weights(output)
    settings = FAST.model_copy(update={"max_steps": 5})
    train(byte_tokenizer, one, output, settings, stop_at=stop_at)
    assert weights(output) == weights(output / "last") != before
    if stop_at:
        train(byte_tokenizer, one, output, settings, resume=True)
    info = load_checkpoint(output).info
    assert info is not None
    assert info.metrics["step"] == 5
    assert weights(output) == weights(output / "last")


@pytest.mark.parametrize("moved", [0, 3, 100])
def test_a_run_killed_while_it_publishes_ends_well_when_resumed(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], moved: int
) -> None:
    train(byte_tokenizer, examples, tmp_path / "whole")
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output, stop_at=5)
    # As if the process had been killed between two of publish's renames.
    names = [path.name for path in (output / "last").iterdir() if path.is_file() and path.name != "config.json"]
    names = [*sorted(names), "config.json"]
    (output / "best").mkdir()
    for name in names[moved:]:
        (output / name).rename(output / "best" / name)
    resumed, _ = train(byte_tokenizer, examples, output, resume=True)
    assert resumed.steps == 10
    assert weights(output) == weights(tmp_path / "whole")
    assert not (output / "best").exists()
    assert load_checkpoint(output).info is not None


def test_a_run_killed_while_it_ends_counts_as_finished(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    output = tmp_path / "run"
    train(byte_tokenizer, examples, output)
    (output / "last" / "training").mkdir()
    (output / "last" / "training" / "optimizer.safetensors").write_text("x")
    folder = RunFolder(output)
    folder.recover()
    folder.unlock()
    assert not (output / "last" / "training").exists()


def test_rows_longer_than_the_context_cannot_be_asked_for(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    with pytest.raises(SettingsError, match="--max-length: expected at most 256, the model's context, got 300"):
        train(byte_tokenizer, examples, tmp_path / "run", FAST.model_copy(update={"max_length": 300}))


def test_no_memory_is_a_sentence(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr("assistant.training.trainer.summed_loss", full)
    with pytest.raises(AssistantError, match="after step 0: expected enough memory for a batch of 8"):
        train(byte_tokenizer, examples, tmp_path / "run")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("assistant.model.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match=r"expected room to write the weights, got .*No space left"):
        train(byte_tokenizer, examples, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"metrics.jsonl", "validation.jsonl"}


MEMORY = """
import torch
from assistant.training.malloc import keep_freed_memory
print(keep_freed_memory())
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
torch.ones(30_000_000)
print(resident() - before > 100e6)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's memory, and Linux's figures of it")
def test_memory_is_kept() -> None:
    """In a process of its own, since it holds for all of it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"] * 2
