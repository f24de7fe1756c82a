"""The tokenizer of a GGUF file as the files of a model folder.

GGUF keeps tokens, merges and the name of a split. What the name means is in llama.cpp's sources (llama-vocab.cpp).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from assistant.errors import CheckpointError

_LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN = _LLAMA.replace("{1,3}", "")
_BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_STEPS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    **{
        name: [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}]
        + [_BYTES | {"use_regex": False}]
        for name, regex in (("llama-bpe", _LLAMA), ("qwen2", _QWEN))
    },
}
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5
"""GGUF's types of tokens."""


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the contents of `tokenizer.json` and `tokenizer_config.json` by name. `metadata` has GGUF's names.

    Raises:
        CheckpointError: the split is not known here, or something is missing.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in _STEPS:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE (gpt2) split as {', '.join(_STEPS)}, got {str(kind)[:40]} split as "
            f"{str(split)[:40]}. Use a model of one of these families."
        )
    try:
        tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
        types = metadata["tokenizer.ggml.token_type"]
        ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMED.items()}
        named = {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}
        has_bos = metadata.get("tokenizer.ggml.add_bos_token", split == "llama-bpe")
        bos = {"id": named["bos_token"], "ids": [ids["bos_token"]], "tokens": [named["bos_token"]]} if has_bos else None
        vocab = {
            token: number for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected tokens, their types and merges, got {error!r}. Is the file complete?"
        ) from error
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": types[number] != _USER_DEFINED}
            for token, number in vocab.items()
            if types[number] in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _STEPS[split]},
        "post_processor": _post_processor(bos),
        "decoder": _BYTES,
        "model": {"type": "BPE", "ignore_merges": split == "llama-bpe", "vocab": vocab, "merges": merges},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    return {TOKENIZER_FILE: json.dumps(content, ensure_ascii=False), TOKENIZER_CONFIG_FILE: json.dumps(config)}


def _post_processor(bos: dict[str, Any] | None) -> dict[str, Any] | None:
    if bos is None:
        return None
    start = {"SpecialToken": {"id": bos["id"], "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    single = [start, text]
    special_tokens = {bos["id"]: bos}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, start, second],
        "special_tokens": special_tokens,
    }
