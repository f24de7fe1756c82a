"""Rows to batches: written out by hand, and against the book's collate function."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.encode import encode_examples
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.prompts import get_template, render_example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError
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


# --- `encode_examples`: tests/dataset/test_encode.py has these tests, too -----------------------------------------


def test_training_sees_the_tokens_that_chat_sends(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    encoded = encode_examples(examples, ALPACA, byte_tokenizer, max_length=256)
    for row_, example in zip(encoded.rows, examples, strict=True):
        prompt, response = row_.input_ids[: row_.prompt_length], row_.input_ids[row_.prompt_length :]
        assert list(prompt) == byte_tokenizer.encode(render_example(ALPACA, example))
        assert list(response) == [*byte_tokenizer.encode(example.output), byte_tokenizer.eos_id]


@given(st.integers(150, 400), st.text(max_size=300), st.text(max_size=40), st.booleans())
def test_truncation_keeps_template_response_and_eos(
    byte_tokenizer: Tokenizer, max_length: int, text: str, output: str, in_input: bool
) -> None:
    example = Example(
        instruction="Do." if in_input else "I" + text, input=text if in_input else "", output="O" + output
    )
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=max_length)
    full = len(byte_tokenizer.encode(render_example(ALPACA, example) + example.output))  # positions, EOS's target too
    if encoded.dropped:
        assert full > max_length
        return
    (encoded_row,) = encoded.rows
    assert bool(encoded.truncated) == (full > max_length)
    assert len(encoded_row.input_ids) - 1 <= max_length
    prompt = byte_tokenizer.decode(encoded_row.input_ids[: encoded_row.prompt_length])
    parts = ALPACA.parts(example.instruction, example.input)
    assert prompt.startswith(parts.before)
    assert prompt.endswith(parts.after)
    kept = prompt[len(parts.before) : len(prompt) - len(parts.after)]
    assert parts.user_text.startswith(kept)
    response = encoded_row.input_ids[encoded_row.prompt_length :]
    assert list(response) == [*byte_tokenizer.encode(example.output), byte_tokenizer.eos_id]


def test_truncation_uses_the_room_there_is(byte_tokenizer: Tokenizer) -> None:
    example = Example(instruction="word " * 100, output="ok", source="f.json", row=3)
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=200)
    assert encoded.truncated == (example,)
    assert 196 <= len(encoded.rows[0].input_ids) - 1 <= 200  # the cut leaves no blank at its end


def test_rows_whose_answer_does_not_fit_are_left_out_or_refused(byte_tokenizer: Tokenizer) -> None:
    short = Example(instruction="a", output="b", source="f.json", row=1)
    endless = Example(instruction="a", output="b" * 500, source="f.json", row=2)
    encoded = encode_examples([short, endless], ALPACA, byte_tokenizer, max_length=256)
    assert (encoded.dropped, encoded.truncated, len(encoded.rows)) == ((endless,), (), 1)
    dropped = encode_examples(
        [Example(instruction="a" * 500, output="b")], ALPACA, byte_tokenizer, max_length=256, too_long="drop"
    )
    assert (len(dropped.dropped), len(dropped.rows)) == (1, 0)
    with pytest.raises(DataError, match=r"f\.json, row 2: expected at most 256 positions, got \d+"):
        encode_examples([short, endless], ALPACA, byte_tokenizer, max_length=256, too_long="error")


def test_a_row_of_ten_megabytes_is_shortened(byte_tokenizer: Tokenizer) -> None:
    example = Example(instruction="Count.", input="a" * 10_000_000, output="Many.")
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=256)
    assert encoded.truncated == (example,)
    assert len(encoded.rows[0].input_ids) == 257


def test_book_data_fits_its_published_lengths(gpt2_tokenizer: Tokenizer) -> None:
    """shared/reference/book-figures.md, 2: tokens a row 56.4 mean and 91 max, EOS not counted."""
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    rows = encode_examples(
        split_examples(examples).train + tuple(examples[:0]), ALPACA, gpt2_tokenizer, max_length=1024
    )
    lengths = [len(r.input_ids) - 1 for r in encode_examples(examples, ALPACA, gpt2_tokenizer, max_length=1024).rows]
    assert (round(sum(lengths) / 1100, 1), max(lengths)) == (56.4, 91)
    assert len(rows.rows) == 935


def test_plain_text_needs_its_own_template(byte_tokenizer: Tokenizer) -> None:
    text = Example(instruction="Once upon", output=" a time.", is_text=True, source="f.jsonl", row=3)
    with pytest.raises(DataError, match=r"f.jsonl, row 3: expected an instruction, got plain text.\n.*--template text"):
        encode_examples([text], ALPACA, byte_tokenizer, max_length=64)
