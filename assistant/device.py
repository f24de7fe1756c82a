"""The choice of the device that a model runs on. Imports torch only on a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.errors import SettingsError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """Return the torch device for a `--device` value.

    `auto` is `cuda` if torch sees a GPU, or else `cpu`. It never chooses Apple's `mps`: name that device explicitly.

    Raises:
        SettingsError: this machine does not have the device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["auto", "cpu"]
    available += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    if name not in available:
        raise SettingsError(f"device: expected one of {', '.join(available)}, got {name!r}.")
    return torch.device(name)
