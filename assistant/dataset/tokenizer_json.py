"""What `tokenizer.json` says besides its vocabulary: how a text is normalized and split, and what comes before it.

The file is the `tokenizers` library's. Its steps become one pattern that tiktoken runs; others are refused by name.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant.errors import CheckpointError

# GPT-2's pattern with possessive quantifiers, as in tiktoken (tiktoken_ext/openai_public.py).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
# The same after every digit has become a piece. A space before a digit is the end of the text before it.
DIGITS_PATTERN = PATTERN.replace(r" ?\p{N}++", r"\p{N}").replace(r"\s++$", r"\s++$|\s+(?=\p{N})")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What happens to a text before the merges. The default is GPT-2's."""

    pattern: str = PATTERN
    """Splits a text into pieces. Each is merged by itself."""
    forms: tuple[Any, ...] = ()
    """Unicode's normal forms, such as NFC, in the order in which a text takes them."""
    ignore_merges: bool = False
    """A piece that is a token needs no merges that lead to it."""
    unk_token: str | None = None
    """The token for a byte that the vocabulary lacks. Without it, such a byte is dropped."""
    fuse_unk: bool = False
    """Several such bytes in a row share one `unk_token`."""
    bos_id: int | None = None

    def normalize(self, text: str) -> str:
        """Return a text in the normal form that the merges expect."""
        for form in self.forms:
            text = unicodedata.normalize(form, text)
        return text


GPT2_PIPELINE = Pipeline()


def read_pipeline(content: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Pipeline:
    """Read the steps from the contents of `tokenizer.json` and `tokenizer_config.json`; both may be empty.

    Raises:
        CheckpointError: tiktoken cannot run a step as the library does.
    """
    try:
        model = content.get("model", {})
        steps = _flat(content.get("pre_tokenizer"), "pretokenizers")
        if config.get("add_prefix_space") or any(step.get("add_prefix_space") for step in steps):
            raise ValueError("add_prefix_space, which puts a space before every text")
        forms = _flat(content.get("normalizer"), "normalizers")
        if not all(step["type"] in ("NFC", "NFD", "NFKC", "NFKD") for step in forms):
            raise ValueError(f"a normalizer of {_kinds(forms)}")
        return Pipeline(
            pattern=split_pattern(steps),
            forms=tuple(step["type"] for step in forms),
            ignore_merges=bool(model.get("ignore_merges")),
            unk_token=model.get("unk_token"),
            fuse_unk=bool(model.get("fuse_unk")),
            bos_id=_bos_id(_flat(content.get("post_processor"), "processors")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise CheckpointError(
            f"{where}: expected a tokenizer that splits texts as GPT-2's does, or as those of Llama 3, Qwen and "
            f"SmolLM2, got {fault}. Use a model of one of these families."
        ) from None


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


def _kinds(steps: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(str(step["type"])[:40] for step in steps)


def split_pattern(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return one pattern for the steps of a pre-tokenizer. Raises ValueError if tiktoken cannot run them."""
    kinds = [step["type"] for step in steps]
    if (kinds == ["ByteLevel"] and steps[0].get("use_regex", True)) or not kinds:
        return PATTERN
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return DIGITS_PATTERN
    split, regex = steps[0], steps[0].get("pattern", {}).get("Regex")
    keeps_all = split.get("behavior") == "Isolated" and not split.get("invert") and regex is not None
    if kinds == ["Split", "ByteLevel"] and keeps_all and not steps[1].get("use_regex", True):
        # In the library, ^ and $ are the ends of lines, and a text between two matches is a piece. tiktoken drops it.
        return f"(?m:{regex})|(?s:(?!(?m:{regex})).)++"
    raise ValueError(f"a pre_tokenizer of {_kinds(steps)} with {json.dumps(steps)[:200]}")


def _bos_id(steps: Sequence[Mapping[str, Any]]) -> int | None:
    """The id of the token that the post-processor puts before a text."""
    found: list[int] = []
    for step in steps:
        parts = step["single"] if step["type"] == "TemplateProcessing" else []
        if step["type"] != "ByteLevel" and not (0 < len(parts) < 3 and "Sequence" in parts[-1]):
            raise ValueError(f"a post_processor of {step['type']} that does not only put one token before a text")
        found += [step["special_tokens"][part["SpecialToken"]["id"]]["ids"][0] for part in parts[:-1]]
    return found[0] if found else None
