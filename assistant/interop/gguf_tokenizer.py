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
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
"""GGUF's types of tokens."""
