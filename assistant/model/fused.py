"""Loops in C (`fused.c`) where torch's own operations take several times as long, to train on a processor with.

They are compiled when the project is installed, if there is a C compiler. Without them everything works, more slowly.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

INTERFACE_VERSION = 1
"""As in `fused.c`: whoever has new sources may still have an old library."""
PROBED = 50_000
"""Numbers that the loops are tried on: enough for several threads."""
LARGEST_ERROR = 2**-7
"""Between a bfloat16 number and one computed in another order, as a share of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamStep:
    """The numbers of one step of AdamW (torch's names), the same for every weight of a group."""

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    eps: float
    step: int
    """Counted from 1."""
    factor: float
    """What the gradient is multiplied by."""


class _AdamNumbers(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_float)
        for name in (
            *("factor", "new_mean", "old_square", "new_square"),
            *("decay", "step_size", "root_correction", "epsilon"),
        )
    ]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "paths", "spans", "gradient", "out", "scratch")),
        ("scratch_size", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("rows", "longest", "heads", "head_size", "is_wide", "threads")),
    ]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled loops; or None, and what is wrong with them if they are there."""
    spec = find_spec("assistant.model._fused")
    if spec is None or spec.origin is None:
        return None, ""
    try:
        library = ctypes.CDLL(spec.origin)
        library.attention_scratch.restype = ctypes.c_int64
        version = ctypes.c_int64.in_dll(library, "interface_version").value
        if version == INTERFACE_VERSION and _is_right(library):
            return library, ""
        found = "others" if version == INTERFACE_VERSION else "those of another version"
    except (OSError, AttributeError, ValueError) as error:  # no library, one for another machine, or a very old one
        found = str(error)
    return None, f"{spec.origin}: expected loops that compute here what torch does, got {found}"


def _is_right(library: ctypes.CDLL) -> bool:
    """Whether the loops agree with torch here. That over rows is compared by the first batch of a run."""
    x = torch.randn(PROBED, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight, by = x.float(), AdamStep(lr=0.1, betas=(0.5, 0.5), weight_decay=0.0, eps=1e-8, step=1, factor=1.0)
    adamw(weight, x, torch.zeros(PROBED), torch.zeros(PROBED), torch.empty_like(x), by, library)
    # The first step of AdamW is as long as the rate for every weight.
    found = (_gelu(library, x).float(), weight, squared_norm(x, library))
    expected = (F.gelu(x.float(), approximate="tanh"), x.float() - 0.1 * x.float().sign(), x.float().square().sum())
    return all(
        torch.allclose(torch.as_tensor(one), other, rtol=LARGEST_ERROR, atol=1e-3)
        for one, other in zip(found, expected, strict=True)
    )


def _loops() -> ctypes.CDLL:
    library, _ = _library()
    assert library is not None, "the loops are asked for where there are none"
    return library


def is_compiled() -> bool:
    """Whether the loops are there, and right."""
    return _library()[0] is not None


def trouble() -> str | None:
    """A warning where there are loops that cannot be used."""
    found = _library()[1]
    return f"{found}. They are left out, which is slower. Install the project again." if found else None


def takes(x: Tensor) -> bool:
    """Whether there are loops for a tensor: bfloat16, on a processor, and the operations are not autocast's to pick."""
    is_narrow = x.dtype is torch.bfloat16 and x.device.type == "cpu"
    return is_narrow and not torch.is_autocast_enabled("cpu") and is_compiled()


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU of a tensor that `takes` accepts, computed in float32 and rounded once."""
    out: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
    return out


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        library, x = _loops(), x.contiguous()
        ctx.save_for_backward(x)
        return _gelu(library, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,), gradient = ctx.saved_tensors, gradient.contiguous()
        out = torch.empty_like(x)
        _loops().gelu_backward(_at(x), _at(gradient), _at(out), *_shared_out(x))
        return out


def _gelu(library: ctypes.CDLL, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    library.gelu(_at(x), _at(out), *_shared_out(x))
    return out


def squared_norm(x: Tensor, library: ctypes.CDLL | None = None) -> float:
    """The sum of the squares of a tensor that `takes` accepts."""
    library, x = library or _loops(), x.contiguous()
    block_size = ctypes.c_int64.in_dll(library, "block_size").value
    sums = torch.empty(math.ceil(x.numel() / block_size))
    library.squares(_at(x), _at(sums), *_shared_out(x))
    return float(sums.double().sum())


def adamw(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    copy: Tensor,
    by: AdamStep,
    library: ctypes.CDLL | None = None,
) -> None:
    """One step of AdamW as torch's fused one has it, in place, and the weight's bfloat16 copy made anew.

    All of one shape, float32 but for the copy, and the gradient, which may be bfloat16, too.
    """
    library, gradient = library or _loops(), gradient.contiguous()
    is_narrow = gradient.dtype is torch.bfloat16
    wide = ((tensor, torch.float32) for tensor in (weight, exp_avg, exp_avg_sq))
    narrow = ((copy, torch.bfloat16), (gradient, torch.bfloat16 if is_narrow else torch.float32))
    _check("AdamW", *((tensor, dtype, weight.shape) for tensor, dtype in (*wide, *narrow)))
    corrections = [1 - beta**by.step for beta in by.betas]
    numbers = _AdamNumbers(
        factor=by.factor,
        new_mean=1 - by.betas[0],
        old_square=by.betas[1],
        new_square=1 - by.betas[1],
        decay=by.lr * by.weight_decay,
        step_size=by.lr / corrections[0],
        root_correction=math.sqrt(corrections[1]),
        epsilon=by.eps,
    )
    loop, (size, threads) = library.adamw if is_narrow else library.adamw_wide, _shared_out(weight)
    loop(*map(_at, (weight, gradient, exp_avg, exp_avg_sq, copy)), size, ctypes.byref(numbers), threads)


def attend(qkv: Tensor, paths: Tensor, spans: Tensor, n_head: int) -> Tensor:
    """Causal attention over the rows of a tree: qkv (N, 3 * C), float32 or bfloat16 -> (N, C), computed in float32.

    paths (B, longest) int32 are the tokens of each row in order, spans (B, 2) int32 the place of its first token that
    stands in no row before it, and its length. Tokens of no row get zeros.
    """
    out: Tensor = _Attend.apply(qkv, paths, spans, n_head)  # type: ignore[no-untyped-call]
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, paths: Tensor, spans: Tensor, n_head: int) -> Tensor:
        qkv = qkv.contiguous()
        ctx.save_for_backward(qkv, paths, spans)
        ctx.n_head = n_head
        out = qkv.new_zeros(len(qkv), qkv.shape[1] // 3)
        _run_attention("attention", qkv, paths, spans, n_head, out=out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        qkv, paths, spans = ctx.saved_tensors
        out = torch.zeros(qkv.shape)
        _run_attention("attention_backward", qkv, paths, spans, ctx.n_head, out=out, gradient=gradient.contiguous())
        return out.to(qkv.dtype), None, None, None


def _run_attention(
    name: str, qkv: Tensor, paths: Tensor, spans: Tensor, n_head: int, *, out: Tensor, gradient: Tensor | None = None
) -> None:
    library, threads = _loops(), min(n_head, torch.get_num_threads())
    (n_rows, longest), head_size = paths.shape, qkv.shape[1] // 3 // n_head
    dtype = torch.float32 if qkv.dtype is torch.float32 else torch.bfloat16
    given = [(qkv, dtype, (len(qkv), 3 * n_head * head_size))]
    given += [(paths, torch.int32, (n_rows, longest)), (spans, torch.int32, (n_rows, 2))]
    given += [] if gradient is None else [(gradient, dtype, (len(qkv), n_head * head_size))]
    _check("attention", *given)
    scratch = torch.zeros(threads, library.attention_scratch(ctypes.c_int64(longest), ctypes.c_int64(head_size)))
    by = _Attention(
        **{name: _at(tensor) for name, tensor in (("qkv", qkv), ("paths", paths), ("spans", spans), ("out", out))},
        gradient=None if gradient is None else _at(gradient),
        scratch=_at(scratch),
        scratch_size=scratch.shape[1],
        rows=n_rows,
        longest=longest,
        heads=n_head,
        head_size=head_size,
        is_wide=qkv.dtype is torch.float32,
        threads=threads,
    )
    getattr(library, name)(ctypes.byref(by))


def _check(where: str, *given: tuple[Tensor, torch.dtype, tuple[int, ...]]) -> None:
    """Raise ValueError unless tensors are as the loops will take them to be: those look at nothing themselves."""
    for tensor, dtype, shape in given:
        if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
            found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, strides {tensor.stride()}"
            raise ValueError(f"{where}: expected {dtype} {tuple(shape)} in one piece on the processor, got {found}.")


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _shared_out(tensor: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int]:
    """How many numbers there are, for how many threads."""
    return ctypes.c_int64(tensor.numel()), ctypes.c_int(torch.get_num_threads())
