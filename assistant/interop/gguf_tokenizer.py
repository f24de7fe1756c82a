"""The tokenizer of a GGUF file as the files of a model folder.

GGUF has tokens, merges and the name of a split. llama.cpp's sources say what a name means (llama-vocab.cpp).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from assistant.dataset.tokenizer_json import Pipeline, split_pattern
from assistant.errors import CheckpointError

_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA}, "behavior": "Isolated", "invert": False},
        _BYTES | {"use_regex": False},
    ],
}
_SPLITS["qwen2"] = [
    _SPLITS["llama-bpe"][0] | {"pattern": {"Regex": _LLAMA.replace("{1,3}", "")}},
    _SPLITS["llama-bpe"][1],
]
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_USER_DEFINED, _UNUSED, _ADDED = 4, 5, (2, 3, 4)
"""GGUF's types of tokens. Those that merges do not make are unknown, control and user-defined."""


def split_name(pipeline: Pipeline) -> str | None:
    """Return GGUF's name for how a tokenizer splits texts, or None if it has none here."""
    return next((name for name, steps in _SPLITS.items() if split_pattern(steps) == pipeline.pattern), None)


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the contents of `tokenizer.json` and `tokenizer_config.json` by name, from GGUF's values by key.

    Raises:
        CheckpointError: the split is not known here, or something is missing.
    """
    kind, split = (str(metadata.get(f"tokenizer.ggml.{key}"))[:40] for key in ("model", "pre"))
    if kind != "gpt2" or split not in _SPLITS:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE (gpt2) that is split as {', '.join(_SPLITS)}, got {kind!r} that is "
            f"split as {split!r}. Use a model of one of these families."
        )
    try:
        tokens, merges, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type"))
        ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMED.items()}
        named = {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}
        vocab = {token: n for n, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED}
        bos = named["bos_token"] if metadata.get("tokenizer.ggml.add_bos_token", split == "llama-bpe") else None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected tokens, their types and merges, got {error!r}. Is the file complete?"
        ) from error
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": n, "content": token, **flags} for token, n in vocab.items() if types[n] in _ADDED]
    start = [] if bos is None else [{"SpecialToken": {"id": bos, "type_id": 0}}]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    content = {
        "version": "1.0",
        "added_tokens": [token | {"special": types[vocab[token["content"]]] != _USER_DEFINED} for token in added],
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITS[split]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*start, first],
            "pair": [*start, first, *start, second],
            "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}} if bos else {},
        },
        "decoder": _BYTES,
        "model": {"type": "BPE", "ignore_merges": split == "llama-bpe", "vocab": vocab, "merges": merges},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    return {TOKENIZER_FILE: json.dumps(content, ensure_ascii=False), TOKENIZER_CONFIG_FILE: json.dumps(config)}
