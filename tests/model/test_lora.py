"""LoRA: against PEFT, and in whole fine-tuning runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assistant.dataset.encode import count_targets, encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError, SettingsError
from assistant.model.checkpoint import Checkpoint, save_checkpoint
from assistant.model.lora import Adapter, adapted_layers, add_adapters, read_adapter, set_adapter, take_adapter
from assistant.model.packing import IGNORE_INDEX
from assistant.settings import FinetuneSettings, LoraSettings
from assistant.training.collate import collate, pad
from assistant.training.events import FinetuneResult
from assistant.training.finetune import finetune
from assistant.training.loss import summed_loss
from assistant.training.optimizer import build_optimizers
from assistant.training.run_folder import RunFolder
from assistant.training.trainer import Trainer
from tests.support.models import load_model, tiny_checkpoint
from tests.support.runs import Watcher, weights
from tests.support.runs import train as train_whole

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT reads it

SETTINGS = LoraSettings(rank=3, alpha=12.0)
RUN = FinetuneSettings(epochs=2, batch_size=8, learning_rate=1e-2, precision="float32", lora=SETTINGS)


def adapted(tokenizer: Tokenizer, settings: LoraSettings = SETTINGS) -> tuple[Checkpoint, Adapter]:
    """A tiny model with LoRA matrices whose product is not zero, and its adapter."""
    checkpoint = tiny_checkpoint(tokenizer)
    add_adapters(checkpoint.model, settings, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for layer in adapted_layers(checkpoint.model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.1)
    return checkpoint, take_adapter(checkpoint.model, settings, base_model="base")


def test_new_adapters_do_not_change_the_outputs(byte_tokenizer: Tokenizer) -> None:
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
def test_peft_reads_the_adapter_and_computes_the_same_logits(
    tmp_path: Path, byte_tokenizer: Tokenizer, settings: LoraSettings
) -> None:
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    checkpoint, adapter = adapted(byte_tokenizer, settings)
    save_checkpoint(tiny_checkpoint(byte_tokenizer), tmp_path / "base")
    tuned = Checkpoint(
        model=checkpoint.model,
        tokenizer=byte_tokenizer,
        template=checkpoint.template,
        info=None,
        name="tuned",
        adapter=adapter,
    )
    save_checkpoint(tuned, tmp_path / "tuned")
    ids = torch.randint(0, 256, (2, 50), generator=torch.Generator().manual_seed(1))
    logits = checkpoint.model.head(checkpoint.model(ids))
    peft_model = PeftModel.from_pretrained(
        GPT2LMHeadModel.from_pretrained(tmp_path / "base"), str(tmp_path / "tuned" / "adapter")
    ).eval()
    assert torch.allclose(logits, peft_model(ids).logits, atol=1e-5)
    merged_model, base_model = load_model(tmp_path / "tuned"), load_model(tmp_path / "base")
    assert torch.allclose(logits, merged_model.head(merged_model(ids)), atol=1e-5)
    assert not torch.allclose(logits, base_model.head(base_model(ids)), atol=1e-2)
    stored = read_adapter(tmp_path / "tuned" / "adapter")
    assert stored.settings == settings
    assert all(torch.equal(stored.tensors[name], value) for name, value in adapter.tensors.items())


def test_loss_and_gradients_match_peft(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    checkpoint, adapter = adapted(byte_tokenizer)
    save_checkpoint(tiny_checkpoint(byte_tokenizer), tmp_path / "base")
    config = LoraConfig(
        r=SETTINGS.rank,
        lora_alpha=int(SETTINGS.alpha),
        target_modules=list(SETTINGS.modules),
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    peft_model = get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), config).eval()
    peft_parameters = dict(peft_model.named_parameters())
    with torch.no_grad():
        for name, value in adapter.tensors.items():
            peft_parameters[f"base_model.model.{name}.default.weight"].copy_(value)
    rows = encode_examples(examples[:6], checkpoint.template, byte_tokenizer, max_length=256).rows
    batch = pad(rows, pad_id=byte_tokenizer.pad_id)
    n_targets = sum(count_targets(row, "response") for row in rows)
    loss = summed_loss(checkpoint.model, collate(rows, pad_id=byte_tokenizer.pad_id)) / n_targets
    loss.backward()
    logits = peft_model(batch.input_ids).logits
    expected_loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX
    )
    expected_loss.backward()
    assert torch.allclose(loss, expected_loss, rtol=1e-5)
    for name, parameter in checkpoint.model.named_parameters():
        if parameter.requires_grad:
            expected = peft_parameters[f"base_model.model.{name}.default.weight"].grad
            assert parameter.grad is not None
            assert expected is not None
            assert torch.allclose(parameter.grad, expected, atol=1e-5), name


def train(
    tokenizer: Tokenizer, examples: list[Example], output: Path, *, stop_at: int | None = None, seed: int = 0
) -> FinetuneResult:
    """Fine-tune with LoRA, or resume a run that was stopped."""
    watcher, state = Watcher(), RunFolder(output).read_state()
    return finetune(
        Trainer(tiny_checkpoint(tokenizer, seed=seed), split_examples(examples), RUN),
        RunFolder(output),
        data_files=["rows.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=state,
    )


def test_a_run_changes_only_adapted_layers_and_resumes_to_the_same_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "whole")
    base = tiny_checkpoint(byte_tokenizer, seed=0).model.state_dict()
    tuned = load_model(tmp_path / "whole").state_dict()
    changed = {name for name, value in tuned.items() if not torch.equal(value, base[name])}
    assert changed == {f"transformer.h.{n}.{name}.weight" for n in range(2) for name in SETTINGS.modules}
    for stop_at in (1, 4, 7):
        output = tmp_path / f"stopped-{stop_at}"
        assert train(byte_tokenizer, examples, output, stop_at=stop_at).stopped
        assert not train(byte_tokenizer, examples, output).stopped
        for folder in (output, output / "last"):
            uninterrupted = tmp_path / "whole" / folder.relative_to(output)
            assert weights(folder) == weights(uninterrupted)
            name = "adapter/adapter_model.safetensors"
            assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_a_run_does_not_resume_with_another_base_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    assert train(byte_tokenizer, examples, tmp_path / "run", stop_at=2, seed=0).stopped
    with pytest.raises(SettingsError, match="expected the model that the run began with"):
        train(byte_tokenizer, examples, tmp_path / "run", seed=1)


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": "x"}')
    with pytest.raises(CheckpointError, match="expected a LoRA adapter, got"):
        read_adapter(tmp_path)


def test_an_adapter_with_other_matrices_is_refused(byte_tokenizer: Tokenizer) -> None:
    _, adapter = adapted(byte_tokenizer)
    other = tiny_checkpoint(byte_tokenizer)
    add_adapters(other.model, SETTINGS, seed=9)
    first_name = next(iter(adapter.tensors))
    for tensors in (
        {**adapter.tensors, first_name: torch.zeros(1, 2)},
        {name: value for name, value in adapter.tensors.items() if name != first_name},
        adapter.tensors | {"transformer.h.9.attn.c_attn.lora_A": torch.zeros(1)},
    ):
        with pytest.raises(CheckpointError, match=r"adapter: expected transformer\.h\.\d.* of shape"):
            set_adapter(other.model, replace(adapter, tensors=tensors))


def test_a_run_without_lora_removes_the_adapter_of_an_earlier_run(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    train(byte_tokenizer, examples, tmp_path / "run")
    assert (tmp_path / "run" / "adapter").exists()
    train_whole(byte_tokenizer, examples, tmp_path / "run", RUN.model_copy(update={"lora": None}))
    assert not list((tmp_path / "run").rglob("adapter"))


def test_set_adapter_restores_what_take_adapter_copied(byte_tokenizer: Tokenizer) -> None:
    _, adapter = adapted(byte_tokenizer)
    other = tiny_checkpoint(byte_tokenizer)
    add_adapters(other.model, SETTINGS, seed=9)
    set_adapter(other.model, adapter)
    restored = take_adapter(other.model, SETTINGS, base_model="base")
    assert all(torch.equal(restored.tensors[name], value) for name, value in adapter.tensors.items())
