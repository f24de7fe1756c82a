"""Small tokenizers that have the markers of our templates."""

from __future__ import annotations

import json
from dataclasses import replace

from assistant.dataset.prompts import TEMPLATES
from assistant.dataset.tokenizer import MERGES_FILE, VOCAB_FILE, Tokenizer, build_tokenizer

MARKERS = tuple(dict.fromkeys(marker for template in TEMPLATES.values() for marker in template.markers))
_BUILT: dict[tuple[int, str | None], Tokenizer] = {}


def with_markers(tokenizer: Tokenizer, *, first_token: str | None = None) -> Tokenizer:
    """Return the tokenizer with all markers added. `first_token` is put before every text."""
    key = (id(tokenizer), first_token)
    if key not in _BUILT:
        files = tokenizer.files()
        vocab = json.loads(files[VOCAB_FILE])
        vocab |= {marker: len(vocab) + index for index, marker in enumerate(MARKERS)}
        built = build_tokenizer(json.dumps(vocab), files[MERGES_FILE], where="marked")
        _BUILT[key] = replace(built, bos_id=None if first_token is None else vocab[first_token])
    return _BUILT[key]
