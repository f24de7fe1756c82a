"""The loops in C, against torch in twice the width, or against torch's own optimizer."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assistant.cli.doctor import examine
from assistant.model import fused
from assistant.model.packing import PrefixTree, pack
from tests.support.models import requires_loops

pytestmark = requires_loops
BLOCK = 16384
"""What one thread works on at a time."""
SIZES = [1, 7, BLOCK, BLOCK + 3, 5 * BLOCK - 1]


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def exact_gelu(x: Tensor) -> Tensor:
    """In float64. torch's own takes a tanh from one there, which leaves nothing of the small results."""
    x = x.double()
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


@pytest.mark.parametrize("size", SIZES)
def test_gelu_is_the_exact_one_rounded(size: int) -> None:
    x, gradient = numbers(size, scale=3).bfloat16().requires_grad_(), numbers(size, seed=1).bfloat16()
    out = fused.gelu(x)
    out.backward(gradient)
    exact = x.detach().double().requires_grad_()
    exact_out = exact_gelu(exact)
    exact_out.backward(gradient.double())
    assert x.grad is not None
    assert exact.grad is not None
    for ours, theirs in ((out, exact_out), (x.grad, exact.grad)):
        ours, theirs = ours.detach(), theirs.detach()
        assert torch.allclose(ours.double(), theirs, rtol=2**-8, atol=1e-6)
        assert (ours != theirs.bfloat16()).double().mean() <= max(0.002, 1 / size)  # half-way cases alone


def test_gelu_of_every_bfloat16_number() -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    found, exact = fused.gelu(x).double(), exact_gelu(x)
    assert torch.equal(found.isnan(), exact.isnan())
    assert torch.allclose(found, exact, rtol=2**-8, atol=1e-35, equal_nan=True)
    theirs = F.gelu(x, approximate="tanh").double()
    is_usual = x.abs() < 1e3
    assert torch.allclose(found[is_usual], theirs[is_usual], rtol=2**-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_adamw_is_torchs_own(size: int, dtype: torch.dtype) -> None:
    weights = [torch.nn.Parameter(numbers(size)) for _ in range(2)]
    theirs = torch.optim.AdamW([weights[1]], lr=0.01, betas=(0.8, 0.99), weight_decay=0.3, eps=1e-6, fused=True)
    mean, square, copy = torch.zeros(size), torch.zeros(size), torch.empty(size, dtype=torch.bfloat16)
    for step in (1, 2, 3):
        gradient = numbers(size, seed=step).to(dtype)
        by = fused.AdamStep(lr=0.01, betas=(0.8, 0.99), weight_decay=0.3, eps=1e-6, step=step, factor=0.7)
        fused.adamw(weights[0].detach(), gradient, mean, square, copy, by)
        weights[1].grad = gradient.float() * 0.7
        theirs.step()
        state = theirs.state[weights[1]]
        for one, other in ((weights[0], weights[1]), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
        assert torch.equal(copy, weights[0].detach().bfloat16())


@pytest.mark.parametrize("size", SIZES)
def test_a_squared_norm(size: int) -> None:
    x = numbers(size).bfloat16()
    assert fused.squared_norm(x) == pytest.approx(x.double().square().sum().item(), rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6),
    n_head=st.integers(1, 3),
    head_size=st.sampled_from([1, 5, 16, 20]),
    is_wide=st.booleans(),
)
def test_attention_over_a_tree_is_that_over_each_row(
    rows: list[list[int]], n_head: int, head_size: int, is_wide: bool
) -> None:
    layout = pack([tuple(ids) for ids in rows], [tuple(ids) for ids in rows], pad_id=0, as_tree=True)
    assert isinstance(layout.rows, PrefixTree)
    width, size = n_head * head_size, len(layout.input_ids)
    dtype = torch.float32 if is_wide else torch.bfloat16
    qkv = numbers(size, 3 * width).to(dtype).requires_grad_()
    gradient = numbers(size, width, seed=1).to(dtype)
    out = fused.attend(qkv, layout.rows.paths, layout.rows.spans, n_head)
    out.backward(gradient)
    exact_qkv, exact = qkv.detach().double().requires_grad_(), torch.zeros(size, width).double()
    for path, (first, length) in zip(layout.rows.paths.tolist(), layout.rows.spans.tolist(), strict=True):
        of_row = exact_qkv[path[:length]].view(length, 3, n_head, head_size).permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(*of_row, is_causal=True).transpose(0, 1).reshape(length, width)
        exact = exact.index_copy(0, torch.tensor(path[first:length], dtype=torch.int64), attended[first:])
    exact.backward(gradient.double())
    assert qkv.grad is not None
    assert exact_qkv.grad is not None
    for ours, theirs in ((out, exact), (qkv.grad, exact_qkv.grad)):
        margin = 1e-5 if is_wide else 2**-8
        assert (ours.double() - theirs).abs().max() <= margin * max(1.0, theirs.abs().max().item())


def test_nothing_depends_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            x = numbers(2 * BLOCK + 9).bfloat16().requires_grad_()
            out = fused.gelu(x)
            out.backward(torch.ones_like(out))
            layout = pack([(1, 2, 3, 4), (1, 2, 5)], [(1, 2, 3, 4), (1, 2, 5)], pad_id=0, as_tree=True)
            qkv = numbers(len(layout.input_ids), 3 * 8).requires_grad_()
            assert isinstance(layout.rows, PrefixTree)
            attended = fused.attend(qkv, layout.rows.paths, layout.rows.spans, 2)
            attended.backward(torch.ones_like(attended))
            found.append((out, x.grad, attended, qkv.grad, torch.tensor(fused.squared_norm(x.detach()))))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was found out about the loops is found out anew, here and behind it."""
    fused._library.cache_clear()
    yield
    fused._library.cache_clear()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("origin", [None, __file__, "/nowhere/_fused.so"])
def test_without_loops_that_can_be_loaded_nothing_is_taken(monkeypatch: pytest.MonkeyPatch, origin: str | None) -> None:
    spec = None if origin is None else SimpleNamespace(origin=origin)
    monkeypatch.setattr(fused, "find_spec", lambda _: spec)
    assert not fused.is_compiled()
    assert not fused.takes(numbers(3).bfloat16())
    trouble = fused.trouble()
    (finding,) = (finding for finding in examine(None) if finding.name == "compiled loops")
    if origin is None:
        assert trouble is None
        assert "C compiler" in finding.advice
    else:
        assert trouble is not None
        assert trouble.startswith(f"{origin}: expected loops")
        assert (finding.ok, finding.advice) == (False, trouble)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("name", ["_gelu", "squared_norm"])
def test_loops_that_are_wrong_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = getattr(fused, name)
    monkeypatch.setattr(fused, name, lambda *given: right(*given) * 1.1)
    assert not fused.is_compiled()
    trouble = fused.trouble()
    assert trouble is not None
    assert "got others. They are left out" in trouble


@pytest.mark.usefixtures("forgotten")
def test_loops_of_another_version_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "INTERFACE_VERSION", fused.INTERFACE_VERSION + 1)
    monkeypatch.setattr(fused, "_is_right", lambda _: pytest.fail("they were called"))
    trouble = fused.trouble()
    assert trouble is not None
    assert "got those of another version" in trouble


def test_what_is_taken() -> None:
    x = numbers(random.Random(0).randrange(2, 9)).bfloat16()
    assert fused.takes(x)
    assert not fused.takes(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused.takes(x)


def test_what_would_be_read_or_written_beside_a_tensor_is_refused() -> None:
    by = fused.AdamStep(lr=0.1, betas=(0.9, 0.9), weight_decay=0.0, eps=1e-8, step=1, factor=1.0)
    wide, narrow = torch.zeros(4, 4), torch.zeros(4, 4).bfloat16()
    for arguments in (
        (wide, wide[:2], wide, wide, narrow),
        (wide, wide, wide, wide, wide),
        (wide, wide.half(), wide, wide, narrow),
        (torch.ones(4, 4).t(), wide, wide, wide, narrow),
    ):
        with pytest.raises(ValueError, match="AdamW: expected"):
            fused.adamw(*arguments, by)
    paths, spans = torch.zeros(1, 2, dtype=torch.int32), torch.tensor([[0, 2]], dtype=torch.int32)
    for qkv, some_paths, some_spans in (
        (torch.zeros(2, 12).half(), paths, spans),
        (torch.zeros(2, 13), paths, spans),
        (torch.zeros(2, 12), paths.long(), spans),
        (torch.zeros(2, 12), paths, spans[0]),
    ):
        with pytest.raises(ValueError, match="attention: expected"):
            fused.attend(qkv, some_paths, some_spans, 2)
