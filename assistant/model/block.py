"""A transformer block, and attention over the rows of a batch.

A block computes what goes into attention and what follows it. Who calls it brings the attention: over rows of one
length, over packed rows, or over the cache that decoding has. So training and decoding run the same block.

Shapes: N tokens of all rows, B rows, T tokens, K chosen tokens, C width, H heads, G heads of keys and values, D head
size, S keys.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from assistant.model import fused
from assistant.model.config import Heads
from assistant.model.packing import PackedBatch, PrefixTree

MOST_SCORES = 2_000_000
"""On a processor, a layer with at most this many attention scores computes them explicitly. That is faster for short
rows, above all in the backward pass, and needs little memory."""

Attend = Callable[[Tensor], Tensor]
"""Attention of a layer: queries, keys and values (N, (H + 2 * G) * D) -> (N, H * D)."""


class Block(nn.Module, ABC):
    """One layer of a model."""

    uses_loops = True
    """Whether to use the compiled loops of `fused` where they can compute a tensor."""

    @abstractmethod
    def attention_inputs(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (N, C) at positions (N,) int64 -> queries, keys and values (N, (H + 2 * G) * D) of usual attention."""

    @abstractmethod
    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """x (N, C), and what attention gave (N, H * D) -> (N, C)."""

    def add(self, x: Tensor, update: Tensor) -> Tensor:
        """The residual stream x (N, C) and a layer's update (N, C) together -> (N, C)."""
        return fused.add(x, update) if self.uses_loops else x + update

    def forward(self, x: Tensor, positions: Tensor, attend: Attend, at: Tensor | None = None) -> Tensor:
        """x (N, C) -> (N, C), or (K, C) at the tokens `at`: after attention, other tokens no longer matter."""
        attended = attend(self.attention_inputs(x, positions))
        if at is not None:
            x, attended = x[at], attended[at]
        return self.after_attention(x, attended)


def attend_rows(qkv: Tensor, n_rows: int, heads: Heads) -> Tensor:
    """Causal attention over B rows of one length: qkv (B * T, ...) -> (B * T, H * D)."""
    queries, keys, values = _of_rows(qkv, n_rows, heads)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=heads.n_kv_head < heads.n_head
    )
    return attended.transpose(1, 2).reshape(len(qkv), -1)


def attend_packed(qkv: Tensor, batch: PackedBatch, heads: Heads) -> Tensor:
    """Causal attention over the rows of a packed batch: qkv (N, ...) -> (N, H * D)."""
    rows, width = batch.rows, heads.n_head * heads.size
    if isinstance(rows, PrefixTree):
        return fused.attend(qkv, rows.paths, rows.spans, heads.n_head, heads.n_kv_head)
    prefix_qkv, own_qkv = qkv.split([rows.n_shared, len(qkv) - rows.n_shared])  # type: ignore[no-untyped-call]
    own = _of_rows(own_qkv, rows.n_rows, heads)
    if rows.mask is None:
        return _attention(*own, None).transpose(1, 2).reshape(-1, width)
    prefix = _of_rows(prefix_qkv, 1, heads)
    keys, values = (
        torch.cat([shared.expand(rows.n_rows, -1, -1, -1), rest], dim=2)
        for shared, rest in zip(prefix[1:], own[1:], strict=True)
    )
    attended = _attention(own[0], keys, values, rows.mask)
    prefix_attended = _attention(*prefix, rows.mask.new_ones(rows.n_shared, rows.n_shared).tril())
    return torch.cat([part.transpose(1, 2).reshape(-1, width) for part in (prefix_attended, attended)])


def _of_rows(qkv: Tensor, n_rows: int, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (B * T, ...) -> queries (B, H, T, D), keys and values (B, G, T, D)."""
    parts = [heads.n_head, heads.n_kv_head, heads.n_kv_head]
    by_head = qkv.view(n_rows, -1, sum(parts), heads.size)
    queries, keys, values = by_head.split(parts, dim=2)  # type: ignore[no-untyped-call]
    return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """queries (B, H, T, D), keys and values (B, G, S, D), mask (T, S) bool -> (B, H, T, D). No mask means causal."""
    is_grouped = keys.shape[1] < queries.shape[1]
    if queries.device.type != "cpu":
        # Not cuDNN's attention: it plans every new batch shape, which takes a hundred times as long as computing it.
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=is_grouped
            )
    if mask is None or is_grouped or queries.shape[:3].numel() * keys.shape[2] > MOST_SCORES:
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=is_grouped
        )
    flat_queries, flat_keys, flat_values = (part.flatten(end_dim=1) for part in (queries, keys, values))
    bias = torch.where(mask, 0.0, -math.inf).to(queries.dtype)
    scores = torch.baddbmm(bias, flat_queries, flat_keys.transpose(1, 2), alpha=1 / math.sqrt(queries.shape[3]))
    # Upcast: torch's bfloat16 softmax takes up to four times as long unless S is a multiple of 32.
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
    return torch.bmm(weights, flat_values).view(queries.shape)
