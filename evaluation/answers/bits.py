"""Reference bits per byte: how likely a model holds the reference of a row. It needs no judge.

The bits are those of all tokens of the reference and of EOS, after the prompt; the bytes are the reference's in UTF-8.
So models with other vocabularies compare, too.
"""

from __future__ import annotations

import math


def bits_per_byte(logprob: float, reference: str) -> float | None:
    """Return the bits per byte from the log-probability (nats) of a reference and EOS. None without a reference."""
    n_bytes = len(reference.encode())
    if n_bytes == 0 or not math.isfinite(logprob):
        return None
    return round(-logprob / math.log(2) / n_bytes, 6)
