"""An Ollama double and clients that are connected to it, for the double's own tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import ollama
import pytest

from tests.support.ollama_calls import connect, connect_http
from tests.support.ollama_double import OllamaDouble


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble() as running:
        yield running


@pytest.fixture
def client(double: OllamaDouble) -> Iterator[ollama.Client]:
    with connect(double) as ollama_client:
        yield ollama_client


@pytest.fixture
def http(double: OllamaDouble) -> Iterator[httpx.Client]:
    with connect_http(double) as http_client:
        yield http_client
