"""A model with a key-value cache, for decoding: its own blocks with narrow weights, without padding.

This module owns the caches and the forward pass. It knows nothing about sampling, stopping or text.

Shapes: N tokens of all rows, concatenated; B rows (sequences); C n_embd; V vocab_size; H heads; G heads of keys and
values; D head size; S slots.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.decoding.kernels import DecodeLinear, StoredWeight, store_weight
from assistant.decoding.step import CacheMemory, build_step
from assistant.model.block import Block
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT
from assistant.model.lora import LoraLinear
from assistant.settings import Storage

PREFIX_SLOT_STEP = 64
"""The slots of a `PrefixCache` grow to a multiple of this number."""


class Cache:
    """Keys and values of a number of rows. A row's token at position p has slot p; each layer is one tensor."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        rows: int,
        slots: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (2, rows, config.heads.n_kv_head, slots, config.heads.size)
        # Not `torch.empty`: uninitialized memory can hold NaN, and NaN times an attention weight of zero is NaN.
        self.layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.lengths = [0] * rows
        """Tokens of each row."""
        addresses = (ctypes.c_void_p * config.n_layer)(*(layer.data_ptr() for layer in self.layers))
        self.memory = CacheMemory(addresses, rows, slots, dtype)
        self._views: tuple[int, list[tuple[Tensor, Tensor, Tensor]]] = (0, [])

    def views(self, n_rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return views of the first rows of every layer: both (2, B, G, S, D), keys (B, G, S, D) and values.

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

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._config, self._device, self._dtype = config, device, dtype
        self.cache = Cache(config, rows=1, slots=0, device=device, dtype=dtype)
        """The row. `reuse_prefix` may replace it by a larger one."""
        self._token_ids: list[int] = []

    def reuse_prefix(self, prompt: Sequence[int], slots: int) -> int:
        """Keep the longest prefix shared with `prompt` and drop the rest; make room for `slots` tokens.

        Returns the number of tokens kept. It never counts the last token of the prompt, whose logits are still needed.
        """
        n_shared = common_prefix_length(self._token_ids[: self.cache.lengths[0]], prompt[:-1])
        if self.cache.slots < slots:
            n_slots = min(-(-slots // PREFIX_SLOT_STEP) * PREFIX_SLOT_STEP, self._config.context_length)
            larger = Cache(self._config, rows=1, slots=n_slots, device=self._device, dtype=self._dtype)
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

    def __init__(self, model: GPT, *, storage: Storage = "float32", plain: bool = False) -> None:
        """A plain decoder computes with torch alone, in float32: slower, but all others are compared with it.

        It also takes a model that is being trained with LoRA beside narrow weights, and computes with its layers.
        """
        self.config, self.storage = model.config, storage
        self.device = model.transformer.wte.weight.device
        self._heads = model.config.heads
        self._is_grouped = self._heads.n_kv_head < self._heads.n_head
        is_tied = model.lm_head.weight is model.transformer.wte.weight
        weights, head = _store_blocks(model, storage), store_weight(model.lm_head.weight, None, storage)
        self._wte = head if is_tied else store_weight(model.transformer.wte.weight, None, storage)
        self.n_weight_bytes = head.weight.nbytes + sum(part.weight.nbytes for of in weights for part in of.values())
        """Bytes that a step of one row reads."""
        self._step = None if plain else build_step(model, storage, weights, self._wte, head)
        if self._step is None or not self._step.takes_all:
            self._build_layers(model, weights, head, plain=plain)

    def _build_layers(
        self, model: GPT, weights: Sequence[Mapping[str, StoredWeight]], head: StoredWeight, *, plain: bool
    ) -> None:
        """What torch computes with."""
        self._blocks = _build_blocks(model, weights, plain=plain)
        self._ln_f = copy.deepcopy(model.transformer.ln_f)
        _round_nothing(self._ln_f)
        is_narrow = _is_narrow(model.lm_head)
        self._head: Callable[[Tensor], Tensor] = (
            _as_trained(model.lm_head) if is_narrow else DecodeLinear(head, plain=plain)
        )
        # GPT-2 alone has embeddings of positions.
        self._wpe = [table.weight.detach().clone() for table in model.transformer.embeddings[1:]]

    @property
    def cache_dtype(self) -> torch.dtype:
        """The dtype of a cache for this decoder: float32 or float16."""
        return torch.float32 if self._step is None else self._step.cache_dtype

    @property
    def is_compiled(self) -> bool:
        """Whether it computes in C, at least few tokens at a time."""
        return self._step is not None

    def decode_step(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Add one token to each of the cache's first B rows.

        Takes input_ids (B,) int64; returns the logits (B, V) of the tokens that follow, in the dtype of the kernel.
        """
        n_rows = input_ids.shape[0]
        lengths = cache.lengths[:n_rows]
        if self._step is not None and self._step.takes(n_rows):
            rows = range(n_rows)
            logits = self._step.run(input_ids.tolist(), rows, lengths, rows, cache.memory)
            cache.lengths[:n_rows] = [length + 1 for length in lengths]
            return logits
        end = max(lengths) + 1
        all_same_length = min(lengths) == end - 1
        positions = torch.tensor(lengths, device=self.device)
        mask = None if all_same_length else (torch.arange(end, device=self.device) <= positions[:, None])[:, None, None]
        row_indices = torch.arange(n_rows, device=self.device)
        x = self._embed(input_ids, positions)
        # These operations run once per layer and token. With one row, their overhead costs as much as their arithmetic.
        for block, (keys_values, keys, values) in zip(self._blocks, cache.views(n_rows), strict=True):
            queries, new = self._split(block.attention_inputs(x, positions))
            if all_same_length:
                keys_values.select(3, end - 1).copy_(new.transpose(0, 1))
            else:
                keys_values[:, row_indices, :, positions] = new.to(keys_values.dtype)
            attended = F.scaled_dot_product_attention(
                queries.unsqueeze(2).float(),
                keys.narrow(2, 0, end).float(),
                values.narrow(2, 0, end).float(),
                attn_mask=mask,
                enable_gqa=self._is_grouped,
            )
            x = block.after_attention(x, attended.view(n_rows, -1))
        for row in range(n_rows):
            cache.lengths[row] += 1
        return self._head(self._ln_f(x))

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
        last_tokens = [span.token_end - 1 for span in spans if span.needs_logits]
        if self._step is not None and self._step.takes(len(input_ids)):
            rows = [span.row for span in spans for _ in range(span.token_start, span.token_end)]
            chosen = range(len(input_ids)) if all_positions else last_tokens
            logits = self._step.run(input_ids, rows, positions, chosen, cache.memory)
            for span in spans:
                cache.lengths[span.row] = span.position_end
            return logits
        at = torch.tensor(positions, device=self.device)
        x = self._embed(torch.tensor(input_ids, device=self.device), at)
        for block, keys_values in zip(self._blocks, cache.layers, strict=True):
            # After the last layer's attention, only the tokens with logits matter.
            only_last = block is self._blocks[-1] and not all_positions
            queries, new = self._split(block.attention_inputs(x, at))
            attended = self._store_and_attend(queries, new, keys_values, spans, only_last=only_last)
            if only_last:
                x = x[last_tokens]
                if not last_tokens:
                    break
            x = block.after_attention(x, torch.cat(attended))
        for span in spans:
            cache.lengths[span.row] = span.position_end
        if not last_tokens and not all_positions:
            return x.new_zeros(0, self.config.vocab_size)
        return self._head(self._ln_f(x))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """qkv (N, (H + 2 * G) * D) -> queries (N, H, D), and keys and values (N, 2, G, D)."""
        n_head, n_kv_head, size = self._heads
        n_tokens, width = qkv.shape[0], n_head * size
        queries, new = qkv.narrow(1, 0, width), qkv.narrow(1, width, 2 * n_kv_head * size)
        return queries.view(n_tokens, n_head, size), new.view(n_tokens, 2, n_kv_head, size)

    def _store_and_attend(
        self, queries: Tensor, new: Tensor, keys_values: Tensor, spans: Sequence[_Span], *, only_last: bool
    ) -> list[Tensor]:
        """Store `new` keys and values (N, 2, G, D) in a layer's cache (2, B, G, S, D), and attend chunk by chunk.

        Returns one tensor (T, H * D) for each chunk of T tokens. With `only_last`, returns the result of the last token
        (1, H * D) for each chunk that needs logits.
        """
        attended = []
        for span in spans:
            tokens, positions = slice(span.token_start, span.token_end), slice(span.position_start, span.position_end)
            keys_values[:, span.row, :, positions] = new[tokens].permute(1, 2, 0, 3)
            if only_last and not span.needs_logits:
                continue
            asked = (queries[tokens][-1:] if only_last else queries[tokens]).float()
            attended.append(self._attend(asked, keys_values[:, span.row, :, : span.position_end]))
        return attended

    def _attend(self, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Attend causally from the last T of the S tokens in keys_values (2, G, S, D).

        Takes queries (T, H, D) float32; returns (T, H * D).
        """
        n_queries, n_keys = queries.shape[0], keys_values.shape[2]
        mask, is_causal = None, n_queries == n_keys and n_queries > 1
        if 1 < n_queries < n_keys:
            # `is_causal` would align the first query with the first key.
            positions = torch.arange(n_keys, device=self.device)
            mask = positions <= positions[n_keys - n_queries :, None]
        keys, values = keys_values.float().split(1)  # type: ignore[no-untyped-call]
        attended = F.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys,
            values,
            attn_mask=mask,
            is_causal=is_causal,
            enable_gqa=self._is_grouped,
        )
        return attended[0].transpose(0, 1).reshape(n_queries, self._heads.n_head * self._heads.size)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        token_embeddings = F.embedding(input_ids, self._wte.weight).float()
        if self._wte.scales is not None:
            token_embeddings = token_embeddings * self._wte.scales[input_ids][:, None]
        for table in self._wpe:
            token_embeddings = token_embeddings + F.embedding(positions, table)
        return token_embeddings


def _store_blocks(model: GPT, storage: Storage) -> list[dict[str, StoredWeight]]:
    """The weights of each block's linear layers by name, with LoRA merged, but not of narrow ones."""
    blocks = [block for block in model.transformer.h if isinstance(block, Block)]
    return [
        {name: _store_linear(layer, storage) for name, layer in _linears(block).items() if not _is_narrow(layer)}
        for block in blocks
    ]


def _build_blocks(model: GPT, weights: Sequence[Mapping[str, StoredWeight]], *, plain: bool) -> list[Block]:
    """Copies of the model's blocks with these weights."""
    blocks = [block for block in model.transformer.h if isinstance(block, Block)]
    memo: dict[int, object] = {}
    for block, of_block in zip(blocks, weights, strict=True):
        for name, layer in _linears(block).items():
            memo[id(layer)] = _as_trained(layer) if _is_narrow(layer) else DecodeLinear(of_block[name], plain=plain)
    # deepcopy takes what its memo has for a layer, and copies the rest, which is small.
    copies = [copy.deepcopy(block, memo) for block in blocks]
    for block in copies:
        block.uses_loops = False  # they cost more than they save for a row, and round in another way
        _find_at_once(block)
    return copies


def _round_nothing(module: nn.Module) -> None:
    """Let a norm give float32 in decoding, also that of a model that is being trained in bfloat16."""
    if hasattr(module, "is_narrow"):
        module.is_narrow = False  # type: ignore[assignment]


def _find_at_once(module: nn.Module) -> None:
    """Let Python find a module's children and weights itself, and call its norms: nn.Module takes a tenth of a step."""
    _round_nothing(module)
    vars(module).update(module._parameters)
    for name, child in module._modules.items():
        is_leaf = isinstance(child, nn.Module) and not child._modules
        vars(module)[name] = child.forward if is_leaf and child is not None else child
        if isinstance(child, nn.Module):
            _find_at_once(child)


def _linears(block: Block) -> dict[str, nn.Module]:
    """The linear layers of a block by name; one with LoRA counts as one."""
    found = {name: module for name, module in block.named_modules() if isinstance(module, LoraLinear)}
    inside = {id(inner) for module in found.values() for inner in module.modules()}
    return found | {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside
    }


def _is_narrow(layer: nn.Module) -> bool:
    """Whether a layer has its weights in bfloat16 alone: it is frozen, and an adapter may be trained beside it."""
    return getattr(layer, "base", layer).weight.dtype is torch.bfloat16


def _as_trained(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A narrow layer, with its adapter beside it. To merge all adapters would take the memory of a second model."""
    device = next(layer.parameters()).device
    compute: Callable[[Tensor], Tensor] = torch.autocast(device.type, torch.bfloat16)(layer.forward)
    return compute


def _store_linear(layer: nn.Module, storage: Storage) -> StoredWeight:
    if isinstance(layer, LoraLinear):
        return store_weight(layer.base.weight.detach() + layer.update(), layer.base.bias, storage)
    assert isinstance(layer, nn.Linear)
    return store_weight(layer.weight, layer.bias, storage)


def _spans(chunks: Sequence[PromptChunk], lengths: Sequence[int], needs_logits: Sequence[bool]) -> Iterator[_Span]:
    token_start = 0
    for chunk, chunk_needs_logits in zip(chunks, needs_logits, strict=True):
        size, position = len(chunk.input_ids), lengths[chunk.row]
        token_end = token_start + size
        yield _Span(chunk.row, token_start, token_end, position, position + size, chunk_needs_logits)
        token_start = token_end
