"""What is said of an ended answer."""

from __future__ import annotations

import pytest

from assistant.chat.records import Answered
from assistant.chat.state import now
from assistant.chat.words import describe_end
from assistant.settings import GenerationSettings


def answered(**changes: object) -> Answered:
    fields: dict[str, object] = {
        "at": now(),
        "turn": 0,
        "side": "tuned",
        "variant": 0,
        "response": "hello",
        "token_ids": (1, 2, 3, 4),
        "stop_reason": "eos",
        "seconds": 0.5,
        "settings": GenerationSettings(max_new_tokens=4),
    }
    return Answered.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "4 tokens · 8/s · ended by itself"),
        ({"response": " \n"}, "4 tokens · 8/s · ended without text"),
        ({"token_ids": (1,), "seconds": 0.0}, "1 token · ended by itself"),
        ({"token_ids": (), "response": ""}, "0 tokens · ended without text"),
        ({"stop_reason": "stop"}, "4 tokens · 8/s · ended at a stop string"),
        ({"stop_reason": "cancelled"}, "4 tokens · 8/s · stopped by you"),
        ({"stop_reason": "length"}, "4 tokens · 8/s · ran to the limit"),
        ({"stop_reason": "length", "token_ids": (1, 2)}, "2 tokens · 4/s · filled the context"),
        ({"n_history": 2, "n_forgotten": 3}, "4 tokens · 8/s · ended by itself · with 2 earlier turns · oldest turns"),
        ({"n_forced": 2}, "first 2 tokens given by you"),
        ({"settings": GenerationSettings(temperature=0.8, seed=41)}, "seed 41, temperature 0.8"),
    ],
)
def test_the_end_of_an_answer_in_words(changes: dict[str, object], words: str) -> None:
    assert words in describe_end(answered(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "4 tokens"),
        ({"stop_reason": "length"}, "4 tokens · ran to the limit"),
        ({"response": ""}, "4 tokens · ended without text"),
    ],
)
def test_the_short_form_leaves_out_what_is_usual(changes: dict[str, object], words: str) -> None:
    assert describe_end(answered(**changes), is_short=True) == words
