"""LoRA on the Llama family: one matrix here, several in PEFT's files. PEFT is the oracle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import save_checkpoint
from assistant.model.lora import adapted_layers, add_adapters, read_adapter, set_adapter, take_adapter
from assistant.model.peft import merge_adapter, read_peft_adapter
from assistant.settings import LoraSettings
from tests.support.models import load_model, tiny_llama
from tests.support.rows import random_ids

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # PEFT's and transformers' own

SETTINGS = LoraSettings(rank=3, alpha=12.0)
KINDS = ["llama", "qwen2", "qwen3"]


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_the_adapter_and_computes_the_same_logits(
    tmp_path: Path, byte_tokenizer: Tokenizer, kind: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, checkpoint = (tiny_llama(byte_tokenizer, model_type=kind, head_dim=8) for _ in range(2))
    save_checkpoint(base, tmp_path / "base")
    add_adapters(checkpoint.model, SETTINGS, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for layer in adapted_layers(checkpoint.model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.3)
    adapter = take_adapter(checkpoint.model, SETTINGS, base_model=str(tmp_path / "base"))
    tuned = replace(checkpoint, adapter=adapter)
    save_checkpoint(tuned, tmp_path / "tuned")
    config = json.loads((tmp_path / "tuned" / "adapter" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is False
    assert config["target_modules"] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ]  # fmt: skip
    ids = random_ids(2, 50)
    with torch.inference_mode():
        logits = checkpoint.model.head(checkpoint.model(ids))
        plain = base.model.head(base.model(ids))
        reference = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "tuned" / "adapter")
        ).eval()
        assert torch.allclose(logits, reference(ids).logits, atol=1e-5)
        again = load_model(tmp_path / "tuned")
        assert torch.allclose(logits, again.head(again(ids)), atol=1e-5)
    assert (logits - plain).abs().max() > 1e-3
    stored = read_adapter(tmp_path / "tuned" / "adapter")
    assert stored.settings == SETTINGS
    other = tiny_llama(byte_tokenizer, model_type=kind, head_dim=8).model
    add_adapters(other, SETTINGS, seed=7)
    set_adapter(other, stored)
    assert torch.equal(other(ids), checkpoint.model(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_peft_gives_its_logits(tmp_path: Path, byte_tokenizer: Tokenizer, kind: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    save_checkpoint(tiny_llama(byte_tokenizer, model_type=kind, head_dim=8), tmp_path / "base")
    torch.manual_seed(2)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=["q_proj", "v_proj", "up_proj"],
            r=4,
            modules_to_save=["embed_tokens", "lm_head"],
        ),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(str(tmp_path / "adapter"))
    ids = random_ids(1, 30)
    ours = merge_adapter(load_model(tmp_path / "base"), read_peft_adapter(tmp_path / "adapter"))
    with torch.inference_mode():
        assert (ours.head(ours(ids)) - model.eval()(ids).logits).abs().max() < 1e-4
