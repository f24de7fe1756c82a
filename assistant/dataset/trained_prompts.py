"""The prompts that a model was trained on, as hashes in its folder: what a test row must not be among.

The file holds the first 8 bytes of the SHA-256 of every prompt, sorted. Prompts are equal as in `splits.prompt_key`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from assistant.dataset.examples import Example
from assistant.dataset.splits import prompt_key

PROMPTS_FILE = "trained_prompts.bin"
HASH_BYTES = 8

PromptHashes = frozenset[bytes]


def prompt_hash(example: Example) -> bytes:
    """Return the hash of an example's prompt."""
    return hashlib.sha256(json.dumps(prompt_key(example)).encode()).digest()[:HASH_BYTES]


def prompt_hashes(examples: Iterable[Example]) -> PromptHashes:
    """Return the hashes of the examples' prompts."""
    return frozenset(map(prompt_hash, examples))


def dump_hashes(hashes: PromptHashes) -> bytes:
    """Return the contents of the file."""
    return b"".join(sorted(hashes))


def read_hashes(folder: Path) -> PromptHashes | None:
    """Read the file of a model folder. None if there is none, as in base models and old folders, or if it is cut."""
    try:
        data = (folder / PROMPTS_FILE).read_bytes()
    except OSError:
        return None
    if len(data) % HASH_BYTES:
        return None
    return frozenset(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))
