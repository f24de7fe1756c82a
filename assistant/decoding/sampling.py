"""From logits to the next token ids: repetition penalty, filters, the draw, and log-probabilities.

The order is that of `transformers`: repetition penalty, temperature, top-k, top-p, min-p. Each row is exact by itself:
its result does not depend on the other rows. This module knows nothing about models, caches or text.

Shapes: B rows, V vocab_size, K candidates of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.decoding.reply import TokenLogprob, TokenLogprobs
from assistant.settings import GenerationSettings

GREEDY_BELOW = 1e-4
"""Decode greedily below this temperature, where float32 cannot tell sampling from taking the likeliest token."""


@dataclass(kw_only=True, slots=True)
class RowState:
    """What sampling keeps for one row: its random generator, and the ids of its prompt and its new tokens."""

    generator: torch.Generator
    seen_ids: set[int]

    def copy(self) -> RowState:
        """Return a copy that makes the same draws as this state will."""
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        return RowState(generator=generator, seen_ids=set(self.seen_ids))


def new_row_state(seed: int, prompt: Sequence[int]) -> RowState:
    """Return the state before the first draw.

    The same seed and prompt always give the same draws, in any batch; other prompts give independent draws.
    """
    digest = hashlib.sha256(f"{seed} {list(prompt)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return RowState(generator=generator, seen_ids=set(prompt))


def sample(logits: Tensor, settings: GenerationSettings, rows: Sequence[RowState]) -> list[int]:
    """Return the next id of every row; logits (B, V) float32 on the CPU do not change.

    Below `GREEDY_BELOW` the likeliest token is taken, and the smallest id of equal ones. Each id is added to its row's
    `seen_ids`.
    """
    if settings.repetition_penalty != 1:
        logits = penalise_repetition(logits, settings.repetition_penalty, rows)
    if settings.temperature < GREEDY_BELOW:
        next_ids: list[int] = logits.argmax(dim=-1).tolist()
    else:
        weights, ids = candidates(logits, settings)
        next_ids = _draw(weights, ids, rows)
    for row, token_id in zip(rows, next_ids, strict=True):
        row.seen_ids.add(token_id)
    return next_ids


def force(token_id: int, settings: GenerationSettings, row: RowState) -> None:
    """Take a given id as a row's next one. The row uses the random number of this place as if the id had been drawn."""
    if settings.temperature >= GREEDY_BELOW:
        _draw_number(row)
    row.seen_ids.add(token_id)


def penalise_repetition(logits: Tensor, penalty: float, rows: Sequence[RowState]) -> Tensor:
    """Return a copy of logits (B, V) with those of seen ids divided by the penalty, or multiplied if negative.

    This is the rule of CTRL (Keskar et al. 2019) as `transformers` implements it. How often an id was seen does not
    matter.
    """
    logits = logits.clone()
    for row_logits, row in zip(logits, rows, strict=True):
        seen_ids = torch.tensor(list(row.seen_ids))
        seen_logits = row_logits[seen_ids]
        row_logits[seen_ids] = torch.where(seen_logits < 0, seen_logits * penalty, seen_logits / penalty)
    return logits


def candidates(logits: Tensor, settings: GenerationSettings) -> tuple[Tensor, Tensor]:
    """Return the tokens that may be drawn from logits (B, V): weights (B, K) float64 and ids (B, K) int64.

    Weights are unnormalized probabilities; the largest weight of a row is 1, and weight 0 is padding. Top-k keeps all
    tokens that are as likely as the k-th. Of equally likely tokens at the border of top-p, the smallest ids stay.
    """
    if settings.top_k is not None and settings.top_k < logits.shape[-1]:
        logits, ids = top_k(logits, settings.top_k)
    else:
        ids = torch.arange(logits.shape[-1]).expand_as(logits)
    scaled = logits.double() / settings.temperature
    weights = (scaled - scaled.amax(dim=-1, keepdim=True)).exp()
    if settings.top_p is not None and settings.top_p < 1:
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
        sums = weights.cumsum(dim=-1)
        # A token stays if the tokens before it have not reached p yet, so the first token always stays.
        weights = weights.masked_fill(sums - weights >= settings.top_p * sums[:, -1:], 0.0)
    if settings.min_p is not None:
        weights = weights.masked_fill(weights < settings.min_p, 0.0)
    return weights, ids


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest logits and all equal to the k-th: logits (B, K) padded with -inf, and rising ids (B, K)."""
    values, ids = logits.topk(k, dim=-1)
    kth_largest = values[:, -1:]
    n_candidates = int((logits >= kth_largest).sum(dim=-1).max())
    if n_candidates > k:  # torch does not define which of several equal values topk returns, so take them all
        ids = logits.topk(n_candidates, dim=-1).indices
    ids = ids.sort(dim=-1).values
    values = logits.gather(-1, ids)
    return values.masked_fill(values < kth_largest, float("-inf")), ids


def _draw(weights: Tensor, ids: Tensor, rows: Sequence[RowState]) -> list[int]:
    """Draw one id per row. A row uses one random number per token, no matter how many candidates there are."""
    sums = weights.cumsum(dim=-1)
    numbers = torch.stack([_draw_number(row) for row in rows])
    # Numbers are below 1 and sums at least 1, so a product never rounds up to the last sum: weight 0 is never drawn.
    columns = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)
    drawn_ids: list[int] = ids.gather(-1, columns)[:, 0].tolist()
    return drawn_ids


def _draw_number(row: RowState) -> Tensor:
    return torch.rand(1, dtype=torch.float64, generator=row.generator)


def token_logprobs(logits: Tensor, token_ids: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Return the log-probabilities (nats) of each row's token and of the `count` likeliest ones, from logits (B, V).

    They are the model's own: temperature 1, no penalty, no filters.
    """
    logprobs = logits.log_softmax(dim=-1)
    token_values = logprobs.gather(-1, torch.tensor(token_ids)[:, None])[:, 0].tolist()
    top = logprobs.topk(min(count, logits.shape[-1]), dim=-1)
    return [
        TokenLogprobs(
            token_id=token_id,
            logprob=logprob,
            likeliest=tuple(
                TokenLogprob(token_id=top_id, logprob=value) for top_id, value in zip(top_ids, values, strict=True)
            ),
        )
        for token_id, logprob, top_ids, values in zip(
            token_ids, token_values, top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]
