"""Calls to the Ollama double through the real client and through plain HTTP, for the double's own tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import ollama

from tests.support.ollama_double import Answer, OllamaDouble

MODEL = "llama3.1"
QUESTION = [{"role": "user", "content": "Score this answer."}]
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 5}, "analysis": {"type": "string"}},
    "required": ["score", "analysis"],
}


def connect(double: OllamaDouble, timeout: float | httpx.Timeout = 3) -> ollama.Client:
    """Return the real client. It does not read certificates, which would take most of a test's time."""
    return ollama.Client(host=double.url, timeout=timeout, trust_env=False, verify=False)


def connect_http(double: OllamaDouble) -> httpx.Client:
    """Return a plain HTTP client."""
    return httpx.Client(base_url=double.url, timeout=3, trust_env=False, verify=False)


def ask(client: ollama.Client, **extra: Any) -> ollama.ChatResponse:
    """Ask the question without streaming."""
    response: ollama.ChatResponse = client.chat(MODEL, QUESTION, **extra)
    return response


def ask_streaming(client: ollama.Client, **extra: Any) -> list[ollama.ChatResponse]:
    """Ask the question with streaming, and return all parts."""
    return list(client.chat(MODEL, QUESTION, stream=True, **extra))


def chat_body(**extra: Any) -> dict[str, Any]:
    """Return the body of a chat request without streaming. `extra` replaces or adds fields."""
    return {"model": MODEL, "messages": QUESTION, "stream": False, **extra}


def error_text(response: httpx.Response) -> str:
    """Return the error of a JSON error response."""
    assert response.headers["content-type"].partition(";")[0] == "application/json"
    text = response.json()["error"]
    assert isinstance(text, str)
    return text


def ndjson_lines(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the objects of a streamed response."""
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.splitlines()]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, at most three seconds."""
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def answer_after_arrivals(double: OllamaDouble, number: int) -> Callable[[dict[str, Any]], Answer]:
    """Return a behaviour that answers nobody before `number` requests have arrived."""

    def answer(_: dict[str, Any]) -> Answer:
        wait_until(lambda: len(double.requests) >= number)
        return Answer("4", delay=0.03)

    return answer
