"""Fixtures of the training tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assistant.dataset.instructions import Example


@pytest.fixture
def pairs(examples: list[Example]) -> list[Example]:
    """Forty preferences: an answer in capitals is chosen, and a refusal is rejected."""
    return [replace(e, rejected=f"I would not say {e.instruction.split()[1]}") for e in examples]


@pytest.fixture
def labelled() -> list[Example]:
    """Forty-four short texts of different lengths: 12 are labelled spam, and the others not spam."""
    spam = [f"{word} {what}" for word in ("Win", "Claim", "Get") for what in ("a prize", "cash", "100 now", "it free!")]
    verbs = ("See", "Buy", "Read", "Ask about", "Bring", "Ok,", "No,", "Do")
    rest = [f"{verb} {what}" for verb in verbs for what in ("the milk", "you at 8", "my book", "it later")]
    rows = [(text, "spam") for text in spam] + [(text, "not spam") for text in rest]
    return [
        Example(instruction=text, output=label, category=label, source="sms.tsv", row=number)
        for number, (text, label) in enumerate(rows, start=1)
    ]
