"""A GPT arranged for decoding: the same arithmetic as `GPT.forward`, over flat lists of tokens and one cache.

Shapes: N tokens of all rows laid behind each other, C n_embd, V vocab_size, R rows of the cache, H heads, D head size,
S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.decoding.kernels import Matrix, keep, matrices
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT, Block
from assistant.model.lora import LoraLinear
from assistant.settings import Storage

CHUNK = 256
"""Most tokens that are read at once: more make no faster products, and need more memory."""


class Cache:
    """Keys and values of R rows, in one piece a layer, allocated once. A row's token at position p lies in slot p."""

    def __init__(self, config: ModelConfig, *, rows: int, slots: int, device: torch.device) -> None:
        shape = (2, rows, config.n_head, slots, config.head_size)
        # Not `empty`: a weight of zero times a NaN that happened to lie in memory would be NaN.
        self.layers = [torch.zeros(shape, device=device) for _ in range(config.n_layer)]
        self.lengths = [0] * rows
        self._views: tuple[int, list[tuple[Tensor, Tensor, Tensor]]] = (0, [])

    def views(self, n_rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of every layer the first rows: both (2, B, H, S, D), keys (B, H, S, D) and values. Made once, used often."""
        if self._views[0] != n_rows:
            parts = [layer[:, :n_rows] for layer in self.layers]
            self._views = n_rows, [(part, part[0], part[1]) for part in parts]
        return self._views[1]

    @property
    def slots(self) -> int:
        """Tokens that a row can hold."""
        return self.layers[0].shape[3]

    def copy_row(self, source: Cache, source_row: int, row: int, length: int) -> None:
        """Take the first `length` tokens of a row of `source` (or of this cache) over into `row`."""
        for ours, theirs in zip(self.layers, source.layers, strict=True):
            ours[:, row, :, :length] = theirs[:, source_row, :, :length]
        self.lengths[row] = length


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that come next in one row of the cache."""

    row: int
    input_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Layer:
    ln_1: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor]
    c_attn: Matrix
    attn_c_proj: Matrix
    c_fc: Matrix
    mlp_c_proj: Matrix


def _linear_of(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight (O, I) and bias of a linear layer, with what LoRA adds to it now."""
    if isinstance(module, LoraLinear):
        return module.merged_weight(), module.base.bias
    assert isinstance(module, nn.Linear)
    return module.weight, module.bias


def _weights_of(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight.detach().clone(), norm.bias.detach().clone()  # copies, as `keep` has it


class Decoder:
    """A model's weights, each with the multiplication that suits it. Weights in float32 are shared, not copied."""

    def __init__(self, model: GPT, *, storage: Storage = "float32", is_chosen: bool = True) -> None:
        """`is_chosen` False takes the plain kernels, which need neither a probe nor a copy of the weights."""
        self.config, self.storage = model.config, storage
        self.device = model.transformer.wte.weight.device
        self._width = model.config.n_embd
        self._shape, self._eps = (self._width,), model.config.layer_norm_epsilon
        self._approximate = "none" if model.config.activation_function == "gelu" else "tanh"

        def all_of(name: str) -> list[Matrix]:
            kept = [keep(*_linear_of(block.get_submodule(name)), storage) for block in blocks]
            return matrices(kept, storage, is_chosen=is_chosen)

        blocks = [block for block in model.transformer.h if isinstance(block, Block)]
        names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        self._layers = [
            _Layer(_weights_of(block.ln_1), _weights_of(block.ln_2), *products)
            for block, *products in zip(blocks, *(all_of(name) for name in names), strict=True)
        ]
        self._ln_f = _weights_of(model.transformer.ln_f)
        head = keep(model.lm_head.weight, None, storage)
        (self._head,) = matrices([head], storage, is_chosen=is_chosen)
        self._wpe = model.transformer.wpe.weight.detach().clone()
        is_tied = model.lm_head.weight is model.transformer.wte.weight
        # One table of the vocabulary is enough where both ends of the model have the same.
        self._wte = head if is_tied else keep(model.transformer.wte.weight, None, storage)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        words = F.embedding(input_ids, self._wte.weight).float()
        if self._wte.scales is not None:
            words = words * self._wte.scales[input_ids][:, None]
        return words + F.embedding(positions, self._wpe)

    def step(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, V) behind the next token, input_ids (B,) int64, of each of the cache's first B rows."""
        n_rows = input_ids.shape[0]
        lengths = cache.lengths[:n_rows]
        end = max(lengths) + 1
        is_even = min(lengths) == end - 1
        positions = torch.tensor(lengths, device=self.device)
        mask = None if is_even else (torch.arange(end, device=self.device) <= positions[:, None])[:, None, None]
        rows = torch.arange(n_rows, device=self.device)
        x = self._embed(input_ids, positions)
        # Every operation here is done once a layer and token, and at one row costs as much as its arithmetic.
        for layer, (stored, keys, values) in zip(self._layers, cache.views(n_rows), strict=True):
            qkv = layer.c_attn(self._norm(x, layer.ln_1)).view(n_rows, 3, self.config.n_head, -1)
            if is_even:
                stored.select(3, end - 1).copy_(qkv.narrow(1, 1, 2).transpose(0, 1))
            else:
                stored[:, rows, :, positions] = qkv[:, 1:].float()
            attended = F.scaled_dot_product_attention(
                qkv.select(1, 0).unsqueeze(2).float(), keys.narrow(2, 0, end), values.narrow(2, 0, end), attn_mask=mask
            )
            x = x + layer.attn_c_proj(attended.reshape(n_rows, self._width))
            x = x + self._mlp(self._norm(x, layer.ln_2), layer)
        for row in range(n_rows):
            cache.lengths[row] += 1
        return self._head(self._norm(x, self._ln_f))

    def read(self, pieces: Sequence[Piece], cache: Cache, wanted: Sequence[bool], *, is_every: bool = False) -> Tensor:
        """Store what comes next in some rows; logits (K, V) behind the last token of the K `wanted` pieces.

        With `is_every` they are (N, V), behind all tokens of all pieces.
        """
        sizes = [len(piece.input_ids) for piece in pieces]
        starts = [cache.lengths[piece.row] for piece in pieces]
        spans = [(sum(sizes[:n]), sizes[n]) for n in range(len(pieces))]
        ids = torch.tensor([token for piece in pieces for token in piece.input_ids], device=self.device)
        places = [start + n for start, size in zip(starts, sizes, strict=True) for n in range(size)]
        x = self._embed(ids, torch.tensor(places, device=self.device))
        last = [first + size - 1 for (first, size), is_wanted in zip(spans, wanted, strict=True) if is_wanted]
        for layer, stored in zip(self._layers, cache.layers, strict=True):
            is_last = layer is self._layers[-1] and not is_every
            qkv = layer.c_attn(self._norm(x, layer.ln_1)).view(len(ids), 3, self.config.n_head, -1)
            attended = []
            for piece, start, (first, size), is_wanted in zip(pieces, starts, spans, wanted, strict=True):
                own, row, end = qkv[first : first + size], piece.row, start + size
                stored[:, row, :, start:end] = own[:, 1:].permute(1, 2, 0, 3)
                if is_last and not is_wanted:
                    continue
                queries = (
                    own[-1:, 0] if is_last else own[:, 0]
                ).float()  # nothing reads the others behind the last layer
                attended.append(self._attend(queries, stored[:, row, :, :end]))
            if is_last:
                x = x[last]
                if not last:
                    break
            x = x + layer.attn_c_proj(torch.cat(attended))
            x = x + self._mlp(self._norm(x, layer.ln_2), layer)
        for piece, size in zip(pieces, sizes, strict=True):
            cache.lengths[piece.row] += size
        if not last and not is_every:
            return x.new_zeros(0, self.config.vocab_size)
        return self._head(self._norm(x, self._ln_f))

    def _attend(self, queries: Tensor, stored: Tensor) -> Tensor:
        """Queries (T, H, D) that come last of `stored` (2, H, S, D) -> (T, C)."""
        n_queries, n_keys = queries.shape[0], stored.shape[2]
        mask, is_causal = None, n_queries == n_keys and n_queries > 1
        if 1 < n_queries < n_keys:
            # SDPA's own causal rule aligns the first query with the first key.
            places = torch.arange(n_keys, device=self.device)
            mask = places <= places[n_keys - n_queries :, None]
        attended = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], stored[:1], stored[1:], attn_mask=mask, is_causal=is_causal
        )
        return attended[0].transpose(0, 1).reshape(n_queries, self._width)

    def _norm(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, self._shape, *weights, self._eps)

    def _mlp(self, x: Tensor, layer: _Layer) -> Tensor:
        return layer.mlp_c_proj(F.gelu(layer.c_fc(x), approximate=self._approximate))
