"""Rows to batches: written out by hand, and against the book's collate function."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.encode import encode_examples
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.packing import IGNORE_INDEX
from assistant.settings import TrainOn
from assistant.training.collate import collate, pad
from tests.conftest import shared_file
from tests.support.rows import make_row

ALPACA = get_template("alpaca")


def test_targets_are_shifted_and_masked() -> None:
    """EOS is 9, which is also the padding. A 9 inside a text must be neither masked nor cut."""
    rows = [make_row([1, 2, 9], [4, 9]), make_row([5], [6, 9])]
    responses = pad(rows, pad_id=9)
    no = IGNORE_INDEX
    assert responses.input_ids.tolist() == [[1, 2, 9, 4], [5, 6, 9, 9]]
    assert responses.targets.tolist() == [[no, no, 4, 9], [6, 9, no, no]]
    assert collate(rows, pad_id=9).target_mask.sum().item() == 4
    everything = pad(rows, pad_id=9, train_on="all")
    assert everything.targets.tolist() == [[2, 9, 4, 9], [6, 9, no, no]]
    assert collate(rows, pad_id=9, train_on="all").target_mask.sum().item() == 6
    assert responses.input_ids.dtype == responses.targets.dtype == torch.int64


def test_padded_batches_equal_those_of_the_book(gpt2_tokenizer: Tokenizer) -> None:
    """The oracle is the collate function of rasbt/LLMs-from-scratch, on its own 1,100 rows."""
    ch07 = pytest.importorskip("llms_from_scratch.ch07", reason="the book's package is not installed")
    import tiktoken

    examples = read_examples(shared_file("data/book-instruction-data.json"))
    encoded = encode_examples(examples, ALPACA, gpt2_tokenizer, max_length=1024)
    assert not encoded.truncated
    assert not encoded.dropped
    entries = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    assert isinstance(gpt2_tokenizer.encoding, tiktoken.Encoding)
    book_rows = ch07.InstructionDataset(entries, gpt2_tokenizer.encoding)
    order = list(range(1100))
    random.Random(3).shuffle(order)
    for start in range(0, 1100, 8):
        indices = order[start : start + 8]
        batch = pad([encoded.rows[index] for index in indices], pad_id=50256, train_on="all")
        book_inputs, book_targets = ch07.custom_collate_fn([list(book_rows[index]) for index in indices])
        assert torch.equal(batch.input_ids, book_inputs)
        assert torch.equal(batch.targets, book_targets)


@given(
    st.text(alphabet="abcdefgh \n", min_size=1).filter(str.strip),
    st.integers(8, 40),
    st.sampled_from(["all", "response"]),
)
def test_every_token_of_plain_text_is_a_target_once(
    byte_tokenizer: Tokenizer, text: str, max_length: int, train_on: TrainOn
) -> None:
    words = text.split(" ", 2)
    example = Example(instruction=words[0] or " ", output=text[len(words[0] or " ") :], is_text=True, source="f", row=1)
    rows = encode_examples([example], get_template("text"), byte_tokenizer, max_length=max_length).rows
    ids = [*byte_tokenizer.encode(text), byte_tokenizer.eos_id]
    assert [*rows[0].input_ids, *(token_id for row in rows[1:] for token_id in row.input_ids[1:])] == ids
    batch = pad(rows, pad_id=byte_tokenizer.pad_id, train_on=train_on)
    assert batch.input_ids.shape[1] <= max_length
    targets = batch.targets[batch.targets != IGNORE_INDEX].tolist()
    # The first id has nothing before it to predict it. With "response", the opening words in the first row are masked.
    n_opening = len(byte_tokenizer.encode(example.instruction))
    assert targets == (ids[1:] if train_on == "all" else ids[min(n_opening, max_length) :])
