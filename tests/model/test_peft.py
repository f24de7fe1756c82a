"""Adapters that PEFT trained, merged onto their base; PEFT is the oracle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.models import save_tiny
from tests.support.rows import random_ids

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # PEFT's and transformers' own


def make_adapter(base: Path, folder: Path, *, resize: int | None = None, **settings: Any) -> torch.Tensor:
    """Save a PEFT adapter with random matrices; return the adapted model's logits."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(base)
    if resize is not None:
        model.resize_token_embeddings(resize)
    defaults: dict[str, Any] = {
        "target_modules": ["c_attn", "mlp.c_proj"],
        "r": 4,
        "lora_alpha": 6,
        "fan_in_fan_out": True,
    }
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(defaults | settings)))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(str(folder))
    with torch.inference_mode():
        logits: torch.Tensor = adapted.eval()(random_ids(1, 30)).logits
    return logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"mlp.c_proj": 2}, "alpha_pattern": {"h.1.attn.c_attn": 20}},
        {"bias": "all"},
        {"modules_to_save": ["wte", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"resize": 260, "modules_to_save": ["wte", "lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "bias", "embedding", "head", "resized"],
)
def test_an_adapter_gives_the_logits_of_peft(
    tmp_path: Path, byte_tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    expected = make_adapter(base, tmp_path / "adapter", **settings)
    checkpoint = load_checkpoint(tmp_path / "adapter")
    with torch.inference_mode():
        logits = checkpoint.model.head(checkpoint.model(random_ids(1, 30)))
    assert (logits - expected).abs().max() < 1e-4
    assert (checkpoint.name, checkpoint.info) == ("adapter", None)
    save_checkpoint(checkpoint, tmp_path / "merged")
    again = load_checkpoint(tmp_path / "merged").model
    with torch.inference_mode():
        assert torch.equal(again.head(again(random_ids(1, 30))), logits)


def set_base(folder: Path, base: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


def test_the_base_is_found_beside_the_adapter_or_named(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    make_adapter(base, tmp_path / "adapter")
    set_base(tmp_path / "adapter", os.path.join("..", "base"))  # noqa: PTH118 - a text in a file
    assert load_checkpoint(tmp_path / "adapter").config.n_layer == 2
    set_base(tmp_path / "adapter", "someone/gpt2-poems")
    with pytest.raises(
        CheckpointError, match="expected the base model of this adapter, 'someone/gpt2-poems'"
    ) as caught:
        load_checkpoint(tmp_path / "adapter")
    assert "Run: assistant pull someone/gpt2-poems" in str(caught.value)


def test_an_adapter_of_another_model_or_kind_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    other = save_tiny(tmp_path / "other", byte_tokenizer, n_embd=64)
    make_adapter(base, tmp_path / "adapter")
    set_base(tmp_path / "adapter", str(other))
    with pytest.raises(CheckpointError, match="as in the base model"):
        load_checkpoint(tmp_path / "adapter")
    make_adapter(base, tmp_path / "dora", use_dora=True)
    with pytest.raises(CheckpointError, match=r"got DoRA\. Merge it with PEFT"):
        load_checkpoint(tmp_path / "dora")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"got no adapter_model\.safetensors"):
        load_checkpoint(tmp_path / "adapter")
