"""The book's own model, for comparisons."""

from __future__ import annotations

from typing import Any

from assistant.interop.pth import book_config
from assistant.model.config import ModelConfig, gpt2_only


def book_model(config: ModelConfig) -> Any:
    """Return a `GPTModel` of `llms-from-scratch` with random weights and the shape of `config`."""
    from llms_from_scratch.ch04 import GPTModel

    return GPTModel(book_config(gpt2_only(config, "model", "the book's GPTModel")))
