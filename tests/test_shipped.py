"""What an installation holds."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from assistant.shipped import find_model, shipped
from tests.conftest import REPOSITORY


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


def test_every_room_is_installed() -> None:
    """The tests run in the checkout, so they do not see that a package is missing from a wheel."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    folders = [file.parent for room in ("assistant", "evaluation") for file in (REPOSITORY / room).rglob("__init__.py")]
    names = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(settings["tool"]["setuptools"]["packages"]) == names | {"assistant.data"}
