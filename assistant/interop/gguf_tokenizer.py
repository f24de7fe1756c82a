"""The tokenizer of a GGUF file as the files of a model folder. GGUF has tokens, merges and the name of a split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from assistant.dataset.tokenizer_json import BYTE_LEVEL, PATTERNS, pre_tokenizer
from assistant.errors import CheckpointError

_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_USER_DEFINED, _UNUSED, _ADDED = 4, 5, (2, 3, 4)
"""GGUF's types of tokens. Those that merges do not make are unknown, control and user-defined."""


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the contents of `tokenizer.json` and `tokenizer_config.json` by name, from GGUF's values by key.

    Raises:
        CheckpointError: the split is not known here, or something is missing.
    """
    kind, split = (str(metadata.get(f"tokenizer.ggml.{key}"))[:40] for key in ("model", "pre"))
    if kind != "gpt2" or split not in PATTERNS:
        raise CheckpointError(
            f"{where}: expected a byte-level BPE (gpt2) that is split as {', '.join(PATTERNS)}, got {kind!r} that is "
            f"split as {split!r}. Use a model of one of these families."
        )
    try:
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        merges = metadata.get("tokenizer.ggml.merges") or []  # GGUF has no empty list
        ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _NAMED.items()}
        named = {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}
        vocab = {token: n for n, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED}
        bos = [named["bos_token"]] if metadata.get("tokenizer.ggml.add_bos_token", split == "llama-bpe") else []
        special_tokens = {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in bos}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected tokens and their types, got {error!r}. Is the file complete?"
        ) from error
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": n, "content": token, **flags} for token, n in vocab.items() if types[n] in _ADDED]
    start = [{"SpecialToken": {"id": token, "type_id": 0}} for token in bos]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    content = {
        "version": "1.0",
        "added_tokens": [token | {"special": types[vocab[token["content"]]] != _USER_DEFINED} for token in added],
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizer(split)},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*start, first],
            "pair": [*start, first, *start, second],
            "special_tokens": special_tokens,
        },
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "ignore_merges": split == "llama-bpe", "vocab": vocab, "merges": merges},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    if isinstance(chat_template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = chat_template
    return {TOKENIZER_FILE: json.dumps(content, ensure_ascii=False), TOKENIZER_CONFIG_FILE: json.dumps(config)}
