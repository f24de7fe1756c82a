"""Weight matrices in the storage that decoding uses, and the CPU kernels that multiply with them.

With one row, decoding reads every weight once per token, so the kernel that reads fastest wins. Which kernel that is
depends on the processor, the shape and the number of rows. Some kernels have no public name in torch: this module
probes for them, compares them with float32 arithmetic, and skips missing and inaccurate ones.

This module knows nothing about models, caches or tokens. Shapes: M rows, I input features, O output features.
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

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.errors import SettingsError
from assistant.files import user_cache_folder, write_atomic
from assistant.settings import Storage

Matmul = Callable[[Tensor], Tensor]
"""(M, I) of any dtype -> (M, O) with the bias added, in float32 or in the 16-bit dtype it was computed in."""

ROW_TIERS = (1, 16, 64)
"""Numbers of rows to probe. They stand for 1 row, 2 to 16 rows, and more. With few rows, reading the weights takes the
time; with many rows, the arithmetic does."""
TIMING_REPEATS = 2
SAMPLE_BYTES, SAMPLE_OUTPUTS = 32 * 2**20, 4096
"""How much of the weights to time, and how many output features at most in one sample."""
LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3, "int8": 2e-2}
"""The largest error allowed against float32 arithmetic on the stored weight, as a share of the largest output."""
INT8_MAX = 127


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight (O, I) in some storage, and its bias (O,) in float32 if there is one."""

    weight: Tensor
    bias: Tensor | None
    scales: Tensor | None = None
    """(O,) float32, one scale per output feature; only for int8."""

    def dequantize(self) -> Tensor:
        """Return the weight (O, I) in float32, with the rounding of its storage."""
        weight = self.weight.float()
        return weight if self.scales is None else weight * self.scales[:, None]


def store_weight(weight: Tensor, bias: Tensor | None, storage: Storage) -> StoredWeight:
    """Convert a weight (O, I) float32 to a storage. float32 shares the tensors; every other storage copies them."""
    weight = weight.detach()
    if storage == "float32":
        return StoredWeight(weight, None if bias is None else bias.detach())
    # Clone the bias: a small view of a memory-mapped file keeps the whole file in memory.
    bias = None if bias is None else bias.detach().clone()
    if storage == "int8":
        scales = (weight.abs().amax(dim=1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        # torch's int8 kernel multiplies with bfloat16 scales, so divide the weights by the same rounded scales.
        scales = scales.bfloat16().float()
        quantized = (weight / scales[:, None]).round_().clamp_(-INT8_MAX, INT8_MAX)
        return StoredWeight(quantized.to(torch.int8), bias, scales)
    return StoredWeight(weight.to(getattr(torch, storage)), bias)


# --- kernels ------------------------------------------------------------------------------------------------------
# The cache file stores these functions' names. A name that it no longer knows only costs another probe.


def float32_linear(stored: StoredWeight) -> Matmul:
    """Multiply in float32, for any storage. Weights in other storages are dequantized again in every call."""
    if stored.weight.dtype is torch.float32:
        return lambda x: F.linear(x.float(), stored.weight, stored.bias)
    return lambda x: F.linear(x.float(), stored.dequantize(), stored.bias)


def onednn_packed(stored: StoredWeight) -> Matmul:
    """Multiply with a float32 or bfloat16 weight in oneDNN's packed layout, which is a copy made once.

    torch may rename these private operators in any version.
    """
    dtype = stored.weight.dtype
    weight = torch.ops.mkldnn._reorder_linear_weight(stored.weight, 1)
    bias = None if stored.bias is None else stored.bias.to(dtype)
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x.to(dtype), weight, bias, "none", [], "")


def half_linear(stored: StoredWeight) -> Matmul:
    """Multiply in the weight's 16-bit dtype; this rounds inputs and outputs to 16 bits too."""
    dtype = stored.weight.dtype
    bias = None if stored.bias is None else stored.bias.to(dtype)
    return lambda x: F.linear(x.to(dtype), stored.weight, bias)


def int8_weight_only(stored: StoredWeight) -> Matmul:
    """Multiply int8 weights with inputs rounded to bfloat16."""
    assert stored.scales is not None
    weight, scales, bias = stored.weight, stored.scales.bfloat16(), stored.bias
    int8_matmul = torch._weight_int8pack_mm
    if bias is None:
        return lambda x: int8_matmul(x.bfloat16(), weight, scales)
    return lambda x: int8_matmul(x.bfloat16(), weight, scales) + bias


def int8_as_bfloat16(stored: StoredWeight) -> Matmul:
    """Upcast int8 weights to bfloat16, which is exact, in every call; inputs are rounded to bfloat16."""
    assert stored.scales is not None
    weight, scales, bias = stored.weight, stored.scales, stored.bias
    if bias is None:
        return lambda x: F.linear(x.bfloat16(), weight.bfloat16()) * scales
    return lambda x: (F.linear(x.bfloat16(), weight.bfloat16()) * scales).add_(bias)


def int8_dynamic(stored: StoredWeight) -> Matmul:
    """Multiply int8 weights with inputs quantized to 8 bits, for a single row only; the weights are a copy.

    The inputs' scale comes from the largest input, so several rows would share a scale and change each other.
    llama.cpp's q8_0 also quantizes its inputs, in blocks of 32.
    """
    assert stored.scales is not None
    zero_points = torch.zeros_like(stored.scales, dtype=torch.int64)
    with warnings.catch_warnings():  # torch deprecates this API; once it is gone, the probe skips this kernel
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(stored.weight, stored.scales.double(), zero_points, 0)
        packed_weight = torch.ops.quantized.linear_prepack(weight, stored.bias)
    linear = torch.ops.quantized.linear_dynamic
    return lambda x: linear(x.float(), packed_weight, False)


Kernel = Callable[[StoredWeight], Matmul]

KERNEL_GROUPS: dict[Storage, tuple[tuple[Kernel, ...], ...]] = {
    "float32": ((float32_linear,), (onednn_packed,)),
    "bfloat16": ((float32_linear, half_linear), (onednn_packed,)),
    "float16": ((float32_linear, half_linear),),
    "int8": ((float32_linear, int8_weight_only, int8_as_bfloat16, int8_dynamic),),
}
"""The candidates for each storage. The kernels of one group share the weight's memory, so each of `ROW_TIERS` may use
another kernel of the group; mixing groups would keep the weight twice. `float32_linear` is correct by definition."""

_KERNELS_BY_NAME: dict[str, Kernel] = {
    kernel.__name__: kernel for groups in KERNEL_GROUPS.values() for group in groups for kernel in group
}


class DecodeLinear:
    """A stored weight as a linear layer, with one kernel for each of `ROW_TIERS`."""

    def __init__(self, stored: StoredWeight, kernel_names: Sequence[str]) -> None:
        matmuls = {name: _KERNELS_BY_NAME[name](stored) for name in set(kernel_names)}
        self._one_row, self._few_rows, self._many_rows = (matmuls[name] for name in kernel_names)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (M, I) of any dtype to (M, O), in float32 or in the kernel's 16-bit dtype."""
        n_rows = x.shape[0]
        matmul = self._one_row if n_rows == 1 else self._few_rows if n_rows <= ROW_TIERS[1] else self._many_rows
        return matmul(x)


# --- tuning -------------------------------------------------------------------------------------------------------


def build_linears(weights: Sequence[StoredWeight], storage: Storage, *, tune_kernels: bool) -> list[DecodeLinear]:
    """Build a layer from each weight; all weights must have one shape. With `tune_kernels`, use the fastest kernels.

    Without it, and on a GPU, every layer uses `float32_linear`. The result of the tuning is stored in the user's cache
    folder, by processor, thread count, torch version, storage and shape.
    """
    if not tune_kernels or weights[0].weight.device.type != "cpu":
        return [DecodeLinear(stored, (float32_linear.__name__,) * len(ROW_TIERS)) for stored in weights]
    key = f"{_machine()}, {storage}, {' x '.join(str(size) for size in weights[0].weight.shape)}"
    choices = _read_choices()
    if not _is_usable_choice(choices.get(key), storage):
        choices[key] = list(fastest_kernels(weights, storage))
        _write_choices(choices)
    return [DecodeLinear(stored, choices[key]) for stored in weights]


def fastest_kernels(weights: Sequence[StoredWeight], storage: Storage) -> tuple[str, ...]:
    """Time all kernels on weights of one shape; return the name of the fastest accurate one for each of `ROW_TIERS`."""
    samples = _sample(weights)
    best: tuple[float, tuple[str, ...]] | None = None
    for group in KERNEL_GROUPS[storage]:
        seconds = {kernel.__name__: _kernel_seconds(kernel, samples, storage) for kernel in group}
        names = tuple(min(seconds, key=lambda name: seconds[name][tier]) for tier in range(len(ROW_TIERS)))
        score = math.prod(seconds[name][tier] for tier, name in enumerate(names))
        if best is None or score < best[0]:
            best = score, names
    assert best is not None
    return best[1]


def _sample(weights: Sequence[StoredWeight]) -> list[StoredWeight]:
    """Slice the weights into samples that together exceed the processor's caches, as the weights of a model do."""
    samples: list[StoredWeight] = []
    bytes_left = SAMPLE_BYTES
    for stored in weights:
        for first in range(0, stored.weight.shape[0], SAMPLE_OUTPUTS):
            outputs = slice(first, first + SAMPLE_OUTPUTS)
            bias, scales = (None if tensor is None else tensor[outputs] for tensor in (stored.bias, stored.scales))
            samples.append(StoredWeight(stored.weight[outputs], bias, scales))
            bytes_left -= samples[-1].weight.nbytes
            if bytes_left <= 0:
                return samples
    return samples


@torch.inference_mode()
def _kernel_seconds(kernel: Kernel, samples: Sequence[StoredWeight], storage: Storage) -> list[float]:
    """Return the seconds at each of `ROW_TIERS`; infinity where the kernel is missing or inaccurate."""
    generator = torch.Generator().manual_seed(0)
    seconds = []
    try:
        matmuls = [kernel(stored) for stored in samples]
        for n_rows in ROW_TIERS:
            if kernel is int8_dynamic and n_rows > 1:
                seconds.append(math.inf)
                continue
            x = torch.randn(n_rows, samples[0].weight.shape[1], generator=generator)
            if kernel is not float32_linear and not _is_accurate(matmuls[0](x), float32_linear(samples[0])(x), storage):
                return [math.inf] * len(ROW_TIERS)
            # One row is limited by memory, so read all samples. More rows are limited by arithmetic: one is enough.
            timed = matmuls if n_rows == 1 else matmuls[:1]
            seconds.append(min(_time(timed, x) for _ in range(TIMING_REPEATS)))
    except (RuntimeError, AttributeError):  # this torch or this processor lacks the operator
        return [math.inf] * len(ROW_TIERS)
    return seconds


def _is_accurate(actual: Tensor, expected: Tensor, storage: Storage) -> bool:
    return bool((actual - expected).abs().max() <= LARGEST_ERROR[storage] * expected.abs().max())


def _time(matmuls: Sequence[Matmul], x: Tensor) -> float:
    start = time.perf_counter()
    for matmul in matmuls:
        matmul(x)
    return time.perf_counter() - start


# --- the cache file -----------------------------------------------------------------------------------------------


def _machine() -> str:
    """Describe everything besides the weights that decides which kernel is fastest."""
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _processor() -> str:
    name = platform.processor() or platform.machine()
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        cpuinfo = ""
    model_name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return f"{model_name[1] if model_name else name} {torch.backends.cpu.get_cpu_capability()}"


def _cache_file() -> Path | None:
    folder = user_cache_folder()
    return None if folder is None else folder / "kernels.json"


def _read_choices() -> dict[str, Any]:
    """Return the stored choices by key; none if the file is missing or damaged. The values are not checked."""
    file = _cache_file()
    if file is None:
        return {}
    try:
        choices = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _write_choices(choices: dict[str, Any]) -> None:
    file = _cache_file()
    if file is None:
        return
    with suppress(OSError, SettingsError):  # without the file, the next start only takes longer
        write_atomic(file, json.dumps(choices, indent=1) + "\n")


def _is_usable_choice(value: object, storage: Storage) -> bool:
    """Return whether a stored choice names kernels of this storage, and `int8_dynamic` only for a single row.

    Choices of older versions can have names that no kernel has any more.
    """
    names = {kernel.__name__ for group in KERNEL_GROUPS[storage] for kernel in group}
    if not isinstance(value, list) or len(value) != len(ROW_TIERS):
        return False
    is_known = all(isinstance(name, str) and name in names for name in value)
    return is_known and int8_dynamic.__name__ not in value[1:]
