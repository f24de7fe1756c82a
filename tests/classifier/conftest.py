"""Fixtures of the classifier's tests."""

from __future__ import annotations

import pytest

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import Checkpoint
from assistant.model.heads import make_classifier
from tests.support.models import tiny_checkpoint

LABELS = ("not spam", "spam")
TEXTS = ("Win!", "See you at eight, and bring the red umbrella.", "Hi", "You won a prize. Call now to claim it", "Win!")


@pytest.fixture
def untrained(byte_tokenizer: Tokenizer) -> Checkpoint:
    """A tiny classifier with random weights, for spam."""
    return make_classifier(tiny_checkpoint(byte_tokenizer), LABELS, seed=1)
