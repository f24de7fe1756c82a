"""Ollama double: validation of requests, with Ollama's errors."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.ollama_calls import SCHEMA, chat_body, connect_http, error_text
from tests.support.ollama_double import Answer, OllamaDouble


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        ({"model": ""}, 400, "model is required"),
        ({"model": "nope"}, 404, "model 'nope' not found"),
        ({"model": "llama3.1:8b"}, 404, "model 'llama3.1:8b' not found"),
        ({"options": {"num_ctx": "4096"}}, 500, 'option "num_ctx" must be of type integer'),
        ({"options": {"temperature": "0"}}, 500, 'option "temperature" must be of type float32'),
        ({"options": {"stop": "###"}}, 500, 'option "stop" must be of type array'),
        ({"options": {"use_mmap": 1}}, 500, 'option "use_mmap" must be of type boolean'),
        (
            {"format": "xml"},
            500,
            r'invalid format: "\"xml\""; expected "json" or a valid JSON Schema object',
        ),
        ({"keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ({"keep_alive": "soon"}, 400, 'time: invalid duration "soon"'),
        (
            {"think": "x"},
            400,
            'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)',
        ),
        ({"think": True}, 400, '"llama3.1" does not support thinking'),
        ({"top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    ],
)
def test_invalid_requests_are_refused_with_ollamas_errors(
    http: httpx.Client, sent: dict[str, Any], status: int, text: str
) -> None:
    response = http.post("/api/chat", json=chat_body(**sent))
    assert (response.status_code, error_text(response)) == (status, text)


@pytest.mark.parametrize(
    "sent",
    [
        {"options": {"no_such_option": 1, "num_ctx": None, "temperature": 0, "seed": 1.0, "stop": ["#"]}},
        {"think": False, "keep_alive": -1, "format": ""},
        {"keep_alive": "1h2.5m", "format": "json", "model": "llama3.1:latest"},
        {"keep_alive": 300, "format": SCHEMA, "messages": [{"role": "user"}]},
    ],
)
def test_valid_requests_are_accepted(http: httpx.Client, sent: dict[str, Any]) -> None:
    response = http.post("/api/chat", json=chat_body(**sent))
    assert response.status_code == 200
    assert response.json()["message"]["content"] == "OK"


def test_bodies_that_are_not_json_objects_are_refused(double: OllamaDouble, http: httpx.Client) -> None:
    expected = {
        b"": "missing request body",
        b"{'model'": "invalid character",
        b'{"model": ': "unexpected EOF",
        b"[]": "cannot unmarshal array",
        b'{"model": 1}': "cannot unmarshal number into Go struct field ChatRequest.model",
        b'{"model": "llama3.1", "messages": ["x"]}': "cannot unmarshal string",
    }
    for content, text in expected.items():
        response = http.post("/api/chat", content=content)
        assert response.status_code == 400
        assert text in error_text(response)
    assert len(double.requests) == len(expected)
    assert double.chat() == [{"model": 1}, {"model": "llama3.1", "messages": ["x"]}]


def test_refused_requests_take_nothing_from_the_queue(double: OllamaDouble, http: httpx.Client) -> None:
    double.enqueue(Answer("kept"))
    http.post("/api/chat", json=chat_body(model="nope"))
    http.post("/api/chat", json=chat_body(messages=[]))
    assert double.pending == 1
    assert http.post("/api/chat", json=chat_body()).json()["message"]["content"] == "kept"
    assert double.pending == 0


def test_missing_capability_is_refused() -> None:
    models = {"bert": ["embedding"], "qwen3": ["completion", "thinking"]}
    with (
        OllamaDouble(models) as double,
        connect_http(double) as http,
    ):
        response = http.post("/api/chat", json=chat_body(model="bert"))
        assert (response.status_code, error_text(response)) == (400, '"bert" does not support chat')
        assert http.post("/api/chat", json=chat_body(model="qwen3", think="high")).status_code == 200


def test_unknown_paths_and_wrong_verbs_are_refused(http: httpx.Client) -> None:
    missing = http.get("/api/nothing")
    assert (missing.status_code, missing.text) == (404, "404 page not found")
    assert missing.headers["content-type"].startswith("text/plain")
    for method, path in (("GET", "/api/chat"), ("POST", "/api/tags"), ("DELETE", "/"), ("HEAD", "/api/ps")):
        assert http.request(method, path).status_code == 405


def test_foreign_host_header_is_refused(http: httpx.Client) -> None:
    response = http.get("/api/tags", headers={"Host": "judge.example.org"})
    assert (response.status_code, response.content) == (403, b"")
    for host in ("localhost:1", "127.0.0.1", "[::1]:11434", "192.168.1.2:11434"):
        assert http.get("/", headers={"Host": host}).status_code == 200
