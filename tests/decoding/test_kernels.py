"""Kernels against float64, how they are chosen, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from assistant.decoding import kernels
from assistant.decoding.kernels import ARRANGEMENTS, LARGEST_ERROR, TIERS, Kept, Product, choose, keep, matrices
from assistant.settings import Storage

STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "float16", "int8")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def weights(storage: Storage, *, count: int = 2, bias: bool = True) -> list[Kept]:
    generator = torch.Generator().manual_seed(1)
    return [
        keep(
            torch.randn(96, 64, generator=generator) * 0.1,
            torch.randn(96, generator=generator) if bias else None,
            storage,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("bias", [True, False])
def test_every_kernel_is_right(storage: Storage, bias: bool) -> None:
    (kept,) = weights(storage, count=1, bias=bias)
    for kernel in {kernel for arrangement in ARRANGEMENTS[storage] for kernel in arrangement}:
        try:
            product = kernel(kept)
        except (RuntimeError, AttributeError):
            continue  # this torch has none; `choose` leaves it out
        for n_rows in TIERS if kernel is not kernels.dynamic else (1,):
            x = torch.randn(n_rows, 64, generator=torch.Generator().manual_seed(n_rows))
            expected = x.double() @ kept.restored().double().T
            if kept.bias is not None:
                expected += kept.bias
            found = product(x)
            assert found.is_floating_point()
            assert (found - expected).abs().max() <= LARGEST_ERROR[storage] * expected.abs().max(), kernel.__name__


def test_what_a_storage_loses() -> None:
    weight = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0  # a row without a scale
    for storage, share in {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8, "int8": 0.6 / 127}.items():
        lost = (keep(weight, None, storage).restored() - weight).abs().amax(dim=1)  # type: ignore[arg-type]
        assert (lost <= share * weight.abs().amax(dim=1)).all(), storage
    assert keep(weight, None, "float32").weight.data_ptr() == weight.data_ptr()  # shared, not copied


def test_a_kernel_that_is_wrong_or_missing_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(kept: Kept) -> Product:
        return lambda x: x.new_zeros(x.shape[0], kept.weight.shape[0])

    def missing(_: Kept) -> Product:
        raise AttributeError("no such operator")

    def fails_at_many(kept: Kept) -> Product:
        def product(x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 1:
                raise RuntimeError("unsupported")
            return kernels.plain(kept)(x)

        return product

    monkeypatch.setitem(ARRANGEMENTS, "float32", ((kernels.plain, wrong), (missing,), (fails_at_many,)))
    assert choose(weights("float32"), "float32") == ("plain",) * len(TIERS)


def test_the_fastest_kernel_is_chosen_for_each_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"plain": [2.0, 2.0, 1.0], "narrow": [1.0, 3.0, 3.0], "packed": [1.5, 1.5, 1.5]}
    monkeypatch.setattr(kernels, "_seconds", lambda kernel, *_: times[kernel.__name__])
    assert choose(weights("float16"), "float16") == ("narrow", "plain", "plain")
    assert choose(weights("bfloat16"), "bfloat16") == ("narrow", "plain", "plain")  # 1 * 2 * 1 against 1.5 ** 3
    times["packed"] = [1.2, 1.2, 1.2]
    assert choose(weights("bfloat16"), "bfloat16") == ("packed",) * 3


def test_a_choice_is_remembered_and_a_damaged_memory_forgotten(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(kernels, "choose", lambda *_: asked.append(1) or ("plain", "narrow", "plain"))
    for _ in range(2):
        matrices(weights("float16"), "float16", is_chosen=True)
    assert len(asked) == 1
    (file,) = cache_folder.rglob("kernels.json")
    for text in ("{", "[]", file.read_text().replace("narrow", "__import__"), file.read_text().replace("narrow", "")):
        file.write_text(text)
        matrices(weights("float16"), "float16", is_chosen=True)
    assert len(asked) == 5
    matrices(weights("float16"), "float16", is_chosen=False)
    assert len(asked) == 5
    file.write_text(file.read_text().replace('"narrow"', "[]"))
    matrices(weights("float16"), "float16", is_chosen=True)
    assert len(asked) == 6


def test_rows_never_share_what_a_remembered_choice_rounds_them_by() -> None:
    assert kernels._is_choice(["dynamic", "steps", "plain"], "int8")
    assert not kernels._is_choice(["dynamic", "dynamic", "dynamic"], "int8")


def test_without_a_place_to_remember_it_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    x = torch.randn(3, 64)
    for matrix in matrices(weights("float32"), "float32", is_chosen=True):
        assert matrix(x).shape == (3, 96)
