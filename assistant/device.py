"""Which device a model runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.errors import SettingsError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where torch sees one, else the CPU. Apple's `mps` is only used by its name."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = ["auto", "cpu"]
    known += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    known += ["mps"] if torch.backends.mps.is_available() else []
    if name not in known:
        raise SettingsError(f"device: expected one of {', '.join(known)}, got {name!r}.")
    return torch.device(name)
