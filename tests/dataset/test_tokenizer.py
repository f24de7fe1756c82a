"""The tokenizer, compared with tiktoken and the tokenizers library, and its errors for damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer, read_tokenizer
from assistant.errors import CheckpointError
from assistant.model.scratch import train_tokenizer
from tests.conftest import SHARED

EXAMPLES = [Example(instruction="the cat sat on the mat, they're 12 cats", output="  yes;  it's  über\n\nthe naïve 🐈")]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer(EXAMPLES * 3, get_template("alpaca"), vocab_size=400)


def test_gpt2_files_give_the_ids_of_tiktoken(gpt2_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken-cache"))
    oracle = tiktoken.get_encoding("gpt2")
    for text in ("Hello world", "It's 12:30 — naïve?", " \n\n  spaces   here \t", "日本語 🐈\u200d⬛", "aaaa" * 100):
        assert gpt2_tokenizer.encode(text) == oracle.encode_ordinary(text)
        assert gpt2_tokenizer.decode(gpt2_tokenizer.encode(text)) == text
    assert (gpt2_tokenizer.vocab_size, gpt2_tokenizer.eos_id, gpt2_tokenizer.pad_id) == (50257, 50256, 50256)


@settings(max_examples=150)
@given(st.text(alphabet=st.one_of(st.sampled_from("theca smo'r\n 12;ü🐈"), st.characters(codec="utf-8"))))
def test_trained_tokenizer_gives_the_ids_of_the_tokenizers_library(small: Tokenizer, text: str) -> None:
    from tokenizers import Tokenizer as Oracle
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    merges = [(left, right) for left, right in (line.split(" ") for line in small.merges_txt.split("\n")[1:-1])]
    oracle = Oracle(BPE(json.loads(small.vocab_json), merges))
    oracle.pre_tokenizer = ByteLevel(add_prefix_space=False)
    assert small.encode(text) == oracle.encode(text).ids
    assert small.decode(small.encode(text)) == text


def test_typed_end_of_text_is_ordinary_text(small: Tokenizer) -> None:
    ids = small.encode(f"a{EOS_TOKEN}b")
    assert small.eos_id not in ids
    assert small.decode(ids) == f"a{EOS_TOKEN}b"


@given(st.text(max_size=40))
def test_streaming_gives_the_same_text_in_complete_characters(byte_tokenizer: Tokenizer, text: str) -> None:
    decoder = byte_tokenizer.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in byte_tokenizer.encode(text)]
    assert "".join(pieces) + decoder.finish() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_reply_cut_inside_a_character_ends_with_a_replacement_character(byte_tokenizer: Tokenizer) -> None:
    decoder = byte_tokenizer.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in byte_tokenizer.encode("a🐈")[:-1]]
    assert "".join(pieces) == "a"
    assert decoder.finish() == "\ufffd"


def test_ids_outside_the_vocabulary_decode_to_nothing(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.decode([104, 105, 9999]) == "hi"


def test_tokenizer_is_read_from_two_files_or_from_tokenizer_json(tmp_path: Path, small: Tokenizer) -> None:
    (tmp_path / "vocab.json").write_text(small.vocab_json)
    (tmp_path / "merges.txt").write_text(small.merges_txt)
    text = "the cat's mat"
    assert read_tokenizer(tmp_path).encode(text) == small.encode(text)

    from transformers import GPT2Tokenizer

    hf_tokenizer = GPT2Tokenizer(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    saved = tmp_path / "saved"
    hf_tokenizer.save_pretrained(saved)
    (saved / "vocab.json").unlink(missing_ok=True)
    tokenizer = read_tokenizer(saved)
    assert (tokenizer.encode(text), tokenizer.eos_id) == (hf_tokenizer(text)["input_ids"], small.eos_id)


def build_error(vocab: dict[str, int], merges: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(json.dumps(vocab), merges, where="m")
    return str(caught.value)


def without(vocab: dict[str, int], token: str) -> dict[str, int]:
    return {other: token_id for other, token_id in vocab.items() if other != token}


def test_every_kind_of_damage_has_its_message(small: Tokenizer, tmp_path: Path) -> None:
    vocab, merges = json.loads(small.vocab_json), small.merges_txt
    token = merges.split("\n")[1].replace(" ", "")
    assert "expected all 256 bytes, got none for 0x61" in build_error(without(vocab, "a"), merges)
    assert "is not in vocab.json" in build_error(without(vocab, token), merges)
    assert "expected two tokens, got 'a b c'" in build_error(vocab, "#version: 0.2\na b c\n")
    assert "end-of-text token" in build_error(without(vocab, EOS_TOKEN), merges)
    assert "a different id for every token" in build_error(vocab | {"x": 5}, merges)
    with pytest.raises(CheckpointError, match="expected JSON"):
        build_tokenizer(small.vocab_json[:100], merges, where="m")
    with pytest.raises(CheckpointError, match=r"got no vocab\.json and no merges\.txt"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(CheckpointError, match="expected a byte-level BPE"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("blank", [" ", "\n", " \t"])
def test_long_white_space_does_not_overflow_tiktoken(byte_tokenizer: Tokenizer, blank: str) -> None:
    text = "a" + blank * 1_000_000 + "b"
    assert byte_tokenizer.decode(byte_tokenizer.encode(text)) == text


def test_huge_ids_and_deep_json_are_refused(small: Tokenizer) -> None:
    vocab = json.loads(small.vocab_json)
    assert "expected tokens and ids that fit" in build_error(vocab | {"x-extra": 2**40}, small.merges_txt)
    with pytest.raises(CheckpointError, match="expected JSON"):
        build_tokenizer("[" * 10**5, "", where="m")
