"""Storages and kernels against float64, how kernels are chosen, and the file that stores the choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from assistant.decoding import kernels
from assistant.decoding.kernels import (
    KERNEL_GROUPS,
    LARGEST_ERROR,
    ROW_TIERS,
    Matmul,
    StoredWeight,
    build_linears,
    fastest_kernels,
    store_weight,
)
from assistant.settings import Storage

STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "float16", "int8")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


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
def test_every_kernel_is_accurate(storage: Storage, bias: bool) -> None:
    (stored,) = random_weights(storage, count=1, bias=bias)
    for kernel in {kernel for group in KERNEL_GROUPS[storage] for kernel in group}:
        try:
            matmul = kernel(stored)
        except (RuntimeError, AttributeError):
            continue  # this torch lacks the operator, and tuning skips the kernel
        for n_rows in ROW_TIERS if kernel is not kernels.int8_dynamic else (1,):
            x = torch.randn(n_rows, 64, generator=torch.Generator().manual_seed(n_rows))
            expected = x.double() @ stored.dequantize().double().T
            if stored.bias is not None:
                expected += stored.bias
            actual = matmul(x)
            assert actual.is_floating_point()
            assert (actual - expected).abs().max() <= LARGEST_ERROR[storage] * expected.abs().max(), kernel.__name__


# --- tuning -------------------------------------------------------------------------------------------------------


def test_tuning_skips_kernels_that_are_wrong_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stored: StoredWeight) -> Matmul:
        return lambda x: x.new_zeros(x.shape[0], stored.weight.shape[0])

    def missing(_: StoredWeight) -> Matmul:
        raise AttributeError("no such operator")

    def fails_with_several_rows(stored: StoredWeight) -> Matmul:
        def matmul(x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 1:
                raise RuntimeError("unsupported")
            return kernels.float32_linear(stored)(x)

        return matmul

    groups = ((kernels.float32_linear, wrong), (missing,), (fails_with_several_rows,))
    monkeypatch.setitem(KERNEL_GROUPS, "float32", groups)
    assert fastest_kernels(random_weights("float32"), "float32") == ("float32_linear",) * len(ROW_TIERS)


def test_tuning_chooses_the_fastest_kernel_for_each_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"float32_linear": [2.0, 2.0, 1.0], "half_linear": [1.0, 3.0, 3.0], "onednn_packed": [1.5, 1.5, 1.5]}
    monkeypatch.setattr(kernels, "_kernel_seconds", lambda kernel, *_: seconds[kernel.__name__])
    mixed = ("half_linear", "float32_linear", "float32_linear")
    assert fastest_kernels(random_weights("float16"), "float16") == mixed
    # The groups' scores are 1 * 2 * 1 and 1.5 ** 3.
    assert fastest_kernels(random_weights("bfloat16"), "bfloat16") == mixed
    seconds["onednn_packed"] = [1.2, 1.2, 1.2]
    assert fastest_kernels(random_weights("bfloat16"), "bfloat16") == ("onednn_packed",) * 3


# --- the cache file -----------------------------------------------------------------------------------------------


class CountedTuning:
    """Replaces `fastest_kernels` and counts its calls."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, *_: object) -> tuple[str, ...]:
        self.n_calls += 1
        return ("float32_linear", "half_linear", "float32_linear")


@pytest.fixture
def tuning(monkeypatch: pytest.MonkeyPatch) -> CountedTuning:
    counted = CountedTuning()
    monkeypatch.setattr(kernels, "fastest_kernels", counted)
    return counted


def test_a_choice_is_stored_and_used_again(tuning: CountedTuning) -> None:
    for _ in range(2):
        build_linears(random_weights("float16"), "float16", tune_kernels=True)
    assert tuning.n_calls == 1


def test_without_tuning_no_file_is_read_or_written(cache_folder: Path, tuning: CountedTuning) -> None:
    build_linears(random_weights("float16"), "float16", tune_kernels=False)
    assert tuning.n_calls == 0
    assert not list(cache_folder.rglob("kernels.json"))


def test_a_damaged_file_is_written_again(cache_folder: Path, tuning: CountedTuning) -> None:
    build_linears(random_weights("float16"), "float16", tune_kernels=True)
    (file,) = cache_folder.rglob("kernels.json")
    good = file.read_text()
    damaged = ["{", "[]", *(good.replace('"half_linear"', new) for new in ('"__import__"', '""', "[]"))]
    for n_damaged, text in enumerate(damaged, start=1):
        file.write_text(text)
        build_linears(random_weights("float16"), "float16", tune_kernels=True)
        assert tuning.n_calls == 1 + n_damaged
        assert file.read_text() == good


def test_a_file_of_an_older_version_only_costs_another_probe(cache_folder: Path) -> None:
    """Older versions called the kernels plain, packed, narrow, steps, widened and dynamic."""
    old_choices: dict[Storage, list[str]] = {
        "float32": ["packed", "packed", "packed"],
        "bfloat16": ["narrow", "plain", "narrow"],
        "float16": ["narrow", "plain", "plain"],
        "int8": ["dynamic", "steps", "widened"],
    }
    file = cache_folder / "instruction-assistant" / "kernels.json"
    file.parent.mkdir()
    keys = {storage: f"{kernels._machine()}, {storage}, 96 x 64" for storage in STORAGES}
    another_machine = {"another machine, int8, 96 x 64": ["dynamic", "steps", "widened"]}
    file.write_text(json.dumps(another_machine | {keys[storage]: old_choices[storage] for storage in STORAGES}))
    x = torch.randn(3, 64)
    for storage in STORAGES:
        for linear in build_linears(random_weights(storage), storage, tune_kernels=True):
            assert linear(x).shape == (3, 96)
    choices = json.loads(file.read_text())
    assert set(choices) == {*another_machine, *keys.values()}
    for storage in STORAGES:
        known = {kernel.__name__ for group in KERNEL_GROUPS[storage] for kernel in group}
        assert set(choices[keys[storage]]) <= known


def test_a_stored_choice_never_gives_several_rows_one_input_scale() -> None:
    assert kernels._is_usable_choice(["int8_dynamic", "int8_weight_only", "float32_linear"], "int8")
    assert not kernels._is_usable_choice(["int8_dynamic", "int8_dynamic", "int8_dynamic"], "int8")


def test_tuning_works_without_a_place_for_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    x = torch.randn(3, 64)
    for linear in build_linears(random_weights("float32"), "float32", tune_kernels=True):
        assert linear(x).shape == (3, 96)
