"""The tokenizers of SmolLM2, Llama 3 and Qwen, made small, with the `tokenizers` library as the oracle."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.tokenizer import Tokenizer, read_tokenizer, utf8_length
from assistant.errors import CheckpointError
from assistant.interop.gguf_tokenizer import tokenizer_files
from tests.support.families import BOS, END, EOS, FAMILIES, SPECIALS, START, instruction_texts, odd_texts, train


@cache
def trained(family: str, *, has_all_bytes: bool = True) -> Any:
    return train(family, vocab_size=700, has_all_bytes=has_all_bytes, n_texts=300)


def write(folder: Path, content: str) -> Path:
    """A model folder with nothing but `tokenizer.json`."""
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 10**6}))
    return folder


def read(folder: Path, content: str) -> Tokenizer:
    return read_tokenizer(write(folder, content))


def check_ids(tokenizer: Tokenizer, oracle: Any, texts: list[str]) -> None:
    """Compare the ids of all texts, and the sizes that come with them."""
    expected = oracle.encode_batch(texts, add_special_tokens=False)
    for text, encoded in zip(texts, expected, strict=True):
        ids, sizes = tokenizer.encode_with_sizes(text)
        assert ids == tokenizer.encode(text) == encoded.ids, text
        assert sum(sizes) == utf8_length(text) or not ids
        assert min(sizes, default=0) >= 0


def changed(family: str, **changes: Any) -> str:
    """The `tokenizer.json` of a family with some changed keys; those of `model` are merged."""
    content = json.loads(trained(family).to_str())
    model = content["model"] | changes.pop("model", {})
    return json.dumps(content | changes | {"model": model})


# --- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_all_bytes", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_tokenizers_library(tmp_path: Path, family: str, has_all_bytes: bool) -> None:
    oracle = trained(family, has_all_bytes=has_all_bytes)
    tokenizer = read(tmp_path, oracle.to_str())
    assert bool(tokenizer.byte_pairs.missing) is not has_all_bytes
    check_ids(tokenizer, oracle, [*instruction_texts()[::40], *odd_texts(200)])


@pytest.mark.long
@pytest.mark.parametrize("has_all_bytes", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_all_rows_and_of_20000_texts(tmp_path: Path, family: str, has_all_bytes: bool) -> None:
    oracle = train(family, has_all_bytes=has_all_bytes)
    check_ids(read(tmp_path, oracle.to_str()), oracle, [*instruction_texts(), *odd_texts(20_000)])


def test_ids_need_not_increase_with_the_merges(tmp_path: Path) -> None:
    content = json.loads(trained("smollm").to_str())
    vocab = content["model"]["vocab"]
    numbers = list(vocab.values())
    random.Random(3).shuffle(numbers)
    content["model"]["vocab"] = dict(zip(vocab, numbers, strict=True))
    from tokenizers import Tokenizer as Oracle

    oracle = Oracle.from_str(json.dumps(content))
    oracle.encode_special_tokens = True
    tokenizer = read(tmp_path, json.dumps(content))
    check_ids(tokenizer, oracle, [*instruction_texts()[::100], *odd_texts(100)])
    assert tokenizer.decode(tokenizer.encode("Hello world 12")) == "Hello world 12"


def test_llama_takes_a_piece_that_no_merge_makes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Oracle

    model = json.loads(trained("llama-bpe").to_str())["model"]
    whole = "".join(model["merges"][-1])
    text = changed("llama-bpe", model={"merges": model["merges"][:-1]})
    tokenizer, oracle = read(tmp_path, text), Oracle.from_str(text)
    whole_id = model["vocab"][whole]
    spelled = oracle.decode([whole_id])
    assert tokenizer.encode(spelled) == oracle.encode(spelled, add_special_tokens=False).ids == [whole_id]


@pytest.mark.parametrize("character", [" ", "\n", "a", "1", "\x04"])
def test_long_runs_do_not_overflow(tmp_path: Path, character: str) -> None:
    text = f"x\x04{character * 150_000}y"
    for has_all_bytes in (True, False):
        tokenizer = read(tmp_path, trained("llama-bpe", has_all_bytes=has_all_bytes).to_str())
        assert tokenizer.decode(tokenizer.encode(text)) == (text if has_all_bytes else text.replace("\x04", ""))


# --- special tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_have_ids_but_no_spelling(tmp_path: Path, family: str) -> None:
    tokenizer = read(tmp_path, trained(family).to_str())
    ids = [tokenizer.special_id(text) for text in SPECIALS]
    assert ids == [700, 701, 702, 703]
    assert tokenizer.special_id("the") is None
    for text in SPECIALS:
        assert not set(tokenizer.encode(f"a {text}\n{text}{text}")) & set(ids)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (700 if family == "llama-bpe" else None, 701)


def test_end_tokens_are_those_of_the_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path, trained("llama-bpe").to_str())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [703, 701]}))
    assert read_tokenizer(folder).eos_ids == (703, 701)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_pair", [True, False])
def test_the_files_are_kept_as_they_are(tmp_path: Path, with_pair: bool) -> None:
    content = "  " + changed("qwen2", added_by_somebody={"ü": 1})
    folder = write(tmp_path, content)
    files = {"tokenizer.json": content}
    if with_pair:
        files |= {"vocab.json": '{"a":  0}', "merges.txt": "#version: 0.2\nx y\n"}
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    assert read_tokenizer(folder).files() == files


def test_transformers_opens_what_was_kept(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from assistant.model.checkpoint import save_checkpoint
    from tests.support.models import tiny_checkpoint

    for family in FAMILIES[1:]:
        tokenizer = read(tmp_path, trained(family).to_str())
        save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / family)
        theirs = AutoTokenizer.from_pretrained(tmp_path / family)
        again = read_tokenizer(tmp_path / family)
        for text in odd_texts(20):
            expected = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert tokenizer.encode(text) == again.encode(text) == expected
        assert theirs("a")["input_ids"][:-1] == ([700] if family == "llama-bpe" else [])


# --- refused ------------------------------------------------------------------------------------------------------


def template(single: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "special_tokens": {"a": {"ids": [1]}}}


SPLIT = {"type": "Split", "pattern": {"Regex": "()"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Prepend", "prepend": "▁"}}, "splits texts as .* got the normalizer .*Prepend"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}}, "Lowercase"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "splits texts as .* got the pre_tokenizer .*Metaspace"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT]}}, "got the pre_tokenizer .*Split"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": False}}, "got the pre_tokenizer .*Digits"),
        ({"pre_tokenizer": {"pretokenizers": 3}}, "splits texts as"),
        ({"post_processor": {"type": "BertProcessing"}}, "got the post_processor BertProcessing"),
        ({"post_processor": template([{"Sequence": {}}, {"SpecialToken": {"id": "a"}}])}, "puts tokens after a text"),
        (
            {"post_processor": template([*[{"SpecialToken": {"id": "a"}}] * 2, {"Sequence": {}}])},
            "puts the ids .* before",
        ),
        ({"model": {"type": "Unigram"}}, "expected a byte-level BPE .*Unigram"),
        ({"model": {"type": "WordPiece"}}, "expected a byte-level BPE .*WordPiece"),
        ({"model": {"byte_fallback": True}}, "expected a byte-level BPE .*BPE with byte_fallback"),
    ],
)
def test_other_tokenizers_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, changed("llama-bpe", **changes))


def test_a_token_for_missing_bytes_is_refused(tmp_path: Path) -> None:
    content = json.loads(trained("smollm", has_all_bytes=False).to_str())
    content["model"]["unk_token"] = "a"
    with pytest.raises(CheckpointError, match="expected all 256 bytes"):
        read(tmp_path, json.dumps(content))


def test_only_tokenizer_json_says_how_a_llama_splits(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    for name, text in byte_tokenizer.files().items():
        (tmp_path / name).write_text(text)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json .* got 'qwen2' with vocab\.json"):
        read_tokenizer(tmp_path)


# --- GGUF ---------------------------------------------------------------------------------------------------------


def metadata(family: str) -> dict[str, Any]:
    """What llama.cpp's converter writes for a tokenizer: padding up to a round number included."""
    content = json.loads(trained(family).to_str())
    vocab = content["model"]["vocab"] | {text: 700 + number for number, text in enumerate(SPECIALS)}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": family,
        "tokenizer.ggml.tokens": [*tokens, "[PAD704]"],
        "tokenizer.ggml.token_type": [*[1] * 700, 3, 3, 3, 4, 5],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 700,
        "tokenizer.ggml.eos_token_id": 703,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_gives_the_same_ids(tmp_path: Path, family: str) -> None:
    from transformers import AutoTokenizer

    for name, text in tokenizer_files(metadata(family), "m.gguf").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer, theirs = read_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    check_ids(tokenizer, trained(family), [text for text in odd_texts(100) if END not in text])
    assert (tokenizer.eos_id, tokenizer.special_id(START), theirs.eos_token) == (703, 702, END)
    assert tokenizer.bos_id == (700 if family == "llama-bpe" else None)
    assert theirs(f"a{EOS}")["input_ids"] == [*[700] * (family == "llama-bpe"), *tokenizer.encode("a"), 701]


def test_a_gguf_file_may_say_that_nothing_comes_before_a_text(tmp_path: Path) -> None:
    for add_bos, family in ((False, "llama-bpe"), (True, "qwen2")):
        files = tokenizer_files(metadata(family) | {"tokenizer.ggml.add_bos_token": add_bos}, "m.gguf")
        assert read(tmp_path, files["tokenizer.json"]).bos_id == (700 if add_bos else None)
    assert BOS in files["tokenizer_config.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer.ggml.pre": "deepseek-llm"},
            "split as gpt-2, smollm, .* got 'gpt2' that is split as 'deepseek-llm'",
        ),
        ({"tokenizer.ggml.model": "llama"}, "expected a byte-level BPE .* got 'llama'"),
        ({"tokenizer.ggml.tokens": None}, "expected tokens and their types"),
        ({"tokenizer.ggml.token_type": [1]}, "expected tokens and their types"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "expected tokens and their types"),
        ({"tokenizer.ggml.bos_token_id": 704}, "expected tokens and their types"),
    ],
)
def test_other_gguf_files_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        tokenizer_files(metadata("llama-bpe") | changes, "m.gguf")
