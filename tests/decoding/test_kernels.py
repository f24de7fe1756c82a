"""Storages and torch's kernels against float64."""

from __future__ import annotations

import pytest
import torch

from assistant.decoding import kernels
from assistant.decoding.kernels import FEW_ROWS, DecodeLinear, StoredWeight, store_weight
from assistant.settings import Storage

STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "float16", "int8")


LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3, "int8": 2e-2}
"""Against float64 arithmetic on the stored weight, as a share of the largest output."""


def random_weights(storage: Storage, *, count: int = 2, bias: bool = True) -> list[StoredWeight]:
    generator = torch.Generator().manual_seed(1)
    return [
        store_weight(
            torch.randn(96, 64, generator=generator) * 0.1,
            torch.randn(96, generator=generator) if bias else None,
            storage,
        )
        for _ in range(count)
    ]


def test_storages_round_as_much_as_their_format() -> None:
    weight = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0  # an output feature whose int8 scale would be zero
    max_errors: dict[Storage, float] = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 0.6 / 127}
    for storage, max_error in max_errors.items():
        error = (store_weight(weight, None, storage).dequantize() - weight).abs().amax(dim=1)
        assert (error <= max_error * weight.abs().amax(dim=1)).all(), storage


def test_float32_storage_shares_the_weight() -> None:
    weight = torch.randn(8, 500)
    assert store_weight(weight, None, "float32").weight.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("has_units", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_every_kernel_is_accurate(
    storage: Storage, bias: bool, has_units: bool, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_has_matrix_units", lambda: has_units)
    (stored,) = random_weights(storage, count=1, bias=bias)
    linear = DecodeLinear(stored, plain=plain)
    for n_rows in (1, 2, FEW_ROWS, FEW_ROWS + 1, 70):
        x = torch.randn(n_rows, 64, generator=torch.Generator().manual_seed(n_rows))
        expected = x.double() @ stored.dequantize().double().T
        if stored.bias is not None:
            expected += stored.bias
        actual = linear(x)
        assert actual.is_floating_point()
        largest_error = LARGEST_ERROR["float32" if plain else storage]
        assert (actual - expected).abs().max() <= largest_error * expected.abs().max()
