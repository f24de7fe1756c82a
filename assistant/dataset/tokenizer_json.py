"""What `tokenizer.json` says besides its vocabulary: how a text is normalized and split, and what comes before it.

The file is the `tokenizers` library's. Its steps become one pattern that tiktoken runs. Only the patterns of known
families are run: tiktoken panics at some others.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant.errors import CheckpointError

# GPT-2's pattern with possessive quantifiers, as in tiktoken (tiktoken_ext/openai_public.py).
_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": _GPT2,
    # GPT-2's after every digit has become a piece. Before a digit, white space ends a text.
    "smollm": _GPT2.replace(r" ?\p{N}++", r"\p{N}").replace(r"\s++$", r"\s++$|\s+(?=\p{N})"),
    "llama-bpe": _LLAMA3,
    "qwen2": _LLAMA3.replace("{1,3}", ""),
}
"""The patterns that split a text, by llama.cpp's names (`tokenizer.ggml.pre`)."""
BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What happens to a text before the merges. The default is GPT-2's."""

    split: str = "gpt-2"
    """A name in `PATTERNS`. Each piece is merged by itself."""
    is_nfc: bool = False
    """A text is brought into Unicode's normal form C."""
    ignore_merges: bool = False
    """A piece that is a token needs no merges that lead to it."""
    unk_token: str | None = None
    bos_id: int | None = None

    @property
    def is_gpt2(self) -> bool:
        """Whether texts are split as GPT-2's."""
        return self.split == "gpt-2"

    def normalize(self, text: str) -> str:
        """Return a text in the normal form that the merges expect."""
        return unicodedata.normalize("NFC", text) if self.is_nfc else text


def read_pipeline(content: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Pipeline:
    """Read the steps from the contents of `tokenizer.json` and `tokenizer_config.json`; both may be empty."""
    try:
        model = content.get("model", {})
        steps = _flat(content.get("pre_tokenizer"), "pretokenizers") or [BYTE_LEVEL]
        steps = [
            {**BYTE_LEVEL, **step, "trim_offsets": True} if step["type"] == "ByteLevel" else step for step in steps
        ]
        split = next((name for name in PATTERNS if steps == pre_tokenizer(name)), None)
        forms = _flat(content.get("normalizer"), "normalizers")
        if config.get("add_prefix_space"):
            raise ValueError("add_prefix_space, which puts a space before every text")
        if split is None:
            raise ValueError(f"the pre_tokenizer {json.dumps(steps)[:200]}")
        if any(step["type"] != "NFC" for step in forms):
            raise ValueError(f"the normalizer {json.dumps(forms)[:200]}")
        return Pipeline(
            split=split,
            is_nfc=bool(forms),
            ignore_merges=bool(model.get("ignore_merges")),
            unk_token=model.get("unk_token"),
            bos_id=_bos_id(_flat(content.get("post_processor"), "processors")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(
            f"{where}: expected a tokenizer that splits texts as GPT-2's does, or as those of Llama 3, Qwen and "
            f"SmolLM2, got {fault}. Use a model of one of these families."
        ) from None


def pre_tokenizer(split: str) -> list[dict[str, Any]]:
    """Return the steps of `tokenizer.json` that split a text by a name in `PATTERNS`."""
    if split in ("gpt-2", "smollm"):
        return [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL][split == "gpt-2" :]
    regex = {"type": "Split", "pattern": {"Regex": PATTERNS[split]}, "behavior": "Isolated", "invert": False}
    return [regex, BYTE_LEVEL | {"use_regex": False}]


def split_tokenizer_json(text: str, where: str) -> tuple[str, str]:
    """Convert `tokenizer.json` to the contents of `vocab.json` and `merges.txt`."""
    try:
        tokenizer = json.loads(text)
        model = tokenizer["model"]
        others = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get("type", "BPE") != "BPE" or any(model.get(name) for name in others):
            raise ValueError(" with ".join([str(model.get("type"))[:40], *filter(model.get, others)]))
        vocab = dict(model["vocab"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE of the tokenizers library, got {error!r}. Use another model."
        ) from error
    return json.dumps(vocab, ensure_ascii=False), "\n".join(["#version: 0.2", *merges, ""])


def _flat(step: Any, key: str) -> list[dict[str, Any]]:
    """A step as the list of its parts."""
    if not step or step["type"] != "Sequence":
        return [step] if step else []
    return [part for inner in step[key] for part in _flat(inner, key)]


def _bos_id(steps: list[dict[str, Any]]) -> int | None:
    """The id of the token that the post-processor puts before a text."""
    found: list[Any] = []
    for step in steps:
        parts = step["single"] if step["type"] == "TemplateProcessing" else []
        if step["type"] != "ByteLevel" and (not parts or "Sequence" not in parts[-1]):
            raise ValueError(f"the post_processor {step['type']}, which puts tokens after a text")
        found += [step["special_tokens"][part["SpecialToken"]["id"]]["ids"] for part in parts[:-1]]
    if found and (len(found) > 1 or [type(token_id) for token_id in found[0]] != [int]):
        raise ValueError(f"a post_processor that puts the ids {found!r} before a text")
    return found[0][0] if found else None
