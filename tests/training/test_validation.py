"""The answers of a validation: loops, exact matches, and which rows are answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assistant.dataset.encode import encode_examples
from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.loops import loops
from assistant.training.validation import answer_rows
from tests.support.models import tiny_checkpoint


@pytest.mark.parametrize(
    ("token_ids", "is_loop"),
    [
        ([], False),
        ([5] * 7, False),
        ([5] * 8, True),
        ([1, 2, 3, *[7, 8] * 4], True),
        ([1, 2, 3] * 3, False),
        ([1, 2, 3] * 4, True),
        ([9, 9, 9, 1, 2, 3, 4, 5, 6, 7], False),
        ([*range(12)] * 4, True),
        ([*range(13)] * 4, False),
    ],
)
def test_loops_repeat_up_to_12_tokens_four_times(token_ids: list[int], is_loop: bool) -> None:
    assert loops(token_ids) is is_loop


def test_answered_rows_are_spread_over_all_rows(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    rows = encode_examples(examples, checkpoint.template, byte_tokenizer, max_length=256).rows
    answers = answer_rows(checkpoint, rows, count=4, n_samples=2)
    assert answers.n == 4
    assert [sample.instruction for sample in answers.samples] == [
        rows[0].example.instruction,
        rows[len(rows) // 4].example.instruction,
    ]
    assert answer_rows(checkpoint, rows[:1], count=9, n_samples=9).n == 1


def test_rows_answered_one_at_a_time_get_the_same_answers(
    byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model does whose keys and values need much memory."""
    checkpoint = tiny_checkpoint(byte_tokenizer)
    rows = encode_examples(examples, checkpoint.template, byte_tokenizer, max_length=256).rows
    together = answer_rows(checkpoint, rows, count=6, n_samples=6)
    monkeypatch.setattr("assistant.training.validation.ANSWER_CACHE_BYTES", 1)
    assert answer_rows(checkpoint, rows, count=6, n_samples=6) == together


def test_an_answer_that_equals_the_reference_is_exact(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    rows = encode_examples(examples, checkpoint.template, byte_tokenizer, max_length=256).rows
    answers = answer_rows(checkpoint, rows, count=4, n_samples=1)
    response = answers.samples[0].response
    assert response
    with_that_reference = [replace(examples[0], output=response), *examples[1:]]
    rows = encode_examples(with_that_reference, checkpoint.template, byte_tokenizer, max_length=400).rows
    assert answer_rows(checkpoint, rows, count=4, n_samples=0).exact == answers.exact + 0.25
