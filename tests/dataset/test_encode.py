"""Encoding: the ids of prompt and response, rows that are too long, and plain text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.encode import EncodedExample, count_targets, encode_examples, sequences
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError
from tests.conftest import shared_file

ALPACA = get_template("alpaca")


def prompt_of(example: Example) -> str:
    return ALPACA.render(example.instruction, example.input, example.history)


def response_ids(row: EncodedExample) -> list[int]:
    return list(row.input_ids[row.prompt_length :])


def test_row_is_the_prompt_of_the_chat_then_response_and_eos(
    byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    encoded = encode_examples(examples, ALPACA, byte_tokenizer, max_length=256)
    for row, example in zip(encoded.rows, examples, strict=True):
        assert list(row.input_ids[: row.prompt_length]) == byte_tokenizer.encode(prompt_of(example))
        assert response_ids(row) == [*byte_tokenizer.encode(example.output), byte_tokenizer.eos_id]


# --- rows that are too long ---------------------------------------------------------------------------------------


@given(st.integers(150, 400), st.text(max_size=300), st.text(max_size=40), st.booleans())
def test_truncation_keeps_template_response_and_eos(
    byte_tokenizer: Tokenizer, max_length: int, text: str, output: str, in_input: bool
) -> None:
    example = Example(
        instruction="Do." if in_input else "I" + text, input=text if in_input else "", output="O" + output
    )
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=max_length)
    # EOS is only a target, so the positions are those of prompt and response.
    n_positions = len(byte_tokenizer.encode(prompt_of(example) + example.output))
    if encoded.dropped:
        assert n_positions > max_length
        return
    (row,) = encoded.rows
    assert bool(encoded.truncated) == (n_positions > max_length)
    assert len(row.input_ids) - 1 <= max_length
    prompt = byte_tokenizer.decode(row.input_ids[: row.prompt_length])
    whole, after = prompt_of(example), "\n\n### Response:\n"
    last_text = example.input or example.instruction
    before = whole[: len(whole) - len(last_text + after)]
    assert prompt.startswith(before)
    assert prompt.endswith(after)
    assert last_text.startswith(prompt[len(before) : len(prompt) - len(after)])
    assert response_ids(row) == [*byte_tokenizer.encode(example.output), byte_tokenizer.eos_id]


def test_truncation_uses_all_available_positions(byte_tokenizer: Tokenizer) -> None:
    example = Example(instruction="word " * 100, output="ok", source="f.json", row=3)
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=200)
    assert encoded.truncated == (example,)
    assert 196 <= len(encoded.rows[0].input_ids) - 1 <= 200  # The cut text does not end with a space.


def test_row_with_an_overlong_answer_is_dropped_or_refused(byte_tokenizer: Tokenizer) -> None:
    short = Example(instruction="a", output="b", source="f.json", row=1)
    overlong = Example(instruction="a", output="b" * 500, source="f.json", row=2)
    encoded = encode_examples([short, overlong], ALPACA, byte_tokenizer, max_length=256)
    assert (encoded.dropped, encoded.truncated, len(encoded.rows)) == ((overlong,), (), 1)
    with pytest.raises(DataError, match=r"f\.json, row 2: expected at most 256 positions, got \d+"):
        encode_examples([short, overlong], ALPACA, byte_tokenizer, max_length=256, too_long="error")


def test_drop_policy_drops_rows_that_truncation_could_keep(byte_tokenizer: Tokenizer) -> None:
    overlong = Example(instruction="a" * 500, output="b")
    encoded = encode_examples([overlong], ALPACA, byte_tokenizer, max_length=256, too_long="drop")
    assert (encoded.dropped, encoded.rows) == ((overlong,), ())


def test_a_row_of_ten_megabytes_is_truncated(byte_tokenizer: Tokenizer) -> None:
    example = Example(instruction="Count.", input="a" * 10_000_000, output="Many.")
    encoded = encode_examples([example], ALPACA, byte_tokenizer, max_length=256)
    assert encoded.truncated == (example,)
    assert len(encoded.rows[0].input_ids) == 257


# --- preferences --------------------------------------------------------------------------------------------------


def test_rejected_answers_are_encoded_only_as_pairs(byte_tokenizer: Tokenizer) -> None:
    pair = Example(instruction="Say hi.", output="Hi.", rejected="No.")
    (single,) = encode_examples([pair], ALPACA, byte_tokenizer, max_length=256).rows
    assert single.rejected is None
    (row,) = encode_examples([pair], ALPACA, byte_tokenizer, max_length=256, as_pairs=True).rows
    assert row.rejected is not None
    assert row.rejected.input_ids[: row.rejected.prompt_length] == row.input_ids[: row.prompt_length]
    assert response_ids(row) == [*byte_tokenizer.encode("Hi."), byte_tokenizer.eos_id]
    assert response_ids(row.rejected) == [*byte_tokenizer.encode("No."), byte_tokenizer.eos_id]
    assert sequences([row, single]) == [row, single, row.rejected]


def test_pairs_are_truncated_for_the_longer_answer(byte_tokenizer: Tokenizer) -> None:
    pair = Example(instruction="a" * 500, output="b", rejected="b" * 50)
    (row,) = encode_examples([pair], ALPACA, byte_tokenizer, max_length=256, as_pairs=True).rows
    assert row.rejected is not None
    assert len(row.rejected.input_ids) == 257
    assert row.rejected.prompt_length == row.prompt_length


def test_pairs_need_two_answers(byte_tokenizer: Tokenizer) -> None:
    single = Example(instruction="a", output="b", source="f.json", row=4)
    with pytest.raises(DataError, match=r'f\.json, row 4: expected "chosen" and "rejected", got one answer'):
        encode_examples([single], ALPACA, byte_tokenizer, max_length=256, as_pairs=True)


# --- plain text ---------------------------------------------------------------------------------------------------


@given(st.text(alphabet="abcdefgh \n", min_size=1).filter(str.strip), st.integers(8, 40))
def test_plain_text_is_cut_into_rows_without_loss(byte_tokenizer: Tokenizer, text: str, max_length: int) -> None:
    words = text.split(" ", 2)
    example = Example(instruction=words[0] or " ", output=text[len(words[0] or " ") :], is_text=True, source="f", row=1)
    rows = encode_examples([example], get_template("text"), byte_tokenizer, max_length=max_length).rows
    ids = [*byte_tokenizer.encode(text), byte_tokenizer.eos_id]
    assert [*rows[0].input_ids, *(token_id for row in rows[1:] for token_id in row.input_ids[1:])] == ids
    assert max(len(row.input_ids) - 1 for row in rows) <= max_length
    assert sum(count_targets(row, "all") for row in rows) == len(ids) - 1
    # With "response", the opening words in the first row are not targets.
    n_opening = len(byte_tokenizer.encode(example.instruction))
    assert sum(count_targets(row, "response") for row in rows) == len(ids) - min(n_opening, max_length)


def test_plain_text_needs_the_text_template(byte_tokenizer: Tokenizer) -> None:
    text = Example(instruction="Once upon", output=" a time.", is_text=True, source="f.jsonl", row=3)
    with pytest.raises(DataError, match=r"f.jsonl, row 3: expected an instruction, got plain text.\n.*--template text"):
        encode_examples([text], ALPACA, byte_tokenizer, max_length=64)


# --- the book's data ----------------------------------------------------------------------------------------------


def test_book_rows_have_their_published_lengths(gpt2_tokenizer: Tokenizer) -> None:
    """shared/reference/book-figures.md, 2: the mean is 56.4 tokens per row and the maximum 91, without EOS."""
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    rows = encode_examples(examples, ALPACA, gpt2_tokenizer, max_length=1024).rows
    lengths = [len(row.input_ids) - 1 for row in rows]
    assert (round(sum(lengths) / 1100, 1), max(lengths)) == (56.4, 91)
    train = encode_examples(split_examples(examples).train, ALPACA, gpt2_tokenizer, max_length=1024)
    assert len(train.rows) == 935
