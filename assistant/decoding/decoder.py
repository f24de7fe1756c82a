"""GPT-2 with a key-value cache, for decoding: the same arithmetic as `GPT.forward`, without padding.

This module owns the caches and the forward pass. It knows nothing about sampling, stopping or text.

Shapes: N tokens of all rows, concatenated; B rows (sequences); C n_embd; V vocab_size; H heads; D head size; S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.decoding.kernels import DecodeLinear, StoredWeight, build_linears, store_weight
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT, Block, fold_query_factor
from assistant.model.lora import LoraLinear
from assistant.settings import Storage

PREFIX_SLOT_STEP = 64
"""The slots of a `PrefixCache` grow to a multiple of this number."""


class Cache:
    """Keys and values of a number of rows. A row's token at position p has slot p; each layer is one tensor."""

    def __init__(self, config: ModelConfig, *, rows: int, slots: int, device: torch.device) -> None:
        shape = (2, rows, config.n_head, slots, config.head_size)
        # Not `torch.empty`: uninitialized memory can hold NaN, and NaN times an attention weight of zero is NaN.
        self.layers = [torch.zeros(shape, device=device) for _ in range(config.n_layer)]
        self.lengths = [0] * rows
        """Tokens of each row."""
        self._views: tuple[int, list[tuple[Tensor, Tensor, Tensor]]] = (0, [])

    def views(self, n_rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return views of the first rows of every layer: both (2, B, H, S, D), keys (B, H, S, D) and values.

        The views are kept, because slicing again at every step takes time.
        """
        if self._views[0] != n_rows:
            first_rows = [layer[:, :n_rows] for layer in self.layers]
            self._views = n_rows, [(keys_values, keys_values[0], keys_values[1]) for keys_values in first_rows]
        return self._views[1]

    @property
    def slots(self) -> int:
        """Number of tokens that a row can hold."""
        return self.layers[0].shape[3]

    def copy_row(self, source: Cache, source_row: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of a row of `source`, which may be this cache, into `row`."""
        for layer, source_layer in zip(self.layers, source.layers, strict=True):
            layer[:, row, :, :length] = source_layer[:, source_row, :, :length]
        self.lengths[row] = length


class PrefixCache:
    """A cache of one row that knows its tokens, so that a new prompt can reuse the prefix it shares with the last."""

    def __init__(self, config: ModelConfig, *, device: torch.device) -> None:
        self._config, self._device = config, device
        self.cache = Cache(config, rows=1, slots=0, device=device)
        """The row. `reuse_prefix` may replace it by a larger one."""
        self._token_ids: list[int] = []

    def reuse_prefix(self, prompt: Sequence[int], slots: int) -> int:
        """Keep the longest prefix shared with `prompt` and drop the rest; make room for `slots` tokens.

        Returns the number of tokens kept. It never counts the last token of the prompt, whose logits are still needed.
        """
        n_shared = common_prefix_length(self._token_ids[: self.cache.lengths[0]], prompt[:-1])
        if self.cache.slots < slots:
            n_slots = min(-(-slots // PREFIX_SLOT_STEP) * PREFIX_SLOT_STEP, self._config.context_length)
            larger = Cache(self._config, rows=1, slots=n_slots, device=self._device)
            larger.copy_row(self.cache, 0, 0, n_shared)
            self.cache = larger
        self.cache.lengths[0] = n_shared
        self._token_ids = list(prompt[:n_shared])
        return n_shared

    def append(self, token_ids: Sequence[int]) -> None:
        """Record the tokens whose keys and values a decoder has just added to the cache."""
        self._token_ids += token_ids

    def clear(self) -> None:
        """Forget all tokens."""
        self.cache.lengths[0] = 0


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the tokens that two sequences share at their start."""
    for index, (first_id, second_id) in enumerate(zip(first, second, strict=False)):
        if first_id != second_id:
            return index
    return min(len(first), len(second))


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """The next tokens of one row of the cache."""

    row: int
    input_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Layer:
    ln_1: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor]
    c_attn: DecodeLinear
    attn_c_proj: DecodeLinear
    c_fc: DecodeLinear
    mlp_c_proj: DecodeLinear


@dataclass(frozen=True, slots=True)
class _Span:
    """A chunk's place among the N tokens of a prefill, and its positions in its row of the cache."""

    row: int
    token_start: int
    token_end: int
    position_start: int
    position_end: int
    needs_logits: bool


class Decoder:
    """The weights of a GPT in one storage, and its forward pass with a cache.

    In float32, linear layers and token embeddings share the model's tensors. All other weights are copies.
    """

    def __init__(self, model: GPT, *, storage: Storage = "float32", tune_kernels: bool = True) -> None:
        """Without `tune_kernels`, use the plain float32 kernel: it needs no timing and no copy of float32 weights."""
        self.config, self.storage = model.config, storage
        self.device = model.transformer.wte.weight.device
        self._width = model.config.n_embd
        self._shape, self._eps = (self._width,), model.config.layer_norm_epsilon
        self._approximate = "none" if model.config.activation_function == "gelu" else "tanh"
        self._layers = _build_layers(model, storage, tune_kernels=tune_kernels)
        self._ln_f = _copy_norm(model.transformer.ln_f)
        head = store_weight(model.lm_head.weight, None, storage)
        (self._head,) = build_linears([head], storage, tune_kernels=tune_kernels)
        self._wpe = model.transformer.wpe.weight.detach().clone()
        is_tied = model.lm_head.weight is model.transformer.wte.weight
        self._wte = head if is_tied else store_weight(model.transformer.wte.weight, None, storage)

    def decode_step(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Add one token to each of the cache's first B rows.

        Takes input_ids (B,) int64; returns the logits (B, V) of the tokens that follow, in the dtype of the kernel.
        """
        n_rows = input_ids.shape[0]
        lengths = cache.lengths[:n_rows]
        end = max(lengths) + 1
        all_same_length = min(lengths) == end - 1
        positions = torch.tensor(lengths, device=self.device)
        mask = None if all_same_length else (torch.arange(end, device=self.device) <= positions[:, None])[:, None, None]
        rows = torch.arange(n_rows, device=self.device)
        x = self._embed(input_ids, positions)
        # These operations run once per layer and token. With one row, their overhead costs as much as their arithmetic.
        for layer, (keys_values, keys, values) in zip(self._layers, cache.views(n_rows), strict=True):
            qkv = layer.c_attn(self._norm(x, layer.ln_1)).view(n_rows, 3, self.config.n_head, -1)
            if all_same_length:
                keys_values.select(3, end - 1).copy_(qkv.narrow(1, 1, 2).transpose(0, 1))
            else:
                keys_values[:, rows, :, positions] = qkv[:, 1:].float()
            attended = F.scaled_dot_product_attention(
                qkv.select(1, 0).unsqueeze(2).float(), keys.narrow(2, 0, end), values.narrow(2, 0, end), attn_mask=mask
            )
            x = x + layer.attn_c_proj(attended.reshape(n_rows, self._width))
            x = x + self._mlp(self._norm(x, layer.ln_2), layer)
        for row in range(n_rows):
            cache.lengths[row] += 1
        return self._head(self._norm(x, self._ln_f))

    def prefill(
        self,
        chunks: Sequence[PromptChunk],
        cache: Cache,
        needs_logits: Sequence[bool],
        *,
        all_positions: bool = False,
    ) -> Tensor:
        """Add several tokens to some rows of the cache, each row at most once.

        `needs_logits` has one entry for each chunk. Returns the logits (K, V) that follow the last token of the K
        chunks that need them. With `all_positions`, returns the logits (N, V) that follow every token of every chunk.
        """
        spans = list(_spans(chunks, cache.lengths, needs_logits))
        input_ids = [token_id for chunk in chunks for token_id in chunk.input_ids]
        positions = [position for span in spans for position in range(span.position_start, span.position_end)]
        x = self._embed(torch.tensor(input_ids, device=self.device), torch.tensor(positions, device=self.device))
        last_tokens = [span.token_end - 1 for span in spans if span.needs_logits]
        for layer, keys_values in zip(self._layers, cache.layers, strict=True):
            # After the last layer's attention, only the tokens with logits matter.
            only_last = layer is self._layers[-1] and not all_positions
            qkv = layer.c_attn(self._norm(x, layer.ln_1)).view(len(input_ids), 3, self.config.n_head, -1)
            attended = self._store_and_attend(qkv, keys_values, spans, only_last=only_last)
            if only_last:
                x = x[last_tokens]
                if not last_tokens:
                    break
            x = x + layer.attn_c_proj(torch.cat(attended))
            x = x + self._mlp(self._norm(x, layer.ln_2), layer)
        for span in spans:
            cache.lengths[span.row] = span.position_end
        if not last_tokens and not all_positions:
            return x.new_zeros(0, self.config.vocab_size)
        return self._head(self._norm(x, self._ln_f))

    def _store_and_attend(
        self, qkv: Tensor, keys_values: Tensor, spans: Sequence[_Span], *, only_last: bool
    ) -> list[Tensor]:
        """Store keys and values of qkv (N, 3, H, D) in a layer's cache (2, B, H, S, D), and attend chunk by chunk.

        Returns one tensor (T, C) for each chunk of T tokens. With `only_last`, returns (1, C), the result of the last
        token, for each chunk that needs logits.
        """
        attended = []
        for span in spans:
            chunk = qkv[span.token_start : span.token_end]
            positions = slice(span.position_start, span.position_end)
            keys_values[:, span.row, :, positions] = chunk[:, 1:].permute(1, 2, 0, 3)
            if only_last and not span.needs_logits:
                continue
            queries = (chunk[-1:, 0] if only_last else chunk[:, 0]).float()
            attended.append(self._attend(queries, keys_values[:, span.row, :, : span.position_end]))
        return attended

    def _attend(self, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Attend causally from the last T of the S tokens in keys_values (2, H, S, D).

        Takes queries (T, H, D) float32; returns (T, C).
        """
        n_queries, n_keys = queries.shape[0], keys_values.shape[2]
        mask, is_causal = None, n_queries == n_keys and n_queries > 1
        if 1 < n_queries < n_keys:
            # `is_causal` would align the first query with the first key.
            positions = torch.arange(n_keys, device=self.device)
            mask = positions <= positions[n_keys - n_queries :, None]
        attended = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], keys_values[:1], keys_values[1:], attn_mask=mask, is_causal=is_causal
        )
        return attended[0].transpose(0, 1).reshape(n_queries, self._width)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        token_embeddings = F.embedding(input_ids, self._wte.weight).float()
        if self._wte.scales is not None:
            token_embeddings = token_embeddings * self._wte.scales[input_ids][:, None]
        return token_embeddings + F.embedding(positions, self._wpe)

    def _norm(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, self._shape, *weights, self._eps)

    def _mlp(self, x: Tensor, layer: _Layer) -> Tensor:
        return layer.mlp_c_proj(F.gelu(layer.c_fc(x), approximate=self._approximate))


def _build_layers(model: GPT, storage: Storage, *, tune_kernels: bool) -> list[_Layer]:
    blocks = [block for block in model.transformer.h if isinstance(block, Block)]

    def linears(name: str) -> list[DecodeLinear]:
        weights = [_store_linear(block, name, storage) for block in blocks]
        return build_linears(weights, storage, tune_kernels=tune_kernels)

    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return [
        _Layer(_copy_norm(block.ln_1), _copy_norm(block.ln_2), *block_linears)
        for block, *block_linears in zip(blocks, *(linears(name) for name in names), strict=True)
    ]


def _store_linear(block: Block, name: str, storage: Storage) -> StoredWeight:
    """Store a linear layer, with its LoRA adapter merged if it has one."""
    module = block.get_submodule(name)
    if isinstance(module, LoraLinear):
        weight, bias = module.merged_weight(), module.base.bias
    else:
        assert isinstance(module, nn.Linear)
        weight, bias = module.weight, module.bias
    if name == "attn.c_attn":
        return store_weight(*fold_query_factor(weight, bias, block.attn.query_factor), storage)
    return store_weight(weight, bias, storage)


def _copy_norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    # Clones, as in `store_weight`: a view would keep the whole weights file in memory.
    return norm.weight.detach().clone(), norm.bias.detach().clone()


def _spans(chunks: Sequence[PromptChunk], lengths: Sequence[int], needs_logits: Sequence[bool]) -> Iterator[_Span]:
    token_start = 0
    for chunk, chunk_needs_logits in zip(chunks, needs_logits, strict=True):
        size, position = len(chunk.input_ids), lengths[chunk.row]
        token_end = token_start + size
        yield _Span(chunk.row, token_start, token_end, position, position + size, chunk_needs_logits)
        token_start = token_end
