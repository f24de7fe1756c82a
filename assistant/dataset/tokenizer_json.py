"""What `tokenizer.json` says besides its vocabulary: how a text is normalized and split, and what comes before it.

The file is the `tokenizers` library's. Its steps become one pattern that tiktoken runs. What tiktoken cannot run as the
library does is refused by name.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from assistant.errors import CheckpointError

# GPT-2's pattern with possessive quantifiers, as in tiktoken (tiktoken_ext/openai_public.py).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_DIGITS_APART = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})|\s+(?!\S)|\s"""
_NUMBERS_APART = _DIGITS_APART.replace(r"|\p{N}|", r"|\p{N}++|")

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What happens to a text before the merges. The default is GPT-2's."""

    pattern: str = PATTERN
    """Splits a text into the pieces that are merged by themselves."""
    forms: tuple[NormalForm, ...] = ()
    """Unicode's normal forms, in the order in which a text takes them."""
    ignore_merges: bool = False
    """A piece that is a token needs no merges that lead to it."""
    unk_token: str | None = None
    """The token for a byte that the vocabulary lacks. Without it, such a byte has no token."""
    fuse_unk: bool = False
    """One `unk_token` for several such bytes in a row."""
    bos_id: int | None = None

    @property
    def cuts_before_line_break(self) -> bool:
        """Whether a line break never shares a piece with a printable ASCII character before it."""
        return self.pattern in (PATTERN, _DIGITS_APART, _NUMBERS_APART)

    def normalize(self, text: str) -> str:
        """Return a text in the normal form that the merges expect."""
        for form in self.forms:
            text = unicodedata.normalize(form, text)
        return text


GPT2_PIPELINE = Pipeline()


def read_pipeline(content: Mapping[str, Any], config: Mapping[str, Any], where: str) -> Pipeline:
    """Read the steps from the contents of `tokenizer.json` and `tokenizer_config.json`; both may be empty.

    Raises:
        CheckpointError: a step is another than those of GPT-2, Llama 3, Qwen and SmolLM2.
    """
    try:
        model = content.get("model", {})
        steps = _flat(content.get("pre_tokenizer"), "pretokenizers")
        if config.get("add_prefix_space") or any(step.get("add_prefix_space") for step in steps):
            raise _Unsupported("add_prefix_space, which puts a space before every text")
        return Pipeline(
            pattern=_pattern(steps),
            forms=_forms(_flat(content.get("normalizer"), "normalizers")),
            ignore_merges=bool(model.get("ignore_merges")),
            unk_token=model.get("unk_token"),
            fuse_unk=bool(model.get("fuse_unk")),
            bos_id=_bos_id(_flat(content.get("post_processor"), "processors")),
        )
    except _Unsupported as fault:
        raise CheckpointError(
            f"{where}: expected a tokenizer that splits texts as GPT-2's does, or as those of Llama 3, Qwen and "
            f"SmolLM2, got {fault}. Use a model of one of these families."
        ) from None


def split_tokenizer_json(text: str, where: str) -> tuple[str, str]:
    """Convert `tokenizer.json` to the contents of `vocab.json` and `merges.txt`.

    Raises:
        CheckpointError: the file is damaged, or it is not a byte-level BPE.
    """
    try:
        tokenizer = json.loads(text)
        model = tokenizer["model"]
        if model.get("type", "BPE") != "BPE":
            raise ValueError(str(model["type"])[:40])
        if fault := next((name for name in _OTHER_BPE if model.get(name)), None):
            raise ValueError(f"BPE with {fault}")
        vocab = dict(model["vocab"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab |= {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE of the tokenizers library, got {error!r}. Use another model."
        ) from error
    return json.dumps(vocab, ensure_ascii=False), "\n".join(["#version: 0.2", *merges, ""])


_OTHER_BPE = ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
"""Options of the library's BPE that byte-level vocabularies do not use."""


class _Unsupported(Exception):
    """A step that tiktoken cannot run."""


def _flat(step: Any, key: str) -> list[dict[str, Any]]:
    """A step as the list of its parts: `Sequence` may stand inside `Sequence`."""
    if step is None:
        return []
    if step.get("type") == "Sequence":
        return [part for inner in step[key] for part in _flat(inner, key)]
    return [step]


def _kinds(steps: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(str(step.get("type"))[:40] for step in steps)


def _forms(steps: Sequence[Mapping[str, Any]]) -> tuple[NormalForm, ...]:
    if all(step.get("type") in ("NFC", "NFD", "NFKC", "NFKD") for step in steps):
        return tuple(cast(NormalForm, step["type"]) for step in steps)
    raise _Unsupported(f"a normalizer of {_kinds(steps)}")


def _pattern(steps: Sequence[Mapping[str, Any]]) -> str:
    """One pattern for all steps. After the split, the `ByteLevel` step may split with GPT-2's pattern, too."""
    kinds = [step.get("type") for step in steps]
    has_own_pattern = bool(steps) and kinds[-1] == "ByteLevel" and not steps[-1].get("use_regex", True)
    if kinds in ([], ["ByteLevel"]) and not has_own_pattern:
        return PATTERN
    if kinds == ["Digits", "ByteLevel"] and not has_own_pattern:
        return _DIGITS_APART if steps[0].get("individual_digits") else _NUMBERS_APART
    if kinds == ["Split", "ByteLevel"] and has_own_pattern:
        split = steps[0]
        regex = split.get("pattern", {}).get("Regex")
        if not isinstance(regex, str) or split.get("behavior") != "Isolated" or split.get("invert"):
            raise _Unsupported("a pre_tokenizer of Split that does not keep the matches of a Regex as pieces")
        # The library's lines end at every \n. What the pattern does not match is a piece as well; tiktoken drops it.
        return f"(?m:{regex})|(?s:(?!(?m:{regex})).)++"
    raise _Unsupported(f"a pre_tokenizer of {_kinds(steps)}" + " without use_regex" * (kinds == ["ByteLevel"]))


def _bos_id(steps: Sequence[Mapping[str, Any]]) -> int | None:
    """The id of the token that the post-processor puts before a text."""
    found: list[int] = []
    for step in steps:
        if step.get("type") == "ByteLevel":
            continue
        parts = step.get("single") if step.get("type") == "TemplateProcessing" else None
        if not parts or "Sequence" not in parts[-1] or len(parts) > 2:
            raise _Unsupported(f"a post_processor of {_kinds([step])} that puts other tokens around a text")
        for part in parts[:-1]:
            found += step["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    if len(found) > 1:
        raise _Unsupported("a post_processor that puts several tokens before a text")
    return found[0] if found else None
