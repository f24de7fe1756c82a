"""Added tokens and end tokens: the tokenizer that comes in goes out; transformers is the oracle."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from assistant.errors import CheckpointError
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.scratch import train_tokenizer
from tests.support.models import save_tiny

EXAMPLES = [Example(instruction="the cat sat on the mat, they're 12 cats", output="  yes;  it's  über\n\nthe naïve 🐈")]
SPECIAL, PLAIN, LEFT, WORD, RIGHT = "<|im_end|>", "<tool>", "<left>", "word", "<tool>x"
PARTS = [
    *("the", " cat", " mat", "12", "'re", " ", "  ", "\n", "\t", "ü", "🐈", "日本"),
    *("<", ">", "|", "_", "e\u0301", "\xa0", "\x1c"),
    *(SPECIAL, PLAIN, LEFT, WORD, RIGHT, "<|endoftext|>", "<|extra|>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer(EXAMPLES * 3, get_template("alpaca"), vocab_size=400)


def odd_texts(count: int = 500) -> list[str]:
    """Texts that mix words, white space, parts of characters, and the spellings of added tokens."""
    generator = random.Random(7)
    return ["".join(generator.choices(PARTS, k=generator.randrange(12))) for _ in range(count)]


def flags(content: str, **changes: bool) -> dict[str, Any]:
    return {
        "content": content, "special": False, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": True,
    } | changes  # fmt: skip


def added_by_id(first_id: int) -> dict[int, dict[str, Any]]:
    tokens = [
        flags(SPECIAL, special=True, normalized=False),
        flags(PLAIN),
        flags(LEFT, lstrip=True, normalized=False),
        flags(WORD, single_word=True),
        flags(RIGHT, rstrip=True),
    ]
    return dict(enumerate(tokens, start=first_id))


def write(folder: Path, **contents: object) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def with_decoder(folder: Path, first_id: int) -> None:
    """As transformers 4 saves: all tokens in tokenizer_config.json."""
    tokens = {str(token_id): fields for token_id, fields in added_by_id(first_id).items()}
    write(
        folder,
        tokenizer_config={
            "tokenizer_class": "GPT2Tokenizer", "eos_token": SPECIAL, "pad_token": "<|endoftext|>",
            "additional_special_tokens": ["<|extra|>"], "added_tokens_decoder": tokens, "model_max_length": 10,
        },
    )  # fmt: skip


def with_old_files(folder: Path, first_id: int) -> None:
    """As transformers 3 saves: added_tokens.json and special_tokens_map.json."""
    (folder / "tokenizer_config.json").unlink()
    write(
        folder,
        added_tokens={SPECIAL: first_id, PLAIN: first_id + 1, LEFT: first_id + 2},
        special_tokens_map={"eos_token": flags(SPECIAL), "pad_token": "<|endoftext|>"},
    )


def with_tokenizer_json(folder: Path, first_id: int) -> None:
    """As transformers 5 saves: tokenizer.json and a short configuration. vocab.json is gone."""
    from transformers import AddedToken, GPT2Tokenizer

    (folder / "tokenizer_config.json").unlink()
    tokenizer = GPT2Tokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": SPECIAL})
    for fields in list(added_by_id(first_id).values())[1:]:
        tokenizer.add_tokens([AddedToken(**fields)])
    tokenizer.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


def with_nothing(folder: Path, _: int) -> None:
    """As OpenAI's GPT-2 comes: vocab.json and merges.txt."""
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize("change", [with_decoder, with_old_files, with_tokenizer_json, with_nothing])
def test_the_tokenizer_in_is_the_tokenizer_out(
    tmp_path: Path, small: Tokenizer, change: Callable[[Path, int], None]
) -> None:
    from transformers import AutoTokenizer

    base, result = save_tiny(tmp_path / "base", small, vocab_size=small.vocab_size + 8), tmp_path / "result"
    change(base, small.vocab_size)
    save_checkpoint(load_checkpoint(base), result)
    save_checkpoint(load_checkpoint(result), tmp_path / "again")
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(result)
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    ours_before, ours_after = read_tokenizer(base), read_tokenizer(result)
    assert (before.eos_token, before.pad_token, len(before)) == (after.eos_token, after.pad_token, len(after))
    for text in odd_texts():
        expected = before(text)["input_ids"]
        assert after(text)["input_ids"] == again(text)["input_ids"] == expected, text
        without_specials = before(text, split_special_tokens=True)["input_ids"]
        assert ours_before.encode(text) == ours_after.encode(text) == without_specials, text
        assert after(text, split_special_tokens=True)["input_ids"] == without_specials, text
    for token_id in range(len(before)):
        assert ours_after.encoding.decode_single_token_bytes(token_id) is not None


def test_special_tokens_have_ids_but_no_spelling(tmp_path: Path, small: Tokenizer) -> None:
    base = save_tiny(tmp_path / "base", small, vocab_size=small.vocab_size + 8)
    with_decoder(base, small.vocab_size)
    tokenizer = read_tokenizer(base)
    assert tokenizer.decode([small.vocab_size]) == SPECIAL
    assert small.vocab_size not in tokenizer.encode(f"a{SPECIAL}b")
    assert small.vocab_size + 1 in tokenizer.encode(f"a{PLAIN}b")


# --- end tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "generation", "eos_token", "ids", "first"),
    [
        (256, ..., ..., (256,), 256),
        (258, ..., ..., (258,), 258),
        ([257, 258], ..., ..., (257, 258), 257),
        ([257, 258], ..., "<b>", (257, 258), 258),
        (256, 258, ..., (258,), 258),
        (256, [257, 256], ..., (257, 256), 256),
        (None, ..., ..., (256,), 256),
        (..., ..., "<b>", (258,), 258),
        (257, None, ..., (257,), 257),
        (50256, ..., ..., (256,), 256),  # GPT2Config's default, beyond this vocabulary
        ([258, 259], ..., ..., (258, 259), 258),  # 259 is padding of the vocabulary
    ],
)
def test_the_end_tokens_are_those_of_the_configuration(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    config: object,
    generation: object,
    eos_token: object,
    ids: tuple[int, ...],
    first: int,
) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer, vocab_size=260)
    content = json.loads((base / "config.json").read_text()) | {"eos_token_id": config}
    (base / "generation_config.json").unlink()
    (base / "tokenizer_config.json").unlink()
    write(base, config={key: value for key, value in content.items() if value is not ...})
    write(base, added_tokens={"<a>": 257, "<b>": 258})
    if generation is not ...:
        write(base, generation_config={"eos_token_id": generation})
    if eos_token is not ...:
        write(base, special_tokens_map={"eos_token": eos_token})
    tokenizer = read_tokenizer(base)
    assert (tokenizer.eos_ids, tokenizer.eos_id) == (ids, first)
    save_checkpoint(load_checkpoint(base), tmp_path / "result")
    again = read_tokenizer(tmp_path / "result")
    assert (again.eos_ids, again.eos_id) == (ids, first)
    from transformers import GenerationConfig

    stops = GenerationConfig.from_pretrained(tmp_path / "result").eos_token_id
    assert stops == (ids[0] if len(ids) == 1 else list(ids))


@pytest.mark.parametrize("value", ["3", [1, "x"], True, {"a": 1}, 1.5])
def test_end_tokens_that_are_not_ids_are_refused(tmp_path: Path, byte_tokenizer: Tokenizer, value: object) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    write(base, generation_config={"eos_token_id": value})
    with pytest.raises(CheckpointError, match="expected eos_token_id as an id or a list of ids"):
        read_tokenizer(base)


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"added_tokens": {"<a>": 300}}, "ids follow the vocabulary's, got 300 for '<a>' where 257 comes next"),
        ({"added_tokens": {"<a>": 65}}, "expected one id for each token"),
        ({"added_tokens": {"<a>": "257"}}, "added tokens as transformers writes them"),
        ({"added_tokens": ["<a>"]}, "expected a JSON object"),
        ({"tokenizer_config": {"eos_token": 5}}, "added tokens as transformers writes them"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "added tokens as transformers writes them"),
        ({"tokenizer_config": {"add_prefix_space": True}}, "add_prefix_space"),
        ({"tokenizer_config": {"eos_token": "<none>"}, "config": {"vocab_size": 257}}, None),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer, contents: dict[str, object], message: str | None
) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    write(base, **contents)
    if message is None:  # the new token has no row in the embedding
        (base / "generation_config.json").unlink()
        message = "expected a tokenizer of at most 257 ids|model_type"
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(base)
        return
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(base)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}},
    ],
)
def test_a_tokenizer_that_splits_otherwise_is_refused(
    tmp_path: Path, small: Tokenizer, change: dict[str, object]
) -> None:
    base = save_tiny(tmp_path / "base", small, vocab_size=small.vocab_size + 8)
    with_tokenizer_json(base, small.vocab_size)
    path = base / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match="splits texts as GPT-2's does"):
        read_tokenizer(base)
