"""From logits to the next tokens: the penalty, the filters, the draw, and what the model thought of its choice.

The order is that of `transformers`: repetition penalty, temperature, top-k, top-p, min-p. Shapes: B rows, V vocab_size,
K candidates of a row. All of it is exact for each row alone: nothing depends on a row's neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.decoding.reply import TokenLogprob, TokenLogprobs
from assistant.settings import GenerationSettings

COLDEST = 1e-4
"""Below this temperature float32 cannot tell sampling from taking the likeliest token."""


@dataclass(kw_only=True, slots=True)
class RowChance:
    """What a row brings to every draw: its own chance, and the ids it has seen, of the prompt and new ones."""

    generator: torch.Generator
    seen: set[int]


def row_chance(seed: int, prompt: Sequence[int]) -> RowChance:
    """The start of a row: the same seed and prompt give the same draws in any company, other prompts independent
    ones."""
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return RowChance(generator=generator, seen=set(prompt))


def copied(chance: RowChance) -> RowChance:
    """The same chance once more: it will draw what the other one will."""
    generator = torch.Generator()
    generator.set_state(chance.generator.get_state())
    return RowChance(generator=generator, seen=set(chance.seen))


def sample(logits: Tensor, settings: GenerationSettings, rows: Sequence[RowChance]) -> list[int]:
    """The next id of every row from logits (B, V) float32 on the CPU, which stay as they are.

    Greedy below COLDEST: the likeliest token, the smallest id of equal ones. Adds each id to its row's `seen`.
    """
    if settings.repetition_penalty != 1:
        logits = penalise(logits, settings.repetition_penalty, rows)
    if settings.temperature < COLDEST:
        chosen: list[int] = logits.argmax(dim=-1).tolist()
    else:
        weights, ids = candidates(logits, settings)
        chosen = _draw(weights, ids, rows)
    for row, token_id in zip(rows, chosen, strict=True):
        row.seen.add(token_id)
    return chosen


def penalise(logits: Tensor, penalty: float, rows: Sequence[RowChance]) -> Tensor:
    """A copy of logits (B, V) in which those of seen tokens are divided by the penalty, or multiplied if negative.

    The rule of CTRL (Keskar et al. 2019) in the form that `transformers` gave it; how often a token was seen does not
    matter.
    """
    logits = logits.clone()
    for line, row in enumerate(rows):
        ids = torch.tensor(list(row.seen))
        scores = logits[line, ids]
        logits[line, ids] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits


def candidates(logits: Tensor, settings: GenerationSettings) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn from logits (B, V): weights (B, K) float64 and ids (B, K) int64.

    Weights are probabilities times an unknown factor, the largest 1; those with weight 0 only fill up. Tokens as likely
    as the k-th are all kept by top-k; of equal ones at the border of top-p the smallest ids are.
    """
    if settings.top_k is not None and settings.top_k < logits.shape[-1]:
        logits, ids = _top_k(logits, settings.top_k)
    else:
        ids = torch.arange(logits.shape[-1]).expand_as(logits)
    scaled = logits.double() / settings.temperature
    weights = (scaled - scaled.amax(dim=-1, keepdim=True)).exp()
    if settings.top_p is not None and settings.top_p < 1:
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
        sums = weights.cumsum(dim=-1)
        # A token stays if those before it have not reached p yet, so the first always stays.
        weights = weights.masked_fill(sums - weights >= settings.top_p * sums[:, -1:], 0.0)
    if settings.min_p is not None:
        weights = weights.masked_fill(weights < settings.min_p, 0.0)
    return weights, ids


def _top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and ids (B, K), ids rising: the k largest and all that equal the k-th; -inf fills up."""
    values, ids = logits.topk(k, dim=-1)
    border = values[:, -1:]
    widest = int((logits >= border).sum(dim=-1).max())
    if widest > k:  # torch says nothing about which of equal ones topk takes, so all are taken
        ids = logits.topk(widest, dim=-1).indices
    ids = ids.sort(dim=-1).values
    values = logits.gather(-1, ids)
    return values.masked_fill(values < border, float("-inf")), ids


def _draw(weights: Tensor, ids: Tensor, rows: Sequence[RowChance]) -> list[int]:
    """One id a row. A row uses up one random number a token, however many candidates its neighbours make it carry."""
    sums = weights.cumsum(dim=-1)
    numbers = torch.stack([torch.rand(1, dtype=torch.float64, generator=row.generator) for row in rows])
    # Numbers are below 1 and sums at least 1, so a product never rounds up to the last sum, and weight 0 is never hit.
    places = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)
    chosen: list[int] = ids.gather(-1, places)[:, 0].tolist()
    return chosen


def logprobs_of(logits: Tensor, chosen: Sequence[int], count: int) -> list[TokenLogprobs]:
    """The log-probability (nats) of every row's chosen id, and of the `count` likeliest ids, from logits (B, V).

    Under the model's own distribution: temperature 1, without penalty and filters.
    """
    logprobs = logits.log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(chosen)[:, None])[:, 0].tolist()
    top = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    return [
        TokenLogprobs(
            token_id=token_id,
            logprob=logprob,
            likeliest=tuple(
                TokenLogprob(token_id=other, logprob=value) for other, value in zip(ids, values, strict=True)
            ),
        )
        for token_id, logprob, ids, values in zip(chosen, own, top.indices.tolist(), top.values.tolist(), strict=True)
    ]
