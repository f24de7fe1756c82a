"""Tiny models with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding import step
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint, read_config, save_checkpoint
from assistant.model.config import GPTConfig, LlamaConfig, ModelConfig
from assistant.model.gpt import GPT, model_of
from assistant.model.weights import find_weights, read_weights

requires_loops = pytest.mark.skipif(
    not fused.is_compiled(), reason="the compiled loops are missing: the project was installed without a C compiler"
)

requires_step = pytest.mark.skipif(
    step.level() is None, reason="decoding in C is missing: the project was installed without a C compiler"
)


def tiny_config(tokenizer: Tokenizer, **changes: object) -> ModelConfig:
    """Return a config with 2 layers, width 32, context 256 and the tokenizer's vocabulary, and some changed fields."""
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 256, "vocab_size": tokenizer.vocab_size}
    return GPTConfig.model_validate(shape | changes)


def tiny_checkpoint(tokenizer: Tokenizer, *, seed: int = 1, **changes: object) -> Checkpoint:
    """Return a tiny model with random weights. `changes` are fields of its config."""
    model = GPT(tiny_config(tokenizer, **changes)).eval()
    model.initialise(seed)
    return Checkpoint(model=model, tokenizer=tokenizer, template=get_template("alpaca"), info=None, name="tiny")


def save_tiny(folder: Path, tokenizer: Tokenizer, *, seed: int = 1, **changes: object) -> Path:
    """Save `tiny_checkpoint` as a model folder, and return the folder."""
    save_checkpoint(tiny_checkpoint(tokenizer, seed=seed, **changes), folder)
    return folder


def load_model(folder: str | Path) -> GPT:
    """Load only the model from a model folder, which needs no tokenizer."""
    path = find_weights(Path(folder))
    assert path is not None
    config, state, _ = read_weights(path, read_config(Path(folder)))
    return model_of(config, state)


def tiny_llama(tokenizer: Tokenizer, *, seed: int = 1, model_type: str = "llama", **changes: object) -> Checkpoint:
    """Return a tiny model of the Llama family: 2 layers, width 32, 4 heads that share 2 of keys and values."""
    shape = {
        "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "vocab_size": tokenizer.vocab_size,
        "tie_word_embeddings": True,
    }  # fmt: skip
    config = LlamaConfig.model_validate({"model_type": model_type} | shape | changes)
    model = GPT(config).eval()
    model.initialise(seed)
    return Checkpoint(model=model, tokenizer=tokenizer, template=get_template("alpaca"), info=None, name="tiny")
