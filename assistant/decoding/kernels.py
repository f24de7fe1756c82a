"""How a weight matrix is kept for decoding, and what multiplies with it.

At one row, decoding reads every weight once a token, so the kernel that reads fastest decides; which one that is
depends on the processor, the shape and the number of rows. Kernels that torch has no public name for are probed for,
compared with plain arithmetic, and left out where they are missing or wrong.

Shapes: M rows, I in, O out.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.files import write_atomic
from assistant.settings import Storage

Product = Callable[[Tensor], Tensor]
"""(M, I) of any type -> (M, O), the bias added, in float32 or in the 16 bits that it was computed in."""

TIERS = (1, 16, 64)
"""Numbers of rows that are probed: one; up to so many; more. At few rows reading the weights takes the time, at many
the arithmetic does."""
TRIES = 2
PROBED_BYTES, PROBED_LINES = 32 * 2**20, 4096
LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3, "int8": 2e-2}
"""Of a product with the weights as they are kept, as a share of the largest entry of the result."""
INT8_STEPS = 127


@dataclass(frozen=True, slots=True)
class Kept:
    """A weight (O, I) in some storage, with its bias (O,) float32 if there is one."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None = None
    """(O,) float32 of int8 weights: one a row."""

    def restored(self) -> Tensor:
        """(O, I) float32: what the storage has left of the weight."""
        weight = self.weight.float()
        return weight if self.scales is None else weight * self.scales[:, None]


def keep(weight: Tensor, bias: Tensor | None, storage: Storage) -> Kept:
    """Put a weight (O, I) float32 into a storage. In float32 it is shared, not copied."""
    weight = weight.detach()
    if storage == "float32":
        return Kept(weight, None if bias is None else bias.detach())
    # A copy: what shares a little memory with a file that was mapped keeps all of it.
    bias = None if bias is None else bias.detach().clone()
    if storage == "int8":
        scales = (weight.abs().amax(dim=1) / INT8_STEPS).clamp_min(torch.finfo(torch.float32).tiny)
        # The kernel multiplies with scales of 16 bits, so those are what the weights are divided by.
        scales = scales.bfloat16().float()
        steps = (weight / scales[:, None]).round_().clamp_(-INT8_STEPS, INT8_STEPS)
        return Kept(steps.to(torch.int8), bias, scales)
    return Kept(weight.to(getattr(torch, storage)), bias)


# --- what multiplies ----------------------------------------------------------------------------------------------


def plain(kept: Kept) -> Product:
    """In float32, whatever the storage. Other weights are restored anew every time, and not remembered."""
    if kept.weight.dtype is torch.float32:
        return lambda x: F.linear(x.float(), kept.weight, kept.bias)
    return lambda x: F.linear(x.float(), kept.restored(), kept.bias)


def packed(kept: Kept) -> Product:
    """oneDNN's own arrangement of a float32 or bfloat16 weight, made once: a copy, and no private name is stable."""
    dtype = kept.weight.dtype
    weight = torch.ops.mkldnn._reorder_linear_weight(kept.weight, 1)
    bias = None if kept.bias is None else kept.bias.to(dtype)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x: multiply(x.to(dtype), weight, bias, "none", [], "")


def narrow(kept: Kept) -> Product:
    """The 16-bit product, inputs and results rounded to 16 bits too."""
    dtype = kept.weight.dtype
    bias = None if kept.bias is None else kept.bias.to(dtype)
    return lambda x: F.linear(x.to(dtype), kept.weight, bias)


def steps(kept: Kept) -> Product:
    """int8 weights, inputs rounded to bfloat16."""
    assert kept.scales is not None
    weight, scales, bias = kept.weight, kept.scales.bfloat16(), kept.bias
    multiply = torch._weight_int8pack_mm
    if bias is None:
        return lambda x: multiply(x.bfloat16(), weight, scales)
    return lambda x: multiply(x.bfloat16(), weight, scales) + bias


def widened(kept: Kept) -> Product:
    """int8 weights as bfloat16, which holds them exactly, made anew every time; inputs rounded to bfloat16."""
    assert kept.scales is not None
    weight, scales, bias = kept.weight, kept.scales, kept.bias
    if bias is None:
        return lambda x: F.linear(x.bfloat16(), weight.bfloat16()) * scales
    return lambda x: (F.linear(x.bfloat16(), weight.bfloat16()) * scales).add_(bias)


def dynamic(kept: Kept) -> Product:
    """int8 weights, inputs rounded to 8 bits of their largest entry; for a single row, since rows would share that.

    llama.cpp's q8_0 rounds its inputs so, too, in blocks of 32. The weights are a copy.
    """
    assert kept.scales is not None
    zeros = torch.zeros_like(kept.scales, dtype=torch.int64)
    with warnings.catch_warnings():  # torch means to give it up; where it has, the probe leaves this kernel out
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(kept.weight, kept.scales.double(), zeros, 0)
        product = torch.ops.quantized.linear_prepack(weight, kept.bias)
    multiply = torch.ops.quantized.linear_dynamic
    return lambda x: multiply(x.float(), product, False)


ARRANGEMENTS: dict[Storage, tuple[tuple[Callable[[Kept], Product], ...], ...]] = {
    "float32": ((plain,), (packed,)),
    "bfloat16": ((plain, narrow), (packed,)),
    "float16": ((plain, narrow),),
    "int8": ((plain, steps, widened, dynamic),),
}
"""The candidates. Those in one pair of brackets share the memory of the weight, so each number of rows may have its own
of them. The first is right by definition."""


class Matrix:
    """A weight with the products that were chosen for it, one for each of `TIERS`."""

    def __init__(self, kept: Kept, kernels: Sequence[str]) -> None:
        made = {name: _KERNELS[name](kept) for name in set(kernels)}
        self._one, self._some, self._many = (made[name] for name in kernels)

    def __call__(self, x: Tensor) -> Tensor:
        """(M, I) -> (M, O), as `Product` has it."""
        n_rows = x.shape[0]
        product = self._one if n_rows == 1 else self._some if n_rows <= TIERS[1] else self._many
        return product(x)


_KERNELS = {kernel.__name__: kernel for kernel in (plain, packed, narrow, steps, widened, dynamic)}


# --- choosing -----------------------------------------------------------------------------------------------------


def matrices(weights: Sequence[Kept], storage: Storage, *, is_chosen: bool) -> list[Matrix]:
    """Weights of one shape with the kernels that are fastest here; `plain` ones alone unless `is_chosen`.

    What was found is remembered in the user's cache folder, for this processor, shape and version of torch.
    """
    if not is_chosen or weights[0].weight.device.type != "cpu":
        return [Matrix(kept, ("plain",) * len(TIERS)) for kept in weights]
    key = f"{_machine()}, {storage}, {' x '.join(str(size) for size in weights[0].weight.shape)}"
    known = _remembered()
    if not _is_choice(known.get(key), storage):
        known[key] = list(choose(weights, storage))
        _remember(known)
    return [Matrix(kept, known[key]) for kept in weights]


def choose(weights: Sequence[Kept], storage: Storage) -> tuple[str, ...]:
    """The names of the fastest right kernels for weights of one shape, at each of `TIERS`."""
    samples = _samples(weights)
    best: tuple[float, tuple[str, ...]] | None = None
    for arrangement in ARRANGEMENTS[storage]:
        found = {kernel.__name__: _seconds(kernel, samples, storage) for kernel in arrangement}
        names = tuple(min(found, key=lambda name: found[name][tier]) for tier in range(len(TIERS)))
        total = math.prod(found[name][tier] for tier, name in enumerate(names))
        if best is None or total < best[0]:
            best = total, names
    assert best is not None
    return best[1]


def _samples(weights: Sequence[Kept]) -> list[Kept]:
    """Pieces of the weights: together more than the processor's nearer caches hold, as in use they do not fit."""
    samples: list[Kept] = []
    room = PROBED_BYTES
    for kept in weights:
        for first in range(0, kept.weight.shape[0], PROBED_LINES):
            part = slice(first, first + PROBED_LINES)
            bias, scales = (None if one is None else one[part] for one in (kept.bias, kept.scales))
            samples.append(Kept(kept.weight[part], bias, scales))
            room -= samples[-1].weight.nbytes
            if room <= 0:
                return samples
    return samples


@torch.inference_mode()
def _seconds(kernel: Callable[[Kept], Product], samples: Sequence[Kept], storage: Storage) -> list[float]:
    """The time at each tier; infinite where the kernel is missing or wrong."""
    generator = torch.Generator().manual_seed(0)
    taken = []
    try:
        products = [kernel(kept) for kept in samples]
        for n_rows in TIERS:
            if kernel is dynamic and n_rows > 1:
                taken.append(math.inf)
                continue
            x = torch.randn(n_rows, samples[0].weight.shape[1], generator=generator)
            if kernel is not plain and not _is_right(products[0](x), plain(samples[0])(x), storage):
                return [math.inf] * len(TIERS)
            # At one row the memory counts, so all are read; at more the arithmetic does, and one piece tells.
            timed = products if n_rows == 1 else products[:1]
            taken.append(min(_time(timed, x) for _ in range(TRIES)))
    except (RuntimeError, AttributeError):  # a torch without it, or a processor without the units
        return [math.inf] * len(TIERS)
    return taken


def _is_right(found: Tensor, expected: Tensor, storage: Storage) -> bool:
    return bool((found - expected).abs().max() <= LARGEST_ERROR[storage] * expected.abs().max())


def _time(products: Sequence[Product], x: Tensor) -> float:
    start = time.perf_counter()
    for product in products:
        product(x)
    return time.perf_counter() - start


# --- remembering --------------------------------------------------------------------------------------------------


def _machine() -> str:
    """What the choice depends on beside the weights."""
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{found[1] if found else name} {torch.backends.cpu.get_cpu_capability()}"


def _cache_file() -> Path:
    return platformdirs.user_cache_path("instruction-assistant") / "kernels.json"


def _remembered() -> dict[str, Any]:
    """What earlier probes found. A cache that is missing or damaged is an empty one."""
    try:
        found = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(known: dict[str, Any]) -> None:
    with suppress(OSError):  # it is a matter of speed alone
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(_cache_file(), json.dumps(known, indent=1) + "\n")


def _is_choice(value: object, storage: Storage) -> bool:
    """Whether a remembered choice can be used: names of this storage's kernels, `dynamic` for a single row alone."""
    names = {kernel.__name__ for arrangement in ARRANGEMENTS[storage] for kernel in arrangement}
    if not isinstance(value, list) or len(value) != len(TIERS):
        return False
    return all(isinstance(name, str) and name in names for name in value) and "dynamic" not in value[1:]
