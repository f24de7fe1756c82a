"""A forward pass in C (`step.c`) for decoding on a processor, where torch's many small operations take longer.

This module owns the C interface: loading the library, checking it against torch, and describing a model to it. It knows
nothing about sampling or text. The library is compiled when the project is installed, if there is a C compiler. Without
it, and on a GPU, `assistant.decoding.decoder` computes with torch.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from assistant.decoding.kernels import StoredWeight, store_weight
from assistant.model.compiled import load_library
from assistant.model.config import GPTConfig, LlamaConfig, ModelConfig
from assistant.model.gpt import GPT, GPTBlock
from assistant.model.llama import LlamaBlock
from assistant.settings import Storage

INTERFACE_VERSION = 1
"""Must equal `interface_version` in `step.c`."""
LEVELS = ("plain C", "x86-64-v3", "x86-64-v4", "x86-64-v4 and AMX")
"""The versions in the library, by number. Each needs more of the processor than the one before."""
STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "float16", "int8")
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "", "silu")
"""Two names for each activation in the library."""
FEW_TOKENS = (16, 16, 96)
"""For each level without matrix units: at most as many tokens are computed in C. Torch is faster with more; with 96,
they are about equal (benchmarks/RESULTS.md). Only the last level was measured."""
ROOM = 16
"""The scratch memory grows in steps of as many tokens."""
PROBE_TOKENS = 20
TOLERANCE = 4e-3
"""Largest error of the check, as a share of the largest logit."""


class _Matrix(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scales", "bias")] + [
        (name, ctypes.c_int64) for name in ("rows", "columns")
    ]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Norm) for name in ("before_attention", "before_mlp", "of_queries", "of_keys")),
        *((name, _Matrix) for name in ("qkv", "attended", "inner", "outer")),
        ("query_factor", ctypes.c_double),
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        ("embedding", _Matrix),
        ("head", _Matrix),
        ("positions", ctypes.c_void_p),
        ("frequencies", ctypes.c_void_p),
        ("last", _Norm),
        ("epsilon", ctypes.c_double),
        *(
            (name, ctypes.c_int64)
            for name in ("n_layer", "width", "heads", "kv_heads", "head_size", "storage", "activation")
        ),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ids", "rows", "positions", "chosen", "cache", "logits", "scratch")),
        *((name, ctypes.c_int64) for name in ("tokens", "n_chosen", "capacity", "cache_rows", "slots")),
        *((name, ctypes.c_int64) for name in ("threads", "level", "cache_storage")),
    ]


class CacheMemory(NamedTuple):
    """Where a cache lies: each layer is (2, B, G, S, D), in float32 or float16."""

    addresses: ctypes.Array[ctypes.c_void_p]
    """Of the layers."""
    rows: int
    slots: int
    dtype: torch.dtype


class _Forked:
    """OpenMP's threads do not live on in a forked process, and waiting for them would never end."""

    is_child = False


def _note_fork() -> None:
    _Forked.is_child = True


os.register_at_fork(after_in_child=_note_fork)


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library and an empty text; or None and the problem, which is empty if no library is installed."""
    functions = ("run", "best_level", "scratch_bytes")
    return load_library("assistant.decoding._step", INTERFACE_VERSION, functions, _agrees_with_torch)


def problem() -> str | None:
    """A warning if the library is installed but cannot be used, else None."""
    fault = _library()[1]
    return f"{fault}. It is not used, which is slower. Install the project again." if fault else None


def level() -> str | None:
    """The version that is used here; None without a usable library."""
    library, _ = _library()
    return None if library is None else LEVELS[_best_level(library)]


def _best_level(library: ctypes.CDLL) -> int:
    found: int = library.best_level()
    return found


class Step:
    """A model described to the library. Only one thread may use it at a time."""

    def __init__(
        self,
        library: ctypes.CDLL,
        model: GPT,
        storage: Storage,
        blocks: Sequence[Mapping[str, StoredWeight]],
        embedding: StoredWeight,
        head: StoredWeight,
    ) -> None:
        """`blocks` has the linear layers of each block by name. Their weights are used as they are, not copied."""
        self._library = library
        self._kept: list[object] = []
        """Whatever the description points to."""
        self._level = _best_level(library)
        self._storage = storage
        self._description = self._describe(model, blocks, embedding, head)
        self._vocab_size = head.weight.shape[0]
        self._call = _Call(level=self._level)
        self._room: tuple[int, ...] = (0, 0, 0)
        """Tokens, slots and threads for which the scratch memory is large enough."""
        self._scratch = torch.zeros(0, dtype=torch.uint8)

    @property
    def cache_dtype(self) -> torch.dtype:
        """What keys and values are kept in: float16 beside narrow weights. Where torch takes many tokens, float32."""
        return torch.float16 if self._storage != "float32" and self.takes_all else torch.float32

    @property
    def takes_all(self) -> bool:
        """Whether any number of tokens is computed faster here than by torch."""
        return self._level == len(LEVELS) - 1

    def takes(self, n_tokens: int) -> bool:
        """Whether so many tokens are computed faster here than by torch."""
        return self.takes_all or n_tokens <= FEW_TOKENS[self._level]

    def run(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        chosen: Sequence[int],
        cache: CacheMemory,
    ) -> Tensor:
        """Compute N tokens, given by id, row of the cache and position; tokens of a row follow each other.

        Their keys and values are added to the cache. Returns the logits (K, V) float32 that follow the `chosen` tokens,
        whose indices rise.

        Raises:
            IndexError: an id, a row or a position is out of range. Then nothing was computed.
        """
        call, n_tokens, n_chosen = self._call, len(ids), len(chosen)
        threads = 1 if _Forked.is_child else torch.get_num_threads()
        needed = (-(-n_tokens // ROOM) * ROOM, cache.slots, threads)
        if any(size > room for size, room in zip(needed, self._room, strict=True)):
            self._room = tuple(map(max, needed, self._room))
            call.capacity = self._room[0]
            size = self._library.scratch_bytes(ctypes.byref(self._description), *map(ctypes.c_int64, self._room))
            self._scratch = torch.zeros(size + 64, dtype=torch.uint8)
            call.scratch = -(-self._scratch.data_ptr() // 64) * 64
        logits = torch.empty(n_chosen, self._vocab_size)
        integers = [(ctypes.c_int32 * len(values))(*values) for values in (ids, rows, positions, chosen)]
        call.ids, call.rows, call.positions, call.chosen = map(ctypes.addressof, integers)
        call.cache, call.logits = ctypes.addressof(cache.addresses), logits.data_ptr()
        call.tokens, call.n_chosen, call.threads = n_tokens, n_chosen, threads
        call.cache_rows, call.slots = cache.rows, cache.slots
        call.cache_storage = STORAGES.index("float16" if cache.dtype is torch.float16 else "float32")
        if self._library.run(ctypes.byref(self._description), ctypes.byref(call)):
            raise IndexError(
                f"decoding step: expected ids, rows and positions of the model and its cache, got ids {list(ids)[:8]}, "
                f"rows {list(rows)[:8]}, positions {list(positions)[:8]}."
            )
        return logits

    # --- the description ----------------------------------------------------------------------------------------------

    def _describe(
        self, model: GPT, blocks: Sequence[Mapping[str, StoredWeight]], embedding: StoredWeight, head: StoredWeight
    ) -> _Model:
        config, first = model.config, model.transformer.h[0]
        described = (self._layer(block, of) for block, of in zip(model.transformer.h, blocks, strict=True))
        layers = (_Layer * len(blocks))(*described)
        self._kept.append(layers)
        frequencies = first.attn.rotary.frequencies if isinstance(first, LlamaBlock) else None
        positions = model.transformer.wpe.weight if isinstance(first, GPTBlock) else None
        return _Model(
            layers=layers,
            embedding=self._matrix(embedding),
            head=self._matrix(head),
            positions=self._copy(positions),
            frequencies=self._copy(frequencies),
            last=self._norm(model.transformer.ln_f),
            epsilon=config.rms_norm_eps if isinstance(config, LlamaConfig) else config.layer_norm_epsilon,
            n_layer=len(blocks),
            width=config.n_embd,
            heads=config.heads.n_head,
            kv_heads=config.heads.n_kv_head,
            head_size=config.heads.size,
            storage=STORAGES.index(self._storage),
            activation=ACTIVATIONS.index(getattr(config, "activation_function", "silu")) // 2,
        )

    def _layer(self, block: nn.Module, weights: Mapping[str, StoredWeight]) -> _Layer:
        assert isinstance(block, GPTBlock | LlamaBlock)
        return _Layer(
            before_attention=self._norm(block.ln_1),
            before_mlp=self._norm(block.ln_2),
            of_queries=self._norm(getattr(block.attn, "q_norm", None)),
            of_keys=self._norm(getattr(block.attn, "k_norm", None)),
            qkv=self._matrix(weights["attn.c_attn"]),
            attended=self._matrix(weights["attn.c_proj"]),
            inner=self._matrix(weights["mlp.c_fc"]),
            outer=self._matrix(weights["mlp.c_proj"]),
            query_factor=block.attn.query_factor if isinstance(block, GPTBlock) else 1.0,
        )

    def _matrix(self, stored: StoredWeight) -> _Matrix:
        self._kept.append(stored)
        rows, columns = stored.weight.shape
        addresses = (None if part is None else part.data_ptr() for part in (stored.weight, stored.scales, stored.bias))
        return _Matrix(*addresses, rows, columns)

    def _norm(self, norm: nn.Module | None) -> _Norm:
        return _Norm(self._copy(getattr(norm, "weight", None)), self._copy(getattr(norm, "bias", None)))

    def _copy(self, tensor: Tensor | None) -> int | None:
        """Keep a float32 copy of a small tensor, which may be a part of a mapped file; return its address."""
        if tensor is None:
            return None
        copy = tensor.detach().float().contiguous().clone()
        self._kept.append(copy)
        return copy.data_ptr()


def build_step(
    model: GPT,
    storage: Storage,
    blocks: Sequence[Mapping[str, StoredWeight]],
    embedding: StoredWeight,
    head: StoredWeight,
) -> Step | None:
    """Describe a model's weights in a storage to the library. None if it is not usable, or not for these tensors."""
    dtype = getattr(torch, storage)
    weights = [embedding, head, *(stored for block in blocks for stored in block.values())]
    if not all(
        part is None or (part.device.type == "cpu" and part.is_contiguous() and part.dtype is wanted)
        for stored in weights
        for part, wanted in (
            (stored.weight, dtype), (stored.bias, torch.float32), (stored.scales, torch.float32)
        )
    ):  # fmt: skip
        return None
    library, _ = _library()
    return None if library is None else Step(library, model, storage, blocks, embedding, head)


# --- the check --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _agrees_with_torch(library: ctypes.CDLL) -> bool:
    """Whether small models of both families match torch here, in every storage, with few and with many tokens."""
    configs: tuple[ModelConfig, ...] = (
        GPTConfig(vocab_size=50, n_positions=24, n_embd=36, n_layer=1, n_head=3),
        LlamaConfig(
            model_type="qwen3", vocab_size=50, hidden_size=36, intermediate_size=70, num_hidden_layers=2, head_dim=16,
            num_attention_heads=4, num_key_value_heads=2,
        ),
    )  # fmt: skip
    return all(_matches(library, config, storage) for config in configs for storage in STORAGES)


def _matches(library: ctypes.CDLL, config: ModelConfig, storage: Storage) -> bool:
    model, generator = GPT(config).eval(), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 2:  # weights that every storage holds exactly
            integers = torch.randint(-127, 128, parameter.shape, generator=generator)
            integers[:, 0] = 127
            parameter.copy_(integers / 128)
    ids = torch.randint(0, config.vocab_size, (1, PROBE_TOKENS), generator=generator)
    expected = model.head(model(ids))[0, -2:]
    state = model.state_dict()
    blocks = [
        {
            name: store_weight(state[f"{at}{name}.weight"], state.get(f"{at}{name}.bias"), storage)
            for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        }
        for at in (f"transformer.h.{layer}." for layer in range(config.n_layer))
    ]
    head = store_weight(model.lm_head.weight, None, storage)
    embedding = store_weight(model.transformer.wte.weight, None, storage)
    step = Step(library, model, storage, blocks, embedding, head)
    shape = (2, 2, config.heads.n_kv_head, PROBE_TOKENS, config.heads.size)
    layers = [torch.zeros(shape, dtype=step.cache_dtype) for _ in blocks]
    addresses = (ctypes.c_void_p * len(blocks))(*(layer.data_ptr() for layer in layers))
    cache = CacheMemory(addresses, 2, PROBE_TOKENS, step.cache_dtype)
    found, last = [], PROBE_TOKENS - 1
    for start, end in ((0, last), (last, PROBE_TOKENS)):
        some_ids, count = ids[0, start:end].tolist(), end - start
        found.append(step.run(some_ids, [1] * count, range(start, end), [count - 1], cache))
    return bool((torch.cat(found) - expected).abs().max() <= TOLERANCE * expected.abs().max())
