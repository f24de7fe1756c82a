"""The book's own model, for comparisons."""

from __future__ import annotations

from typing import Any

from assistant.model.config import ModelConfig


def book_model(config: ModelConfig) -> Any:
    """Return a `GPTModel` of `llms-from-scratch` with random weights and the shape of `config`."""
    from llms_from_scratch.ch04 import GPTModel

    return GPTModel(
        {
            "vocab_size": config.vocab_size,
            "context_length": config.n_positions,
            "emb_dim": config.n_embd,
            "n_heads": config.n_head,
            "n_layers": config.n_layer,
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    )
