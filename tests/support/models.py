"""Tiny models for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint, save_checkpoint
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT

requires_loops = pytest.mark.skipif(
    not fused.is_compiled(), reason="the project was installed without a C compiler, so there are no compiled loops"
)


def tiny_config(tokenizer: Tokenizer, **changes: object) -> ModelConfig:
    """Two layers of width 32 over the tokenizer's vocabulary, context 256."""
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 256, "vocab_size": tokenizer.vocab_size}
    return ModelConfig.model_validate(shape | changes)


def tiny_checkpoint(tokenizer: Tokenizer, *, seed: int = 1, **changes: object) -> Checkpoint:
    """A tiny model with random weights."""
    model = GPT(tiny_config(tokenizer, **changes)).eval()
    model.initialise(seed)
    return Checkpoint(model=model, tokenizer=tokenizer, template=get_template("alpaca"), info=None, name="tiny")


def save_tiny(folder: Path, tokenizer: Tokenizer, **changes: object) -> Path:
    """The same as a folder."""
    save_checkpoint(tiny_checkpoint(tokenizer, **changes), folder)
    return folder
