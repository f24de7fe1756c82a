"""LoRA against PEFT, and through a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2LMHeadModel

from assistant.dataset.encode import count_targets, encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_model, save_checkpoint
from assistant.model.lora import Adapter, adapted_layers, add_adapters, merged, read_adapter, set_adapter, take_adapter
from assistant.model.packing import IGNORE_INDEX
from assistant.settings import FinetuneSettings, LoraSettings
from assistant.training.collate import collate, pad
from assistant.training.events import FinetuneResult
from assistant.training.finetune import finetune
from assistant.training.loss import summed_loss
from assistant.training.optimizer import build_optimizers
from assistant.training.run_folder import RunFolder
from assistant.training.trainer import Trainer
from tests.support.models import tiny_checkpoint
from tests.support.runs import Watcher, weights
from tests.support.runs import train as train_whole

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers

SETTINGS = LoraSettings(rank=3, alpha=12.0)
RUN = FinetuneSettings(epochs=2, batch_size=8, learning_rate=1e-2, precision="float32", lora=SETTINGS)


def adapted(tokenizer: Tokenizer, settings: LoraSettings = SETTINGS) -> tuple[Checkpoint, Adapter]:
    """A small model with matrices beside its layers that do something."""
    checkpoint = tiny_checkpoint(tokenizer)
    add_adapters(checkpoint.model, settings, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for layer in adapted_layers(checkpoint.model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)
    return checkpoint, take_adapter(checkpoint.model, settings, base_model="base")


def test_it_begins_as_the_model_it_is_put_on(byte_tokenizer: Tokenizer) -> None:
    plain, checkpoint = tiny_checkpoint(byte_tokenizer).model, tiny_checkpoint(byte_tokenizer)
    add_adapters(checkpoint.model, SETTINGS, seed=5)
    ids = torch.arange(40)[None]
    assert torch.equal(checkpoint.model(ids), plain(ids))
    trained = [name for name, p in checkpoint.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 4 * checkpoint.config.n_layer
    assert all(name.endswith(("lora_A", "lora_B")) for name in trained)
    (adam,) = build_optimizers(checkpoint.model, RUN)
    assert sum(len(group["params"]) for group in adam.param_groups) == len(trained)


@pytest.mark.parametrize("settings", [SETTINGS, LoraSettings(rank=2, alpha=1.0, modules=("attn.c_attn", "mlp.c_proj"))])
def test_peft_reads_the_adapter_and_says_the_same(
    tmp_path: Path, byte_tokenizer: Tokenizer, settings: LoraSettings
) -> None:
    checkpoint, adapter = adapted(byte_tokenizer, settings)
    save_checkpoint(tiny_checkpoint(byte_tokenizer), tmp_path / "base")
    whole = Checkpoint(
        model=merged(checkpoint.model),
        tokenizer=byte_tokenizer,
        template=checkpoint.template,
        info=None,
        name="tuned",
        adapter=adapter,
    )
    save_checkpoint(whole, tmp_path / "tuned")
    ids = torch.randint(0, 256, (2, 50), generator=torch.Generator().manual_seed(1))
    ours = checkpoint.model.head(checkpoint.model(ids))
    theirs = PeftModel.from_pretrained(
        GPT2LMHeadModel.from_pretrained(tmp_path / "base"), str(tmp_path / "tuned" / "adapter")
    ).eval()
    assert torch.allclose(ours, theirs(ids).logits, atol=1e-5)
    put_together = load_model(tmp_path / "tuned")
    assert torch.allclose(ours, put_together.head(put_together(ids)), atol=1e-5)
    assert not torch.allclose(ours, load_model(tmp_path / "base").head(load_model(tmp_path / "base")(ids)), atol=1e-2)
    again = read_adapter(tmp_path / "tuned" / "adapter")
    assert again.settings == settings
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())


def test_loss_and_gradients_are_those_of_peft(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    checkpoint, adapter = adapted(byte_tokenizer)
    save_checkpoint(tiny_checkpoint(byte_tokenizer), tmp_path / "base")
    config = LoraConfig(
        r=SETTINGS.rank,
        lora_alpha=int(SETTINGS.alpha),
        target_modules=list(SETTINGS.modules),
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    theirs = get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), config).eval()
    names = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, value in adapter.tensors.items():
            names[f"base_model.model.{name}.default.weight"].copy_(value)
    rows = encode_examples(examples[:6], checkpoint.template, byte_tokenizer, max_length=256).rows
    batch = pad(rows, pad_id=byte_tokenizer.pad_id)
    n_targets = sum(count_targets(row, "response") for row in rows)
    loss = summed_loss(checkpoint.model, collate(rows, pad_id=byte_tokenizer.pad_id)) / n_targets
    loss.backward()
    logits = theirs(batch.input_ids).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX
    )
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-5)
    for name, parameter in checkpoint.model.named_parameters():
        if parameter.requires_grad:
            other = names[f"base_model.model.{name}.default.weight"].grad
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, other, atol=1e-5), name


def train(
    tokenizer: Tokenizer, examples: list[Example], output: Path, *, stop_at: int | None = None, seed: int = 0
) -> FinetuneResult:
    """A run with LoRA, or the rest of one that was stopped."""
    watcher, state = Watcher(), RunFolder(output).read_state()
    return finetune(
        Trainer(tiny_checkpoint(tokenizer, seed=seed), split_examples(examples), RUN),
        RunFolder(output),
        data_files=["rows.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=state,
    )


def test_a_run_trains_the_adapter_alone_and_goes_on_to_the_very_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "whole")
    base, tuned = (
        tiny_checkpoint(byte_tokenizer, seed=0).model.state_dict(),
        load_model(tmp_path / "whole").state_dict(),
    )
    changed = {name for name, value in tuned.items() if not torch.equal(value, base[name])}
    assert changed == {f"transformer.h.{n}.{name}.weight" for n in range(2) for name in SETTINGS.modules}
    for stop_at in (1, 4, 7):
        output = tmp_path / f"stopped-{stop_at}"
        assert train(byte_tokenizer, examples, output, stop_at=stop_at).stopped
        assert not train(byte_tokenizer, examples, output).stopped
        for folder in (output, output / "last"):
            whole = tmp_path / "whole" / folder.relative_to(output)
            assert weights(folder) == weights(whole)
            name = "adapter/adapter_model.safetensors"
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_is_not_resumed_on_another_base(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    assert train(byte_tokenizer, examples, tmp_path / "run", stop_at=2, seed=0).stopped
    with pytest.raises(SettingsError, match="expected the model that the run began with"):
        train(byte_tokenizer, examples, tmp_path / "run", seed=1)


def test_a_damaged_adapter_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": "x"}')
    with pytest.raises(CheckpointError, match="expected a LoRA adapter, got"):
        read_adapter(tmp_path)


def test_an_adapter_of_another_shape_is_refused(byte_tokenizer: Tokenizer) -> None:
    _, adapter = adapted(byte_tokenizer)
    other = tiny_checkpoint(byte_tokenizer)
    add_adapters(other.model, SETTINGS, seed=9)
    first = next(iter(adapter.tensors))
    for tensors in (
        {**adapter.tensors, first: torch.zeros(1, 2)},
        {name: value for name, value in adapter.tensors.items() if name != first},
        adapter.tensors | {"transformer.h.9.attn.c_attn.lora_A": torch.zeros(1)},
    ):
        with pytest.raises(CheckpointError, match=r"adapter: expected transformer\.h\.\d.* of shape"):
            set_adapter(other.model, replace(adapter, tensors=tensors))


def test_a_later_run_without_lora_leaves_no_adapter_of_the_earlier_one(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "run")
    assert (tmp_path / "run" / "adapter").exists()
    train_whole(byte_tokenizer, examples, tmp_path / "run", RUN.model_copy(update={"lora": None}))
    assert not list((tmp_path / "run").rglob("adapter"))


def test_taking_and_setting_are_each_others_reverse(byte_tokenizer: Tokenizer) -> None:
    _, adapter = adapted(byte_tokenizer)
    other = tiny_checkpoint(byte_tokenizer)
    add_adapters(other.model, SETTINGS, seed=9)
    set_adapter(other.model, adapter)
    again = take_adapter(other.model, SETTINGS, base_model="base")
    assert all(torch.equal(again.tensors[name], value) for name, value in adapter.tensors.items())
