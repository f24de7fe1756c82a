"""The model that most tests of decoding share."""

from __future__ import annotations

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.gpt import GPT
from tests.support.models import tiny_checkpoint


@pytest.fixture(scope="module")
def model(byte_tokenizer: Tokenizer) -> GPT:
    """Random weights, with embeddings large enough that rows get different tokens."""
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
    return model
