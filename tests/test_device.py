"""The choice of a device."""

from __future__ import annotations

import pytest
import torch

from assistant.device import pick_device
from assistant.errors import SettingsError


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert pick_device("auto") == torch.device(device)


def test_available_devices_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert pick_device(name) == torch.device(name)
    with pytest.raises(SettingsError, match=r"device: expected one of auto, cpu, cuda, cuda:0, cuda:1.*, got 'cuda:2'"):
        pick_device("cuda:2")


def test_unavailable_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "abacus", "meta", "hpu", ""):
        with pytest.raises(SettingsError, match=f"device: expected one of auto, cpu.*, got '{name}'"):
            pick_device(name)
