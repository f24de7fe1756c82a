"""The shipped model's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.shipped import find_model, shipped


def test_pocket_is_the_shipped_model_unless_a_local_model_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("pocket") == shipped("pocket")
    assert find_model("other") == Path("other")
    Path("pocket").mkdir()  # A folder without config.json is not a model.
    assert find_model("pocket") == shipped("pocket")
    Path("pocket/config.json").touch()
    assert find_model("pocket") == Path("pocket")
