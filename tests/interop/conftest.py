"""The double of the Hugging Face Hub, with a tiny GPT-2 on it, and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from assistant.dataset.tokenizer import Tokenizer
from assistant.interop import transfer
from tests.support.hub_double import HubDouble, use_hub
from tests.support.models import save_tiny

REPOSITORY = "openai-community/gpt2"


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files of a tiny GPT-2, by name."""
    folder = save_tiny(tmp_path_factory.mktemp("hub") / "tiny", byte_tokenizer)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face, an empty current folder, and no waiting between attempts."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 0.0)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, tiny_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """The hub with the tiny model as openai-community/gpt2, and files there that nobody needs."""
    del cache
    with HubDouble() as double:
        double.add(REPOSITORY, tiny_files | {"README.md": b"# GPT-2", "tf_model.h5": b"h5", "pytorch_model.bin": b"pt"})
        use_hub(double.url, monkeypatch)
        yield double
