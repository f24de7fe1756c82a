"""Fixtures of the training tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assistant.dataset.instructions import Example


@pytest.fixture
def pairs(examples: list[Example]) -> list[Example]:
    """Forty preferences: an answer in capitals is chosen, and a refusal is rejected."""
    return [replace(e, rejected=f"I would not say {e.instruction.split()[1]}") for e in examples]
