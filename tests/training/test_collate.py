"""Rows to batches: by hand, against the book's collate function, and what happens to rows that are too long."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.encode import EncodedExample, encode_examples
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.prompts import get_template, render_example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError
from assistant.model.packing import IGNORE_INDEX, PaddedRows, PrefixTree
from assistant.settings import TrainOn
from assistant.training.batches import plan_batches
from assistant.training.collate import collate, pad
from tests.conftest import shared_file

ALPACA = get_template("alpaca")
ANY = Example(instruction="x", output="y")


def row(prompt: list[int], response: list[int]) -> EncodedExample:
    return EncodedExample(input_ids=(*prompt, *response), prompt_length=len(prompt), example=ANY)


def test_a_batch_written_out() -> None:
    # EOS is 9, and it is padding too; a 9 inside a text must not be taken for either.
    rows = [row([1, 2, 9], [4, 9]), row([5], [6, 9])]
    masked = pad(rows, pad_id=9)
    no = IGNORE_INDEX
    assert masked.input_ids.tolist() == [[1, 2, 9, 4], [5, 6, 9, 9]]
    assert masked.targets.tolist() == [[no, no, 4, 9], [6, 9, no, no]]
    assert collate(rows, pad_id=9).target_mask.sum().item() == 4
    everything = pad(rows, pad_id=9, train_on="all")
    assert everything.targets.tolist() == [[2, 9, 4, 9], [6, 9, no, no]]
    assert collate(rows, pad_id=9, train_on="all").target_mask.sum().item() == 6
    assert masked.input_ids.dtype == masked.targets.dtype == torch.int64


def test_a_tree_written_out() -> None:
    """All rows start with 1; two continue with 2, one of them with 2 3. A shared target counts in both rows."""
    batch = collate([row([1, 2, 3], [4, 9]), row([1, 2], [5, 9]), row([1, 7], [4])], pad_id=9, as_tree=True)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 7, *(10 * [9])]  # ten to round up the size
    assert batch.positions.tolist()[:6] == [0, 1, 2, 3, 2, 1]
    assert isinstance(batch.rows, PrefixTree)
    assert batch.rows.paths.tolist() == [[0, 1, 2, 3], [0, 1, 4, 0], [0, 5, 0, 0]]
    assert batch.rows.spans.tolist() == [[0, 4], [2, 3], [1, 2]]
    assert list(zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True))[:5] == [
        (2, 4), (3, 9), (1, 5), (4, 9), (5, 4)
    ]  # fmt: skip
    assert batch.target_mask.shape == (3, 16)
    assert batch.target_mask.tolist()[0][:5] == [1, 1, 0, 0, 0]
    same = collate([row([1, 2], [4, 9]), row([1, 2], [4, 9]), row([3], [9])], pad_id=9, as_tree=True)
    assert same.target_mask[:, :3].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert isinstance(same.rows, PrefixTree)
    assert same.rows.spans.tolist() == [[0, 3], [3, 3], [0, 1]]


def test_a_grid_written_out() -> None:
    batch = collate([row([1, 2, 3], [4, 9]), row([1, 2], [5, 9])], pad_id=9)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 5, 9]
    assert batch.positions.tolist() == [0, 1, 2, 3, 2, 0]
    assert isinstance(batch.rows, PaddedRows)
    assert (batch.rows.n_rows, batch.rows.n_shared) == (2, 2)
    assert batch.rows.mask is not None
    assert batch.rows.mask.tolist() == [[True, True, True, False], [True, True, True, True]]
    assert list(zip(batch.target_positions.tolist(), batch.targets.tolist(), strict=True)) == [
        (2, 4),
        (3, 9),
        (1, 5),
        (4, 9),
    ]
    assert batch.target_mask.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_same_as_the_books_collate(gpt2_tokenizer: Tokenizer) -> None:
    """The oracle: rasbt/LLMs-from-scratch's own function on its own 1,100 rows."""
    ch07 = pytest.importorskip("llms_from_scratch.ch07", reason="the book's package is not installed")
    import tiktoken

    examples = read_examples(shared_file("data/book-instruction-data.json"))
    encoded = encode_examples(examples, ALPACA, gpt2_tokenizer, max_length=1024)
    assert not encoded.truncated
    assert not encoded.dropped
    entries = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    assert isinstance(gpt2_tokenizer.encoding, tiktoken.Encoding)
    theirs = ch07.InstructionDataset(entries, gpt2_tokenizer.encoding)
    order = list(range(1100))
    random.Random(3).shuffle(order)
    for start in range(0, 1100, 8):
        indices = order[start : start + 8]
        ours = pad([encoded.rows[i] for i in indices], pad_id=50256, train_on="all")
        input_ids, targets = ch07.custom_collate_fn([list(theirs[i]) for i in indices])
        assert torch.equal(ours.input_ids, input_ids)
        assert torch.equal(ours.targets, targets)


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


@given(st.lists(st.integers(2, 60), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_every_row_is_seen_once_an_epoch(lengths: list[int], batch_size: int, epoch: int) -> None:
    batches = plan_batches(lengths, batch_size=batch_size, seed=5, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert max(lengths) in [lengths[index] for index in batches[0]]
    assert plan_batches(lengths, batch_size=batch_size, seed=5, epoch=epoch) == batches


def test_batches_hold_like_lengths_in_random_order() -> None:
    lengths = [random.Random(1).randint(30, 90) for _ in range(935)]
    lengths = [length + index % 37 for index, length in enumerate(lengths)]
    batches = plan_batches(lengths, batch_size=8, seed=1, epoch=0)

    def padding(groups: list[list[int]]) -> float:
        padded = sum(len(g) * max(lengths[i] for i in g) for g in groups)
        return 1 - sum(lengths) / padded

    unsorted = [list(range(start, min(start + 8, 935))) for start in range(0, 935, 8)]
    assert padding(batches) < padding(unsorted) / 3
    longest = [max(lengths[i] for i in batch) for batch in batches[1:]]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)
    assert plan_batches(lengths, batch_size=8, seed=1, epoch=1) != batches


def test_book_data_fits_its_published_lengths(gpt2_tokenizer: Tokenizer) -> None:
    """shared/reference/book-figures.md, 2: tokens a row 56.4 mean and 91 max, EOS not counted."""
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    rows = encode_examples(
        split_examples(examples).train + tuple(examples[:0]), ALPACA, gpt2_tokenizer, max_length=1024
    )
    lengths = [len(r.input_ids) - 1 for r in encode_examples(examples, ALPACA, gpt2_tokenizer, max_length=1024).rows]
    assert (round(sum(lengths) / 1100, 1), max(lengths)) == (56.4, 91)
    assert len(rows.rows) == 935


@given(
    st.text(alphabet="abcdefgh \n", min_size=1).filter(str.strip),
    st.integers(8, 40),
    st.sampled_from(["all", "response"]),
)
def test_plain_text_is_cut_into_rows_without_a_loss(
    byte_tokenizer: Tokenizer, text: str, max_length: int, train_on: TrainOn
) -> None:
    words = text.split(" ", 2)
    example = Example(instruction=words[0] or " ", output=text[len(words[0] or " ") :], is_text=True, source="f", row=1)
    tokenizer = byte_tokenizer
    rows = encode_examples([example], get_template("text"), tokenizer, max_length=max_length).rows
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    joined = [*rows[0].input_ids, *(token for row in rows[1:] for token in row.input_ids[1:])]
    assert joined == ids
    batch = pad(rows, pad_id=tokenizer.pad_id, train_on=train_on)
    assert batch.input_ids.shape[1] <= max_length
    targets = batch.targets[batch.targets != IGNORE_INDEX].tolist()
    opening = len(tokenizer.encode(example.instruction))
    # The first id has nothing before it; masked, the opening words have no say, where they fit into the first row.
    assert targets == ids[1:] if train_on == "all" else targets == ids[min(opening, max_length) :]


def test_plain_text_needs_its_own_template(byte_tokenizer: Tokenizer) -> None:
    text = Example(instruction="Once upon", output=" a time.", is_text=True, source="f.jsonl", row=3)
    with pytest.raises(DataError, match=r"f.jsonl, row 3: expected an instruction, got plain text.\n.*--template text"):
        encode_examples([text], ALPACA, byte_tokenizer, max_length=64)
