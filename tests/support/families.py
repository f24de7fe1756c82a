"""Small tokenizers of each family, trained on the spot by the `tokenizers` library, and texts hard to split."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from assistant.dataset.tokenizer_json import pre_tokenizer
from tests.conftest import REPOSITORY

FAMILIES = ("gpt-2", "smollm", "llama-bpe", "qwen2")
BOS, EOS, START, END = SPECIALS = ("<|begin_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
LETTERS = ["the", "Hello", " world", "Write", "def f(x):", "日本語", "über", "Привет", "مرحبا", "🐈\u200d⬛"]
POOLS: list[list[str]] = [
    [chr(code) for code in range(32, 127)],
    list(" \t\n\r\x0b\x0c\x85\xa0\u2003\u3000\u200b\ufeff\x1c\x1f"),
    ["\r\n", "\n\n", "  ", "   \n"],
    list("0123456789٣४５²½Ⅷ"),
    ["'s", "'S", "'LL", "'re", "'ſ", "'K", "\u2019s"],
    ["e\u0301", "\u0301", "\u0300", "a\u030a", "ﬁ", "Å", "\u1100\u1161\u11a8", "가", "\u0344"],
    [*SPECIALS, "<|im_end|", "user\n"],
    LETTERS,
    [chr(code) for code in range(32)],
]


@cache
def instruction_texts() -> tuple[str, ...]:
    """All texts of the shipped instructions."""
    rows = json.loads((REPOSITORY / "data" / "instructions.json").read_text(encoding="utf-8"))
    return tuple(text for row in rows for text in (row["instruction"], row.get("input", ""), row["output"]) if text)


def odd_texts(count: int, seed: int = 1) -> Iterator[str]:
    """Texts of all planes, marks without letters, digits, white space and spelled special tokens.

    Characters younger than Unicode 3.2 are left out, except where nothing has been assigned: the `tokenizers` library
    itself holds tables of several versions.
    """
    chance = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(chance.randrange(1, 30)):
            kind = chance.random()
            if kind < 0.2:
                parts.append(_any_character(chance, 0x110000 if kind < 0.12 else 0x3000))
            else:
                parts.append(chance.choice(chance.choice(POOLS)))
        yield "".join(parts)


def _any_character(chance: random.Random, limit: int) -> str:
    while True:
        character = chr(chance.randrange(0x80, limit))
        is_old = unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs")
        if is_old or "\U00040000" <= character < "\U000e0000" or character >= "\U000f0000":
            return character


def train(family: str, *, vocab_size: int = 1500, has_all_bytes: bool = True, n_texts: int = 3000) -> Any:
    """Train a `tokenizers.Tokenizer` with the steps of a family's `tokenizer.json`."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    bos = {"id": BOS, "ids": [vocab_size], "tokens": [BOS]}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BOS: bos},
    }
    spell = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    content = json.loads(Tokenizer(BPE(ignore_merges=family == "llama-bpe")).to_str()) | {
        "normalizer": {"type": "NFC"} if family == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizer(family)},
        "post_processor": {"type": "Sequence", "processors": [spell, template]} if family == "llama-bpe" else None,
        "decoder": spell,
    }
    tokenizer = Tokenizer.from_str(json.dumps(content))
    alphabet = ByteLevel.alphabet() if has_all_bytes else []
    trainer = BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    texts = instruction_texts()
    extra = [" ".join(LETTERS) + " 1234567 're 'LL e\u0301 \r\n\r\n  x"] * 20
    tokenizer.train_from_iterator([*texts[:: max(len(texts) // n_texts, 1)], *extra], trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    tokenizer.encode_special_tokens = True
    return tokenizer
