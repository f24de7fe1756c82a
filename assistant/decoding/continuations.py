"""How likely a model holds given texts after prompts that are in a cache already.

Knows token ids only. The cache is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from assistant.decoding.decoder import Cache, Decoder, PromptChunk

CHUNK_TOKENS = 128
"""Maximum tokens of one forward pass. Each has logits of the whole vocabulary."""


def score_continuations(
    decoder: Decoder, cache: Cache, first_row: int, logits: Tensor, continuations: Sequence[Sequence[int]]
) -> list[float]:
    """Return the log-probability (nats) of each continuation, which has at least one token id.

    The prompts stand in the cache from `first_row` on, and `logits` (B, V) follow them. The cache must have room for
    all tokens of a continuation but its last.
    """
    lengths = list(cache.lengths)
    first_ids = torch.tensor([ids[0] for ids in continuations], device=logits.device)
    sums = _log_probabilities(logits, first_ids).tolist()
    for pieces in _pieces(continuations):
        chunks = [PromptChunk(first_row + row, continuations[row][start:end]) for row, start, end in pieces]
        targets = [id_ for row, start, end in pieces for id_ in continuations[row][start + 1 : end + 1]]
        found = decoder.prefill(chunks, cache, [True] * len(chunks), all_positions=True)
        values = _log_probabilities(found, torch.tensor(targets, device=found.device))
        place = 0
        for row, start, end in pieces:
            sums[row] += values[place : place + end - start].sum().item()
            place += end - start
    cache.lengths[:] = lengths
    return sums


def _pieces(continuations: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield lists of (row, start, end) that together have at most `CHUNK_TOKENS` tokens, each row once in a list."""
    pieces: list[tuple[int, int, int]] = []
    room = CHUNK_TOKENS
    for row, ids in enumerate(continuations):
        start, last = 0, len(ids) - 1
        while start < last:
            end = min(last, start + room)
            pieces.append((row, start, end))
            room -= end - start
            start = end
            if room == 0 or start < last:
                yield pieces
                pieces, room = [], CHUNK_TOKENS
    if pieces:
        yield pieces


def _log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities (N,) float64 of ids (N,) under logits (N, V)."""
    logits = logits.float()
    chosen = logits.gather(1, ids[:, None])[:, 0]
    return (chosen - logits.logsumexp(dim=1)).double()
