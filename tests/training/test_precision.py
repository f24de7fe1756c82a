"""The dtype of the products: when `auto` is bfloat16, and what bfloat16 changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint
from assistant.training import precision as precision_module
from assistant.training.precision import pick_precision
from tests.support.runs import FAST, train


@pytest.mark.parametrize("is_faster", [True, False])
def test_auto_on_a_processor_is_bfloat16_only_if_the_probe_says_so(
    monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    probed_widths = []

    def probe(width: int) -> bool:
        probed_widths.append(width)
        return is_faster

    monkeypatch.setattr(precision_module, "_is_much_faster_in_bfloat16", probe)
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu, 768) is (torch.bfloat16 if is_faster else torch.float32)
    assert pick_precision("auto", cpu, 64) is torch.float32
    assert pick_precision("bfloat16", cpu, 64) is torch.bfloat16
    assert probed_widths == [768]


@pytest.mark.parametrize("slower", [torch.float32, torch.bfloat16])
def test_probe_finds_the_faster_dtype(monkeypatch: pytest.MonkeyPatch, slower: torch.dtype) -> None:
    """A clock that only products advance: by 3 seconds in the slower dtype, and else by 1."""
    linear = F.linear
    now = 0.0

    def timed_linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 3.0 if left.dtype is slower else 1.0
        product: torch.Tensor = linear(left, right)
        return product

    monkeypatch.setattr("assistant.training.precision.time.perf_counter", lambda: now)
    monkeypatch.setattr("assistant.training.precision.F.linear", timed_linear)
    assert precision_module._is_much_faster_in_bfloat16(256) is (slower is torch.float32)


def test_losses_in_bfloat16_are_close_to_those_in_float32(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = FAST.model_copy(update={"precision": precision})
        _, watcher = train(byte_tokenizer, examples, tmp_path / precision, settings)
        assert watcher.plans[0].precision == precision
        losses[precision] = [report.metrics.loss for report in watcher.steps]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
    assert load_checkpoint(tmp_path / "bfloat16").model.transformer.wte.weight.dtype == torch.float32
