"""Stop strings in text that comes in tokens, wherever the tokens begin and end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer, byte_characters
from assistant.decoding.stop_strings import ReplyText

MERGES = ["a b", "ab c", "â Ĥ", "¬ a"]
"""Tokens besides the 256 bytes: "ab", "abc", the first two bytes of "€", and its last byte with an "a"."""
AB, ABC, EURO_START, EURO_END_A = 256, 257, 258, 259


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokens = byte_characters() | {merge.replace(" ", ""): 256 + n for n, merge in enumerate(MERGES)}
    return build_tokenizer(
        json.dumps(tokens | {EOS_TOKEN: 260}), "\n".join(["#version: 0.2", *MERGES, ""]), where="tests"
    )


def push_all(
    tokenizer: Tokenizer, token_ids: list[int], stop: tuple[str, ...]
) -> tuple[ReplyText, list[str], list[int]]:
    """Push tokens until a stop string comes; return the reply's text, what each token released, and the pushed ids."""
    text, released, pushed_ids = ReplyText(tokenizer, stop), [], []
    for token_id in token_ids:
        released.append(text.push(token_id))
        pushed_ids.append(token_id)
        if text.stopped:
            break
    released.append(text.finish())
    return text, released, pushed_ids


def expected_text(full_text: str, stop: tuple[str, ...]) -> str:
    """Read character by character: the text before the first stop string that is complete."""
    for end in range(len(full_text) + 1):
        starts = [end - len(stop_string) for stop_string in stop if full_text[:end].endswith(stop_string)]
        if starts:
            return full_text[: min(starts)]
    return full_text


@settings(deadline=None, max_examples=300)
@given(
    token_ids=st.lists(
        st.sampled_from([*b"abc", 0xE2, 0x82, 0xAC, AB, ABC, EURO_START, EURO_END_A]),
        max_size=12,
    ),
    stop=st.lists(st.text("abc€\ufffd", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_the_reply_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, token_ids: list[int], stop: tuple[str, ...]
) -> None:
    full_text = tokenizer.decode(token_ids)
    text, released, pushed_ids = push_all(tokenizer, token_ids, stop)
    assert text.text == "".join(released) == expected_text(full_text, stop)
    assert text.stopped == any(stop_string in full_text for stop_string in stop)
    count = text.count_tokens(pushed_ids)
    assert text.text.startswith(tokenizer.decode(pushed_ids[:count]))
    assert count == len(pushed_ids) or not text.text.startswith(tokenizer.decode(pushed_ids[: count + 1]))
    if not text.stopped:
        assert count == len(token_ids)


def test_a_possible_stop_string_is_held_back_until_it_is_clear(tokenizer: Tokenizer) -> None:
    assert push_all(tokenizer, [*b"xabbabc"], ("bab",))[1] == ["x", "a", "", "b", "", "", ""]
    text, released, pushed_ids = push_all(tokenizer, [*b"xabxa"], ("abab", "xy"))
    assert released == ["", "x", "", "ab", "x", "a"]
    assert not text.stopped
    assert text.count_tokens(pushed_ids) == 5


def test_a_stop_string_can_begin_inside_a_token(tokenizer: Tokenizer) -> None:
    text, released, pushed_ids = push_all(tokenizer, [*b"x", ABC, ABC], ("ca",))
    assert released == ["x", "ab", "", ""]
    assert (text.stopped, text.text, pushed_ids) == (True, "xab", [*b"x", ABC, ABC])
    assert text.count_tokens(pushed_ids) == 1


def test_a_stop_string_can_begin_with_an_incomplete_character(tokenizer: Tokenizer) -> None:
    text, released, pushed_ids = push_all(tokenizer, [*b"a", EURO_START, EURO_END_A, *b"b"], ("€a",))
    assert released == ["a", "", "", ""]
    assert (text.stopped, pushed_ids) == (True, [*b"a", EURO_START, EURO_END_A])
    assert text.count_tokens(pushed_ids) == 1


def test_the_stop_string_that_is_complete_first_wins(tokenizer: Tokenizer) -> None:
    for token_ids in ([ABC, *b"d"], [*b"abcd"]):
        assert push_all(tokenizer, token_ids, ("abcd", "bc"))[0].text == "a"
    for token_ids in ([ABC], [*b"abc"]):
        assert push_all(tokenizer, token_ids, ("abc", "b"))[0].text == "a"


def test_the_longest_of_stop_strings_that_end_together_wins(tokenizer: Tokenizer) -> None:
    assert push_all(tokenizer, [ABC], ("bc", "abc"))[0].text == ""
