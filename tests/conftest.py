"""Shared fixtures: a byte tokenizer, example rows, a folder with a tiny model; and a block on network access."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.tokenizer import EOS_TOKEN, Tokenizer, build_tokenizer, byte_characters

# The processes that tests start read these. torch in this process reads the thread count, too.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A slow machine must not fail a test. The timeout in pyproject.toml stops a test that hangs.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")

REPOSITORY = Path(__file__).parent.parent
SLOWEST = tuple(
    f"tests/{name}.py"
    for name in ("training/test_distributed", "test_readme", "cli/test_demo", "training/test_book", "cli/test_job")
)
"""Tests that take ten seconds or more."""
SHARED = REPOSITORY.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest tests first. At the end, one processor would compute them while the others wait."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOWEST))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to other machines fail. Loopback connections work."""
    connect = socket.socket.connect

    def connect_to_loopback(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect_to_loopback)
    for name in ("OLLAMA_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measurements of this machine and conversations go to temporary folders, not to the user's."""
    names = ("XDG_CACHE_HOME", "ASSISTANT_DATA_DIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {name: str(tmp_path_factory.mktemp(name.lower())) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine, one thread computes tiny tensors many times faster than several."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shared_file(name: str) -> Path:
    """Return a file of the real inputs next to the checkout, or skip the test if it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A tokenizer with 257 tokens: every byte, in order of its value, and EOS."""
    return build_tokenizer(json.dumps(byte_characters() | {EOS_TOKEN: 256}), "#version: 0.2\n", where="bytes")


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> Tokenizer:
    """The tokenizer with the real GPT-2 vocabulary. Skips the test if the vocabulary is missing."""
    merges = shared_file("tiktoken-cache/6d1cbeee0f20b3d9449abfede4726ed8212e3aee").read_text(encoding="utf-8")
    vocab = shared_file("tiktoken-cache/6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").read_text(encoding="utf-8")
    return build_tokenizer(vocab, merges, where="gpt2")


@pytest.fixture
def examples() -> list[Example]:
    """Forty short examples, ten of them with an input."""
    words = ["red", "blue", "green", "gold", "pink", "grey", "black", "white", "brown", "teal"]
    rows = [
        Example(instruction=f"Say {word} {how}.", output=f"{word.upper()} {how}", input=word if how == "twice" else "")
        for word in words
        for how in ("once", "twice", "loudly", "softly")
    ]
    return [
        Example(instruction=e.instruction, input=e.input, output=e.output, source="rows.json", row=number)
        for number, e in enumerate(rows, start=1)
    ]


@pytest.fixture
def folder(tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a base model in `base` and an instruction file `rows.json`."""
    from tests.support.models import save_tiny  # It imports torch.

    save_tiny(tmp_path / "base", byte_tokenizer)
    (tmp_path / "rows.json").write_text(dump_rows(examples))
    monkeypatch.chdir(tmp_path)
    return tmp_path
