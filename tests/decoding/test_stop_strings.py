"""Stop strings in text that comes in tokens, whatever the tokens; and the lock that serves in turn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer, byte_characters
from assistant.decoding.stop_strings import ReplyText

# Bytes, and "ab", "abc", and the two halves of a euro sign's three bytes with what stands beside them.
MERGES = ["a b", "ab c", "â Ĥ", "¬ a"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokens = byte_characters() | {merge.replace(" ", ""): 256 + n for n, merge in enumerate(MERGES)}
    return build_tokenizer(
        json.dumps(tokens | {EOS_TOKEN: 260}), "\n".join(["#version: 0.2", *MERGES, ""]), where="tests"
    )


def follow(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]) -> tuple[ReplyText, list[str], list[int]]:
    """What is shown, piece by piece, and the ids that were generated until the end."""
    text, pieces, said = ReplyText(tokenizer, stop), [], []
    for token_id in ids:
        pieces.append(text.push(token_id))
        said.append(token_id)
        if text.stopped:
            break
    pieces.append(text.finish())
    return text, pieces, said


def expected_text(whole: str, stop: tuple[str, ...]) -> str:
    """Read letter by letter: the text before the first stop string that is complete."""
    for end in range(len(whole) + 1):
        found = [end - len(word) for word in stop if whole[:end].endswith(word)]
        if found:
            return whole[: min(found)]
    return whole


@settings(deadline=None, max_examples=300)
@given(
    ids=st.lists(st.sampled_from([97, 98, 99, 0xE2, 0x82, 0xAC, 256, 257, 258, 259]), max_size=12),
    stop=st.lists(st.text("abc€\ufffd", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_the_reply_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]
) -> None:
    whole = tokenizer.decode(ids)
    text, pieces, said = follow(tokenizer, ids, stop)
    assert text.shown == "".join(pieces) == expected_text(whole, stop)
    assert text.stopped == any(word in whole for word in stop)
    kept = text.kept_tokens(said)
    assert text.shown.startswith(tokenizer.decode(said[:kept]))
    assert kept == len(said) or not text.shown.startswith(tokenizer.decode(said[: kept + 1]))
    if not text.stopped:
        assert kept == len(ids)


def test_what_could_be_a_stop_string_waits_until_it_is_clear(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, [*b"xabbabc"], ("bab",))[1] == ["x", "a", "", "b", "", "", ""]
    text, pieces, said = follow(tokenizer, [120, 97, 98, 120, 97], ("abab", "xy"))
    assert pieces == ["", "x", "", "ab", "x", "a"]
    assert not text.stopped
    assert text.kept_tokens(said) == 5


def test_a_stop_string_that_begins_inside_a_token(tokenizer: Tokenizer) -> None:
    text, pieces, said = follow(tokenizer, [120, 257, 257], ("ca",))
    assert pieces == ["x", "ab", "", ""]
    assert (text.stopped, text.shown, said) == (True, "xab", [120, 257, 257])
    assert text.kept_tokens(said) == 1


def test_a_stop_string_across_the_bytes_of_a_character(tokenizer: Tokenizer) -> None:
    text, pieces, said = follow(tokenizer, [97, 258, 259, 98], ("€a",))
    assert pieces == ["a", "", "", ""]
    assert (text.stopped, said, text.kept_tokens(said)) == (True, [97, 258, 259], 1)


def test_of_two_stop_strings_the_one_that_is_complete_first(tokenizer: Tokenizer) -> None:
    for ids in ([257, 100], [97, 98, 99, 100]):  # in one token or letter by letter
        assert follow(tokenizer, ids, ("abcd", "bc"))[0].shown == "a"
    for ids in ([257], [97, 98, 99]):
        assert follow(tokenizer, ids, ("abc", "b"))[0].shown == "a"
    assert follow(tokenizer, [257], ("bc", "abc"))[0].shown == ""
