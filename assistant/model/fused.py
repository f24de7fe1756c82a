"""Compiled C loops (`fused.c`) for training on a CPU, where torch's own operations take several times as long.

This module owns the C interface: loading the library, checking it against torch, and one torch function for each loop.
It knows nothing about models, optimizers or batches. The library is compiled when the project is installed, if there is
a C compiler. Without it everything works, but more slowly.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.model.compiled import load_library

INTERFACE_VERSION = 3
"""Must equal `interface_version` in `fused.c`."""
PROBE_SIZE = 50_000
"""Elements of the tensors that the library is checked with: enough for several threads."""
TOLERANCE = 2**-7
"""Largest relative error of a bfloat16 result that is computed in another order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamStep:
    """Hyperparameters of one AdamW step (torch's names), the same for every weight of a group."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    eps: float
    step: int
    """Counted from 1."""
    factor: float
    """The gradient is multiplied by this."""


class _AdamArguments(ctypes.Structure):
    """`struct adamw` in `fused.c`."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("factor", "new_mean", "old_square", "new_square")),
        *((name, ctypes.c_float) for name in ("decay", "step_size", "root_correction", "epsilon")),
        ("is_wide", ctypes.c_int32),
    ]


class _AttentionArguments(ctypes.Structure):
    """`struct attention` in `fused.c`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "paths", "spans", "gradient", "out", "scratch")),
        ("scratch_size", ctypes.c_int64),
        *(
            (name, ctypes.c_int32)
            for name in ("rows", "longest", "heads", "kv_heads", "head_size", "is_wide", "threads")
        ),
    ]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The library and an empty text; or None and the problem, which is empty if no library is installed."""
    return load_library("assistant.model._fused", INTERFACE_VERSION, ("attention_scratch",), _agrees_with_torch)


def _agrees_with_torch(library: ctypes.CDLL) -> bool:
    """Whether GELU, AdamW and the squared norm match torch here. The first batch of a run checks attention."""
    x = torch.randn(PROBE_SIZE, generator=torch.Generator().manual_seed(0)).bfloat16().view(-1, 50)
    weight = x.float()
    settings = AdamStep(lr=0.1, betas=(0.5, 0.5), weight_decay=0.0, eps=1e-8, step=1, factor=1.0)
    adamw(weight, x, torch.zeros_like(weight), torch.zeros_like(weight), torch.empty_like(x), settings, library)
    results = (_activate("gelu", x, x.shape[1], library).float(), weight, squared_norm(x, library))
    # The first step of AdamW changes every weight by the learning rate.
    expected = (F.gelu(x.float(), approximate="tanh"), x.float() - 0.1 * x.float().sign(), x.float().square().sum())
    return all(
        torch.allclose(torch.as_tensor(result), target, rtol=TOLERANCE, atol=1e-3)
        for result, target in zip(results, expected, strict=True)
    )


def _require_library() -> ctypes.CDLL:
    library, _ = _library()
    assert library is not None, "check is_compiled() before calling a compiled loop"
    return library


def is_compiled() -> bool:
    """Whether the library is installed and correct."""
    return _library()[0] is not None


def problem() -> str | None:
    """A warning if the library is installed but cannot be used, else None."""
    fault = _library()[1]
    return f"{fault}. It is not used, which is slower. Install the project again." if fault else None


def supports(x: Tensor) -> bool:
    """Whether `gelu` and `squared_norm` accept a tensor: bfloat16, on a CPU, outside autocast."""
    is_narrow = x.dtype is torch.bfloat16 and x.device.type == "cpu"
    return is_narrow and not torch.is_autocast_enabled("cpu") and is_compiled()


def supports_norm(x: Tensor) -> bool:
    """Whether `rms_norm` accepts a tensor: float32, on a CPU, outside autocast."""
    is_wide = x.dtype is torch.float32 and x.device.type == "cpu"
    return is_wide and not torch.is_autocast_enabled("cpu") and is_compiled()


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU of a tensor that `supports` accepts, computed in float32 and rounded once."""
    out: Tensor = _Activation.apply(x, "gelu", x.shape[-1])  # type: ignore[no-untyped-call]
    return out


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * inner of x (N, 2 * W), gates before inner values, that `supports` accepts -> (N, W)."""
    out: Tensor = _Activation.apply(x, "swiglu", x.shape[-1] // 2)  # type: ignore[no-untyped-call]
    return out


class _Activation(torch.autograd.Function):
    """The loop `name` over the rows of x, which gives `width` numbers for each, and its `_backward`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, width: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.name = name
        return _activate(name, x, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        _call(f"{ctx.name}_backward", x, gradient.contiguous(), out, width=gradient.shape[-1])
        return out, None, None


def _activate(name: str, x: Tensor, width: int, library: ctypes.CDLL | None = None) -> Tensor:
    out = x.new_empty(*x.shape[:-1], width)
    _call(name, x, out, width=width, library=library)
    return out


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm of x (N, C) float32 on a CPU -> (N, C) bfloat16."""
    out: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return out


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        out = torch.empty_like(x, dtype=torch.bfloat16)
        _call("rms_norm", x, weight, out, numbers=[ctypes.c_float(epsilon)])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        row_block = ctypes.c_int64.in_dll(_require_library(), "row_block").value
        out, weight_gradients = torch.empty_like(x), torch.zeros(math.ceil(len(x) / row_block), x.shape[1])
        tensors = (x, weight, gradient.contiguous(), out, weight_gradients)
        _call("rms_norm_backward", *tensors, numbers=[ctypes.c_float(ctx.epsilon)])
        return out, weight_gradients.sum(dim=0), None


def add(x: Tensor, update: Tensor) -> Tensor:
    """x + update, both (N, C); in one pass if x is float32 and `supports` accepts the update."""
    if x.dtype is not torch.float32 or not supports(update):
        return x + update
    out: Tensor = _Add.apply(x, update)  # type: ignore[no-untyped-call]
    return out


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor) -> Tensor:
        del ctx
        x, out = x.contiguous(), torch.empty(x.shape)
        _call("add", x, update.contiguous(), out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return gradient, gradient.bfloat16()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor, n_turned: int) -> Tensor:
    """Turn the first heads of x (N, K * D) in place, by angles with cosines and sines (N, D / 2). Returns x.

    `supports` must accept x, and x must be contiguous and no view.
    """
    out: Tensor = _Rotate.apply(x, cosines, sines, n_turned)  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor, n_turned: int) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        ctx.n_turned = n_turned
        ctx.mark_dirty(x)
        return _rotate(x, cosines, sines, x, n_turned, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (cosines, sines), gradient = ctx.saved_tensors, gradient.contiguous()
        return _rotate(gradient, cosines, sines, torch.empty_like(gradient), ctx.n_turned, -1.0), None, None, None


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor, out: Tensor, n_turned: int, sign: float) -> Tensor:
    _check_tensors("rotary positions", (x, torch.bfloat16, x.shape))
    numbers = [ctypes.c_int64(2 * cosines.shape[1]), ctypes.c_int64(n_turned), ctypes.c_float(sign)]
    _call("rotate", x, cosines, sines, out, numbers=numbers)
    return out


def squared_norm(x: Tensor, library: ctypes.CDLL | None = None) -> float:
    """The sum of the squares of a tensor that `supports` accepts."""
    library, x = library or _require_library(), x.contiguous()
    block_size = ctypes.c_int64.in_dll(library, "block_size").value
    sums = torch.empty(math.ceil(x.numel() / block_size))
    library.squares(_pointer(x), _pointer(sums), *_size_and_threads(x))
    return float(sums.double().sum())


def adamw(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    copy: Tensor,
    settings: AdamStep,
    library: ctypes.CDLL | None = None,
) -> None:
    """Do one AdamW step in place, as torch's fused AdamW does, and write the new weight to its bfloat16 `copy`.

    All tensors have the same shape. `weight`, `exp_avg` and `exp_avg_sq` are float32. `gradient` is float32 or bfloat16
    and is multiplied by `settings.factor` first.

    Raises:
        ValueError: a tensor has another shape, dtype or device, or is not contiguous.
    """
    library, gradient = library or _require_library(), gradient.contiguous()
    is_narrow = gradient.dtype is torch.bfloat16
    wide = ((tensor, torch.float32) for tensor in (weight, exp_avg, exp_avg_sq))
    narrow = ((copy, torch.bfloat16), (gradient, torch.bfloat16 if is_narrow else torch.float32))
    _check_tensors("AdamW", *((tensor, dtype, weight.shape) for tensor, dtype in (*wide, *narrow)))
    bias_corrections = [1 - beta**settings.step for beta in settings.betas]
    arguments = _AdamArguments(
        factor=settings.factor,
        new_mean=1 - settings.betas[0],
        old_square=settings.betas[1],
        new_square=1 - settings.betas[1],
        decay=settings.lr * settings.weight_decay,
        step_size=settings.lr / bias_corrections[0],
        root_correction=math.sqrt(bias_corrections[1]),
        epsilon=settings.eps,
        is_wide=not is_narrow,
    )
    size, threads = _size_and_threads(weight)
    library.adamw(*map(_pointer, (weight, gradient, exp_avg, exp_avg_sq, copy)), size, ctypes.byref(arguments), threads)


def attend(qkv: Tensor, paths: Tensor, spans: Tensor, n_head: int, n_kv_head: int | None = None) -> Tensor:
    """Causal attention over the rows of a tree: qkv (N, (H + 2 * G) * D), float32 or bfloat16 -> (N, H * D).

    It is computed in float32. Each of the G heads of keys and values (by default H) serves H / G heads of queries.

    paths (B, longest) int32 has the tokens of each row in order. spans (B, 2) int32 has the position of the row's first
    token that no earlier row has, and the row's length. The output is zero for tokens that are in no row.

    Raises:
        ValueError: a tensor has another shape, dtype or device, or is not contiguous.
    """
    out: Tensor = _Attend.apply(qkv, paths, spans, n_head, n_kv_head or n_head)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, paths: Tensor, spans: Tensor, n_head: int, n_kv_head: int) -> Tensor:
        qkv = qkv.contiguous()
        ctx.save_for_backward(qkv, paths, spans)
        ctx.heads = n_head, n_kv_head
        out = qkv.new_zeros(len(qkv), qkv.shape[1] // (n_head + 2 * n_kv_head) * n_head)
        _run_attention("attention", qkv, paths, spans, ctx.heads, out=out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        qkv, paths, spans = ctx.saved_tensors
        out = torch.zeros(qkv.shape)
        _run_attention("attention_backward", qkv, paths, spans, ctx.heads, out=out, gradient=gradient.contiguous())
        return out.to(qkv.dtype), None, None, None, None


def _run_attention(
    function: str,
    qkv: Tensor,
    paths: Tensor,
    spans: Tensor,
    heads: tuple[int, int],
    *,
    out: Tensor,
    gradient: Tensor | None = None,
) -> None:
    """Call `attention` or `attention_backward` of the library, which writes to `out`."""
    n_head, n_kv_head = heads
    library, threads = _require_library(), min(n_head, torch.get_num_threads())
    (n_rows, longest), head_size = paths.shape, qkv.shape[1] // (n_head + 2 * n_kv_head)
    dtype = torch.float32 if qkv.dtype is torch.float32 else torch.bfloat16
    inputs = [(qkv, dtype, (len(qkv), (n_head + 2 * n_kv_head) * head_size))]
    inputs += [(paths, torch.int32, (n_rows, longest)), (spans, torch.int32, (n_rows, 2))]
    inputs += [] if gradient is None else [(gradient, dtype, (len(qkv), n_head * head_size))]
    _check_tensors("attention", *inputs)
    scratch = torch.zeros(threads, library.attention_scratch(ctypes.c_int64(longest), ctypes.c_int64(head_size)))
    arguments = _AttentionArguments(
        qkv=_pointer(qkv),
        paths=_pointer(paths),
        spans=_pointer(spans),
        gradient=None if gradient is None else _pointer(gradient),
        out=_pointer(out),
        scratch=_pointer(scratch),
        scratch_size=scratch.shape[1],
        rows=n_rows,
        longest=longest,
        heads=n_head,
        kv_heads=n_kv_head,
        head_size=head_size,
        is_wide=qkv.dtype is torch.float32,
        threads=threads,
    )
    getattr(library, function)(ctypes.byref(arguments))


def _check_tensors(where: str, *tensors: tuple[Tensor, torch.dtype, tuple[int, ...]]) -> None:
    """Raise ValueError unless each tensor has its dtype and shape and is contiguous on the CPU. C cannot check it."""
    for tensor, dtype, shape in tensors:
        if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
            actual = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, strides {tensor.stride()}"
            raise ValueError(f"{where}: expected a contiguous {dtype} {tuple(shape)} on the CPU, got {actual}.")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _call(
    name: str,
    first: Tensor,
    *others: Tensor,
    width: int | None = None,
    numbers: Sequence[Any] = (),
    library: ctypes.CDLL | None = None,
) -> None:
    """Call a loop over the rows of `first`, with the `width` of the last tensor's rows where it is another."""
    size = map(ctypes.c_int64, (first.numel() // first.shape[-1], width or first.shape[-1]))
    loop, threads = getattr(library or _require_library(), name), ctypes.c_int(torch.get_num_threads())
    loop(*map(_pointer, (first, *others)), *size, *numbers, threads)


def _size_and_threads(tensor: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int]:
    """The number of elements, and the number of threads to use."""
    return ctypes.c_int64(tensor.numel()), ctypes.c_int(torch.get_num_threads())
