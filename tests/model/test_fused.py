"""The C loops: against torch in float64, and against torch's own optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assistant.cli.doctor import examine
from assistant.model import fused
from assistant.model.packing import PrefixTree, pack
from tests.support.libraries import replace_library
from tests.support.models import requires_loops

pytestmark = requires_loops
BLOCK = 16384
"""Elements that one thread processes at a time."""
SIZES = [1, 7, BLOCK, BLOCK + 3, 5 * BLOCK - 1]


def random_tensor(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def exact_gelu(x: Tensor) -> Tensor:
    """GELU in float64. torch's own subtracts a tanh from 1 there, so small results lose all their digits."""
    x = x.double()
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


@pytest.mark.parametrize("size", SIZES)
def test_gelu_is_the_rounded_exact_result(size: int) -> None:
    x, gradient = random_tensor(size, scale=3).bfloat16().requires_grad_(), random_tensor(size, seed=1).bfloat16()
    out = fused.gelu(x)
    out.backward(gradient)
    exact = x.detach().double().requires_grad_()
    exact_out = exact_gelu(exact)
    exact_out.backward(gradient.double())
    assert x.grad is not None
    assert exact.grad is not None
    for ours, expected in ((out, exact_out), (x.grad, exact.grad)):
        ours, expected = ours.detach(), expected.detach()
        assert torch.allclose(ours.double(), expected, rtol=2**-8, atol=1e-6)
        # float32 arithmetic can round differently where the exact result is almost half-way between two numbers.
        assert (ours != expected.bfloat16()).double().mean() <= max(0.002, 1 / size)


def test_gelu_of_every_bfloat16_number() -> None:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    ours, exact = fused.gelu(x).double(), exact_gelu(x)
    assert torch.equal(ours.isnan(), exact.isnan())
    assert torch.allclose(ours, exact, rtol=2**-8, atol=1e-35, equal_nan=True)
    of_torch = F.gelu(x, approximate="tanh").double()
    is_moderate = x.abs() < 1e3
    assert torch.allclose(ours[is_moderate], of_torch[is_moderate], rtol=2**-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_adamw_matches_torchs_fused_adamw(size: int, dtype: torch.dtype) -> None:
    weight, torch_weight = (torch.nn.Parameter(random_tensor(size)) for _ in range(2))
    optimizer = torch.optim.AdamW([torch_weight], lr=0.01, betas=(0.8, 0.99), weight_decay=0.3, eps=1e-6, fused=True)
    exp_avg, exp_avg_sq, copy = torch.zeros(size), torch.zeros(size), torch.empty(size, dtype=torch.bfloat16)
    for step in (1, 2, 3):
        gradient = random_tensor(size, seed=step).to(dtype)
        adam_step = fused.AdamStep(lr=0.01, betas=(0.8, 0.99), weight_decay=0.3, eps=1e-6, step=step, factor=0.7)
        fused.adamw(weight.detach(), gradient, exp_avg, exp_avg_sq, copy, adam_step)
        torch_weight.grad = gradient.float() * 0.7
        optimizer.step()
        state = optimizer.state[torch_weight]
        pairs = (weight, torch_weight), (exp_avg, state["exp_avg"]), (exp_avg_sq, state["exp_avg_sq"])
        for ours, expected in pairs:
            assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(copy, weight.detach().bfloat16())


@pytest.mark.parametrize("size", SIZES)
def test_squared_norm_matches_float64(size: int) -> None:
    x = random_tensor(size).bfloat16()
    assert fused.squared_norm(x) == pytest.approx(x.double().square().sum().item(), rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6),
    n_kv_head=st.integers(1, 3),
    group=st.integers(1, 3),
    head_size=st.sampled_from([1, 5, 16, 20]),
    is_wide=st.booleans(),
)
def test_attention_over_a_tree_matches_attention_over_each_row(
    rows: list[list[int]], n_kv_head: int, group: int, head_size: int, is_wide: bool
) -> None:
    batch = pack([tuple(ids) for ids in rows], [tuple(ids) for ids in rows], pad_id=0, as_tree=True)
    assert isinstance(batch.rows, PrefixTree)
    n_head, size = group * n_kv_head, len(batch.input_ids)
    width = n_head * head_size
    dtype = torch.float32 if is_wide else torch.bfloat16
    qkv = random_tensor(size, width + 2 * n_kv_head * head_size).to(dtype).requires_grad_()
    gradient = random_tensor(size, width, seed=1).to(dtype)
    out = fused.attend(qkv, batch.rows.paths, batch.rows.spans, n_head, n_kv_head)
    out.backward(gradient)
    exact_qkv, exact = qkv.detach().double().requires_grad_(), torch.zeros(size, width).double()
    for path, (first, length) in zip(batch.rows.paths.tolist(), batch.rows.spans.tolist(), strict=True):
        heads = exact_qkv[path[:length]].view(length, -1, head_size).transpose(0, 1)
        query, key, value = heads.split([n_head, n_kv_head, n_kv_head])
        key, value = key.repeat_interleave(group, dim=0), value.repeat_interleave(group, dim=0)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(0, 1).reshape(length, width)
        exact = exact.index_copy(0, torch.tensor(path[first:length], dtype=torch.int64), attended[first:])
    exact.backward(gradient.double())
    assert qkv.grad is not None
    assert exact_qkv.grad is not None
    for ours, expected in ((out, exact), (qkv.grad, exact_qkv.grad)):
        tolerance = 1e-5 if is_wide else 2**-8
        assert (ours.double() - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads_before = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            x = random_tensor(2 * BLOCK // 9 + 9, 9).bfloat16().requires_grad_()
            out = fused.gelu(x)
            out.backward(torch.ones_like(out))
            batch = pack([(1, 2, 3, 4), (1, 2, 5)], [(1, 2, 3, 4), (1, 2, 5)], pad_id=0, as_tree=True)
            qkv = random_tensor(len(batch.input_ids), 3 * 8).requires_grad_()
            assert isinstance(batch.rows, PrefixTree)
            attended = fused.attend(qkv, batch.rows.paths, batch.rows.spans, 2)
            attended.backward(torch.ones_like(attended))
            results.append((out, x.grad, attended, qkv.grad, torch.tensor(fused.squared_norm(x.detach()))))
    finally:
        torch.set_num_threads(threads_before)
    for with_one, with_three in zip(*results, strict=True):
        assert torch.equal(with_one, with_three)


@pytest.fixture
def reload_library() -> Iterator[None]:
    """Load and check the library again, in this test and after it."""
    fused._library.cache_clear()
    yield
    fused._library.cache_clear()


@pytest.mark.usefixtures("reload_library")
@pytest.mark.parametrize("origin", [None, __file__, "/nowhere/_fused.so"])
def test_a_missing_or_unloadable_library_is_not_used(monkeypatch: pytest.MonkeyPatch, origin: str | None) -> None:
    replace_library(monkeypatch, "assistant.model._fused", origin)
    assert not fused.is_compiled()
    assert not fused.supports(random_tensor(3).bfloat16())
    problem = fused.problem()
    (finding,) = (finding for finding in examine(None) if finding.name == "compiled loops")
    if origin is None:
        assert problem is None
        assert "C compiler" in finding.advice
    else:
        assert problem is not None
        assert problem.startswith(f"{origin}: expected a compiled library")
        assert (finding.ok, finding.advice) == (False, problem)


@pytest.mark.usefixtures("reload_library")
@pytest.mark.parametrize("name", ["_activate", "squared_norm"])
def test_a_library_with_wrong_results_is_not_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    correct = getattr(fused, name)
    monkeypatch.setattr(fused, name, lambda *arguments: correct(*arguments) * 1.1)
    assert not fused.is_compiled()
    problem = fused.problem()
    assert problem is not None
    assert "got different results. It is not used" in problem


@pytest.mark.usefixtures("reload_library")
def test_a_library_of_another_interface_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "INTERFACE_VERSION", fused.INTERFACE_VERSION + 1)
    monkeypatch.setattr(fused, "_agrees_with_torch", lambda _: pytest.fail("the library was called"))
    problem = fused.problem()
    assert problem is not None
    assert (
        f"of version {fused.INTERFACE_VERSION} that matches torch, got interface version {fused.INTERFACE_VERSION - 1}"
        in problem
    )


def test_only_bfloat16_outside_autocast_is_supported() -> None:
    x = random_tensor(8).bfloat16()
    assert fused.supports(x)
    assert not fused.supports(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not fused.supports(x)


def test_tensors_that_c_would_misread_are_refused() -> None:
    adam_step = fused.AdamStep(lr=0.1, betas=(0.9, 0.9), weight_decay=0.0, eps=1e-8, step=1, factor=1.0)
    wide, narrow = torch.zeros(4, 4), torch.zeros(4, 4).bfloat16()
    for arguments in (
        (wide, wide[:2], wide, wide, narrow),
        (wide, wide, wide, wide, wide),
        (wide, wide.half(), wide, wide, narrow),
        (torch.ones(4, 4).t(), wide, wide, wide, narrow),
    ):
        with pytest.raises(ValueError, match="AdamW: expected"):
            fused.adamw(*arguments, adam_step)
    paths, spans = torch.zeros(1, 2, dtype=torch.int32), torch.tensor([[0, 2]], dtype=torch.int32)
    for qkv, given_paths, given_spans in (
        (torch.zeros(2, 12).half(), paths, spans),
        (torch.zeros(2, 13), paths, spans),
        (torch.zeros(2, 12), paths.long(), spans),
        (torch.zeros(2, 12), paths, spans[0]),
    ):
        with pytest.raises(ValueError, match="attention: expected"):
            fused.attend(qkv, given_paths, given_spans, 2)


# --- the Llama family --------------------------------------------------------------------------------------------


def check_against_float64(compute: Callable[..., Tensor], exactly: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare a loop's result and the gradients of its inputs with torch's in float64."""
    given = [tensor.clone().requires_grad_() for tensor in inputs]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    out, expected = compute(*given), exactly(*exact)
    gradient = random_tensor(*out.shape, seed=7).to(out.dtype)
    out.backward(gradient)
    expected.backward(gradient.double())
    assert out.dtype is torch.bfloat16
    for ours, theirs in [(out, expected), *((a.grad, b.grad) for a, b in zip(given, exact, strict=True))]:
        assert ours is not None
        assert theirs is not None
        tolerance = 2**-8 if ours.dtype is torch.bfloat16 else 1e-5
        assert (ours.double() - theirs).abs().max() <= tolerance * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 2), (5, 6), (70, 200), (33, 3072)])
def test_swiglu_matches_float64(shape: tuple[int, int]) -> None:
    def exactly(x: Tensor) -> Tensor:
        gate, inner = x.chunk(2, dim=1)
        return F.silu(gate) * inner

    check_against_float64(fused.swiglu, exactly, random_tensor(*shape, scale=3).bfloat16())


@pytest.mark.parametrize("shape", [(1, 1), (5, 6), (70, 200), (33, 576)])
def test_rms_norm_matches_float64(shape: tuple[int, int]) -> None:
    check_against_float64(
        lambda x, weight: fused.rms_norm(x, weight, 1e-5),
        lambda x, weight: F.rms_norm(x, x.shape[1:], weight, 1e-5),
        random_tensor(*shape),
        1 + random_tensor(shape[1], seed=4) / 4,
    )


@pytest.mark.parametrize(("n_turned", "size"), [(1, 2), (3, 10), (4, 64)])
def test_rotation_matches_float64(n_turned: int, size: int) -> None:
    angles = random_tensor(9, size // 2, seed=5, scale=3)

    def exactly(x: Tensor) -> Tensor:
        first, second = x[:, :n_turned].chunk(2, dim=2)
        cosines, sines = angles.double().cos()[:, None], angles.double().sin()[:, None]
        turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=2)
        return torch.cat([turned, x[:, n_turned:]], dim=1)

    x = random_tensor(9, n_turned + 2, size).bfloat16()

    def in_place(x: Tensor) -> Tensor:
        flat = x.flatten(1) * 1  # neither a leaf nor a view
        turned = fused.rotate(flat, angles.cos(), angles.sin(), n_turned)
        assert turned.data_ptr() == flat.data_ptr()
        return turned.view(x.shape)

    check_against_float64(in_place, exactly, x)


def test_add_is_exact_in_float32_and_passes_the_gradient_on() -> None:
    x, update = random_tensor(5, 33).requires_grad_(), random_tensor(5, 33, seed=4).bfloat16().requires_grad_()
    out, slope = fused.add(x, update), random_tensor(5, 33, seed=6)
    assert torch.equal(out, x + update)
    out.backward(slope)
    assert x.grad is not None
    assert update.grad is not None
    assert torch.equal(x.grad, slope)
    assert torch.equal(update.grad, slope.bfloat16())
    assert torch.equal(fused.add(x.double(), update), x.double() + update)
