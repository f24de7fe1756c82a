"""Another compiled library, or none, in the place of one that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from assistant.model import compiled


def replace_library(monkeypatch: pytest.MonkeyPatch, module: str, origin: str | None) -> None:
    """Let a library's module be this file, or be missing. The other library stays."""

    def find(name: str) -> object:
        if name != module:
            return find_spec(name)
        return None if origin is None else SimpleNamespace(origin=origin)

    monkeypatch.setattr(compiled, "find_spec", find)
