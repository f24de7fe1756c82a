"""The tokenizer against tiktoken's and the tokenizers library's own, and against damaged files."""

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

TEXT = [Example(instruction="the cat sat on the mat, they're 12 cats", output="  yes;  it's  über\n\nthe naïve 🐈")]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer(TEXT * 3, get_template("alpaca"), vocab_size=400)


def test_gpt2_is_tiktokens_gpt2(gpt2_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken-cache"))
    oracle = tiktoken.get_encoding("gpt2")
    for text in ("Hello world", "It's 12:30 — naïve?", " \n\n  spaces   here \t", "日本語 🐈\u200d⬛", "aaaa" * 100):
        assert gpt2_tokenizer.encode(text) == oracle.encode_ordinary(text)
        assert gpt2_tokenizer.decode(gpt2_tokenizer.encode(text)) == text
    assert (gpt2_tokenizer.vocab_size, gpt2_tokenizer.eos_id, gpt2_tokenizer.pad_id) == (50257, 50256, 50256)


@settings(max_examples=150)
@given(st.text(alphabet=st.one_of(st.sampled_from("theca smo'r\n 12;ü🐈"), st.characters(codec="utf-8"))))
def test_a_learnt_vocabulary_encodes_as_its_own_library(small: Tokenizer, text: str) -> None:
    from tokenizers import Tokenizer as Oracle
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    merges = [tuple(line.split(" ")) for line in small.merges_txt.split("\n")[1:-1]]
    oracle = Oracle(BPE(json.loads(small.vocab_json), merges))
    oracle.pre_tokenizer = ByteLevel(add_prefix_space=False)
    assert small.encode(text) == oracle.encode(text).ids
    assert small.decode(small.encode(text)) == text


def test_a_typed_end_of_text_is_text(small: Tokenizer) -> None:
    ids = small.encode(f"a{EOS_TOKEN}b")
    assert small.eos_id not in ids
    assert small.decode(ids) == f"a{EOS_TOKEN}b"


@given(st.text(max_size=40))
def test_streaming_gives_the_same_text_in_whole_characters(byte_tokenizer: Tokenizer, text: str) -> None:
    decoder = byte_tokenizer.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in byte_tokenizer.encode(text)]
    assert "".join(pieces) + decoder.finish() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_a_reply_cut_inside_a_character_ends_in_a_replacement(byte_tokenizer: Tokenizer) -> None:
    decoder = byte_tokenizer.stream_decoder()
    pieces = [decoder.push(token_id) for token_id in byte_tokenizer.encode("a🐈")[:-1]]
    assert "".join(pieces) == "a"
    assert decoder.finish() == "\ufffd"


def test_ids_without_a_token_decode_to_nothing(byte_tokenizer: Tokenizer) -> None:
    assert byte_tokenizer.decode([104, 105, 9999]) == "hi"


def test_folder_with_two_files_or_with_one(tmp_path: Path, small: Tokenizer) -> None:
    (tmp_path / "vocab.json").write_text(small.vocab_json)
    (tmp_path / "merges.txt").write_text(small.merges_txt)
    text = "the cat's mat"
    assert read_tokenizer(tmp_path).encode(text) == small.encode(text)

    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    other = tmp_path / "other"
    theirs.save_pretrained(other)
    (other / "vocab.json").unlink(missing_ok=True)
    ours = read_tokenizer(other)
    assert (ours.encode(text), ours.eos_id) == (theirs(text)["input_ids"], small.eos_id)


def damaged(vocab: dict[str, int], merges: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        build_tokenizer(json.dumps(vocab), merges, where="m")
    return str(caught.value)


def test_damaged_files_each_get_their_sentence(small: Tokenizer, tmp_path: Path) -> None:
    vocab, merges = json.loads(small.vocab_json), small.merges_txt
    first = merges.split("\n")[1]
    token = first.replace(" ", "")
    assert "expected all 256 bytes, got none for 0x61" in damaged({k: v for k, v in vocab.items() if k != "a"}, merges)
    assert "is not in vocab.json" in damaged({k: v for k, v in vocab.items() if k != token}, merges)
    assert "expected two tokens, got 'a b c'" in damaged(vocab, "#version: 0.2\na b c\n")
    assert "end-of-text token" in damaged({k: v for k, v in vocab.items() if k != EOS_TOKEN}, merges)
    assert "a different id for every token" in damaged(vocab | {"x": 5}, merges)
    last = vocab[EOS_TOKEN]
    assert "rise in the order of the merges" in damaged(vocab | {token: last, EOS_TOKEN: vocab[token]}, merges)
    with pytest.raises(CheckpointError, match="expected JSON"):
        build_tokenizer(small.vocab_json[:100], merges, where="m")
    with pytest.raises(CheckpointError, match=r"got no vocab\.json and no merges\.txt"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(CheckpointError, match="expected a byte-level BPE"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("blank", [" ", "\n", " \t"])
def test_endless_white_space_does_not_overflow_tiktoken(byte_tokenizer: Tokenizer, blank: str) -> None:
    text = "a" + blank * 1_000_000 + "b"
    assert byte_tokenizer.decode(byte_tokenizer.encode(text)) == text


def test_ids_and_tokens_that_tiktoken_cannot_hold(small: Tokenizer) -> None:
    vocab = json.loads(small.vocab_json)
    assert "expected tokens and ids that fit" in damaged(vocab | {"x-extra": 2**40}, small.merges_txt)
    with pytest.raises(CheckpointError, match="expected JSON"):
        build_tokenizer("[" * 10**5, "", where="m")
