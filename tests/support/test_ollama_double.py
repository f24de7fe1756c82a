"""The double of Ollama behaves, on the wire and through the real client, as the reference says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import REPOSITORY
from tests.support.ollama_double import (
    Answer,
    Cut,
    Failure,
    Hang,
    NoDone,
    OllamaDouble,
    Stream,
    StreamError,
    Truncated,
    blank,
    busy,
    hashed_verdict,
    html,
    load_failed,
    missing_model,
    runner_died,
    token,
    too_long,
    too_long_nested,
    unauthorized,
    verdict,
)

MODEL = "llama3.1"
QUESTION = [{"role": "user", "content": "Score this answer."}]
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 5}, "analysis": {"type": "string"}},
    "required": ["score", "analysis"],
}


def connect(double: OllamaDouble, timeout: float | httpx.Timeout = 3) -> ollama.Client:
    """The real client (without the certificates, which would take most of the time)."""
    return ollama.Client(host=double.url, timeout=timeout, trust_env=False, verify=False)


def connect_raw(double: OllamaDouble) -> httpx.Client:
    return httpx.Client(base_url=double.url, timeout=3, trust_env=False, verify=False)


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble() as server:
        yield server


@pytest.fixture
def client(double: OllamaDouble) -> Iterator[ollama.Client]:
    with connect(double) as real:
        yield real


@pytest.fixture
def http(double: OllamaDouble) -> Iterator[httpx.Client]:
    with connect_raw(double) as raw:
        yield raw


def ask(client: ollama.Client, **extra: Any) -> ollama.ChatResponse:
    response: ollama.ChatResponse = client.chat(MODEL, QUESTION, **extra)
    return response


def streamed(client: ollama.Client, **extra: Any) -> list[ollama.ChatResponse]:
    return list(client.chat(MODEL, QUESTION, stream=True, **extra))


def body(**extra: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": QUESTION, "stream": False, **extra}


def error(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    text = response.json()["error"]
    assert isinstance(text, str)
    return text


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.splitlines()]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def when_arrived(double: OllamaDouble, number: int) -> Callable[[dict[str, Any]], Answer]:
    """A default that answers nobody before so many requests are there."""

    def answer(_: dict[str, Any]) -> Answer:
        until(lambda: len(double.requests) >= number)
        return Answer("4", delay=0.03)

    return answer


class TestAnswers:
    def test_one_object(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(verdict(4, "Naïve — but right."))
        response = ask(client, format=SCHEMA, think=False, options={"num_ctx": 4096}, keep_alive="10m")
        assert json.loads(response.message.content or "") == {"analysis": "Naïve — but right.", "score": 4}
        assert response.done is True
        assert response.done_reason == "stop"
        assert double.chat()[0]["options"] == {"num_ctx": 4096}
        assert double.chat()[0]["think"] is False
        recorded = double.requests[0]
        assert (recorded.method, recorded.path, recorded.status) == ("POST", "/api/chat", 200)
        assert recorded.started is not None
        assert recorded.finished is not None
        assert recorded.arrived <= recorded.started <= recorded.finished

    def test_streamed(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(Answer("The score is 3.", chunk=4))
        parts = streamed(client)
        assert [part.message.content for part in parts] == ["The ", "scor", "e is", " 3.", ""]
        assert [part.done for part in parts] == [False] * 4 + [True]

    def test_stream_is_the_default_and_the_wire_is_chunked_ndjson(
        self, double: OllamaDouble, http: httpx.Client
    ) -> None:
        double.enqueue(Answer("4"))
        response = http.post("/api/chat", json={"model": MODEL, "messages": QUESTION})
        first, last = lines(response)
        assert response.headers["transfer-encoding"] == "chunked"
        assert list(first) == ["model", "created_at", "message", "done"]
        assert first["message"] == {"role": "assistant", "content": "4"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["created_at"])
        assert last["message"] == {"role": "assistant", "content": ""}
        durations = [value for key, value in last.items() if key.endswith("_duration")]
        assert len(durations) == 4
        assert all(type(value) is int and value > 0 for value in durations)
        assert last["total_duration"] >= last["load_duration"] + last["eval_duration"]

    def test_metrics_of_zero_are_absent(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(Answer("4", prompt_eval_count=0, eval_count=0))
        response = ask(client)
        assert response.prompt_eval_count is None
        assert response.eval_count is None

    def test_go_escapes_the_markup_characters(self, double: OllamaDouble, http: httpx.Client) -> None:
        double.enqueue(Answer("<a> & é\u2028"), Answer("<a>"))
        whole = http.post("/api/chat", json=body())
        assert b'"content":"\\u003ca\\u003e \\u0026 \xc3\xa9\\u2028"' in whole.content
        assert whole.json()["message"]["content"] == "<a> & é\u2028"
        assert b"\\u003ca\\u003e" in http.post("/api/chat", json=body(stream=True)).content

    def test_characters_split_between_chunks_arrive_intact(
        self, double: OllamaDouble, client: ollama.Client, http: httpx.Client
    ) -> None:
        text = "Zürich — 日本語 🙂 fünf" * 3
        double.default = Answer(text, split_bytes=True)
        assert "".join(part.message.content or "" for part in streamed(client)) == text
        with http.stream("POST", "/api/chat", json=body(stream=True)) as response:
            pieces = list(response.iter_raw())
        broken = 0
        for piece in pieces:
            try:
                piece.decode()
            except UnicodeDecodeError:
                broken += 1
        assert broken > 10
        assert "日本語" in b"".join(pieces).decode()

    def test_thinking_without_content(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = Answer("", thinking="Let me think about it.", done_reason="length")
        response = ask(client)
        assert (response.message.content, response.message.thinking) == ("", "Let me think about it.")
        parts = streamed(client)
        assert "".join(part.message.thinking or "" for part in parts) == "Let me think about it."
        assert parts[-1].done_reason == "length"

    def test_truncated(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(Truncated('{"analysis": "It is'))
        response = ask(client)
        assert response.done is True
        assert response.done_reason == "length"

    def test_prompt_cut_by_the_rendered_path(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = Answer("4", prompt_cut=True)
        assert ask(client).prompt_eval_count == 2050
        assert ask(client, options={"num_ctx": 1024}).prompt_eval_count == 514
        double.default = Answer("4")
        long = [{"role": "user", "content": "word " * 1000}]
        assert client.chat(MODEL, long, options={"num_ctx": 1024}).prompt_eval_count == 514
        assert client.chat(MODEL, long, options={"num_ctx": 2048}).prompt_eval_count == 1258

    def test_logprobs_only_when_asked_for(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = Answer("4!", logprobs=[token("4", -0.1, {"4": -0.1, "3": -2.5, "5": -4.0}), token("!", -0.01)])
        assert ask(client).logprobs is None
        first, second = ask(client, logprobs=True, top_logprobs=2).logprobs or ()
        assert (first.token, first.logprob) == ("4", -0.1)
        assert [(top.token, top.logprob) for top in first.top_logprobs or ()] == [("4", -0.1), ("3", -2.5)]
        assert not second.top_logprobs
        parts = streamed(client, logprobs=True)
        assert [[entry.token for entry in part.logprobs or ()] for part in parts] == [["4"], ["!"], []]

    def test_keys_in_alphabetical_order_as_on_the_native_path(self) -> None:
        content = '{"score": 4, "analysis": "Good."}'
        with (
            OllamaDouble(default=Answer(content), alphabetical_keys=True) as double,
            connect(double) as client,
        ):
            assert ask(client).message.content == content
            assert ask(client, format=SCHEMA).message.content == '{"analysis": "Good.", "score": 4}'

    def test_a_function_of_the_body(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = lambda sent: verdict(len(sent["messages"]))
        double.enqueue(lambda sent: Answer(sent["model"]))
        assert ask(client).message.content == MODEL
        assert json.loads(ask(client).message.content or "")["score"] == 1

    def test_a_hashed_verdict_is_stable_and_in_range(self) -> None:
        def score(question: str, **extra: Any) -> int:
            sent = {"messages": [{"role": "user", "content": question}], **extra}
            value = json.loads(hashed_verdict(sent).content)["score"]
            assert isinstance(value, int)
            return value

        assert {score(f"question {number}") for number in range(60)} == set(range(6))
        assert score("same") == score("same")
        tens = {"properties": {"score": {"enum": [10, 20]}}}
        assert {score(f"question {number}", format=tens) for number in range(20)} == {10, 20}


class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "status", "text"),
        [
            (busy(), 503, "server busy, please try again.  maximum pending requests exceeded"),
            (missing_model("nope"), 404, "model 'nope' not found"),
            (load_failed(), 500, "llama-server process has terminated: exit status 2"),
            (Failure(500, "out of luck"), 500, "out of luck"),
            (unauthorized(), 401, "unauthorized"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_http_errors(
        self,
        double: OllamaDouble,
        client: ollama.Client,
        failure: Failure,
        status: int,
        text: str,
        stream: bool,
    ) -> None:
        double.enqueue(failure)
        with pytest.raises(ollama.ResponseError) as caught:
            streamed(client) if stream else ask(client)
        assert (caught.value.status_code, caught.value.error) == (status, text)
        assert str(caught.value) == f"{text} (status code: {status})"

    def test_texts_of_the_runner_and_the_context(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(runner_died(), too_long())
        with pytest.raises(ollama.ResponseError, match="model runner has unexpectedly stopped") as caught:
            ask(client)
        assert caught.value.status_code == 500
        with pytest.raises(ollama.ResponseError, match="prompt is longer than the context length") as caught:
            ask(client)
        assert caught.value.status_code == 400

    def test_nested_context_error_stays_a_json_string(
        self, double: OllamaDouble, client: ollama.Client, http: httpx.Client
    ) -> None:
        double.default = too_long_nested(42947, 8192)
        assert http.post("/api/chat", json=body()).text == (
            r'{"error":"{\"error\":{\"code\":400,\"message\":\"request (42947 tokens) exceeds the available context '
            r"size (8192 tokens), try increasing it\",\"type\":\"exceed_context_size_error\","
            r'\"n_prompt_tokens\":42947,\"n_ctx\":8192}}"}'
        )
        with pytest.raises(ollama.ResponseError) as caught:
            ask(client)
        assert caught.value.status_code == 400
        assert json.loads(caught.value.error)["error"]["n_ctx"] == 8192

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_error_body_that_is_a_list_breaks_the_client(
        self, double: OllamaDouble, client: ollama.Client, stream: bool
    ) -> None:
        double.enqueue(Failure(500, ["no", "object"]))
        with pytest.raises(AttributeError, match="'list' object has no attribute 'get'"):
            streamed(client) if stream else ask(client)

    def test_html_and_empty_bodies(self, double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
        double.enqueue(html(502), html(502), blank(403), blank(200))
        response = http.post("/api/chat", json=body())
        assert response.headers["content-type"] == "text/html"
        assert response.text == "<html><body><h1>502 Bad Gateway</h1></body></html>"
        with pytest.raises(ollama.ResponseError, match="<h1>502 Bad Gateway</h1>") as caught:
            ask(client)
        assert caught.value.status_code == 502
        with pytest.raises(ollama.ResponseError) as caught:
            ask(client)
        assert (caught.value.status_code, caught.value.error) == (403, "")
        with pytest.raises(json.JSONDecodeError):
            ask(client)

    def test_an_error_in_mid_stream(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(StreamError("The sco"))
        parts = client.chat(MODEL, QUESTION, stream=True)
        assert next(parts).message.content == "The sco"
        with pytest.raises(ollama.ResponseError, match="an error was encountered while running") as caught:
            next(parts)
        assert caught.value.status_code == -1

    def test_an_error_before_the_first_line_has_a_status(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(StreamError("", "broken"), StreamError("The sco", "broken"))
        for call in (streamed, ask):
            with pytest.raises(ollama.ResponseError, match="broken") as caught:
                call(client)
            assert caught.value.status_code == 500

    def test_an_end_without_done(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = NoDone("    ")
        response = ask(client)
        assert (response.done, response.done_reason, response.message.content) == (False, None, "    ")
        assert [part.done for part in streamed(client)] == [False]
        double.default = NoDone("")
        assert streamed(client) == []

    @pytest.mark.parametrize("at", [0, 30, 150, 100_000])
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_cut_connection(self, double: OllamaDouble, client: ollama.Client, at: int, stream: bool) -> None:
        double.enqueue(Cut("A fairly long text. " * 3, at=at))
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            streamed(client) if stream else ask(client)

    def test_a_connection_closed_without_a_response(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(Cut("text", at=-1), Cut("text" * 100, at=50, reset=True))
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            ask(client)
        with pytest.raises(httpx.ReadError):
            ask(client)
        assert ask(client).message.content == "OK"

    def test_lines_of_any_kind(self, double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
        double.enqueue(Stream({"a": "<"}, "", b"\xff", [1]), Stream("", {}), Stream([1]))
        response = http.post("/api/chat", json=body(stream=True))
        assert response.content == b'{"a":"\\u003c"}\n\n\xff\n[1]\n'
        with pytest.raises(json.JSONDecodeError):
            streamed(client)
        with pytest.raises(AttributeError):
            streamed(client)

    def test_silence(self, double: OllamaDouble) -> None:
        double.enqueue(Hang(30), Hang(30, after="Some text"), verdict(5), Hang(0.02))
        timeout = httpx.Timeout(3, read=0.2)
        started = time.monotonic()
        with connect(double, timeout) as client:
            with pytest.raises(httpx.ReadTimeout):
                ask(client)
            parts = client.chat(MODEL, QUESTION, stream=True)
            assert next(parts).message.content == "Some tex"
            with pytest.raises(httpx.ReadTimeout):
                list(parts)
            assert "5" in (ask(client).message.content or "")
            with pytest.raises(httpx.RemoteProtocolError):
                ask(client)
        assert time.monotonic() - started < 2
        until(lambda: all(request.finished for request in double.requests))
        assert [request.aborted for request in double.requests] == [True, True, False, False]
        assert double.max_in_flight == 1  # who has gone away counts no more
        assert double.errors == []


class TestValidation:
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
    def test_refusals(self, http: httpx.Client, sent: dict[str, Any], status: int, text: str) -> None:
        response = http.post("/api/chat", json=body(**sent))
        assert (response.status_code, error(response)) == (status, text)

    @pytest.mark.parametrize(
        "sent",
        [
            {"options": {"no_such_option": 1, "num_ctx": None, "temperature": 0, "seed": 1.0, "stop": ["#"]}},
            {"think": False, "keep_alive": -1, "format": ""},
            {"keep_alive": "1h2.5m", "format": "json", "model": "llama3.1:latest"},
            {"keep_alive": 300, "format": SCHEMA, "messages": [{"role": "user"}]},
        ],
    )
    def test_what_is_accepted(self, http: httpx.Client, sent: dict[str, Any]) -> None:
        response = http.post("/api/chat", json=body(**sent))
        assert response.status_code == 200
        assert response.json()["message"]["content"] == "OK"

    def test_bodies_that_are_no_json_object(self, double: OllamaDouble, http: httpx.Client) -> None:
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
            assert text in error(response)
        assert len(double.requests) == len(expected)
        assert double.chat() == [{"model": 1}, {"model": "llama3.1", "messages": ["x"]}]

    def test_refusals_take_nothing_from_the_queue(self, double: OllamaDouble, http: httpx.Client) -> None:
        double.enqueue(Answer("kept"))
        http.post("/api/chat", json=body(model="nope"))
        http.post("/api/chat", json=body(messages=[]))
        assert double.pending == 1
        assert http.post("/api/chat", json=body()).json()["message"]["content"] == "kept"
        assert double.pending == 0

    def test_capabilities(self) -> None:
        models = {"bert": ["embedding"], "qwen3": ["completion", "thinking"]}
        with (
            OllamaDouble(models) as double,
            connect_raw(double) as http,
        ):
            response = http.post("/api/chat", json=body(model="bert"))
            assert (response.status_code, error(response)) == (400, '"bert" does not support chat')
            assert http.post("/api/chat", json=body(model="qwen3", think="high")).status_code == 200

    def test_unknown_paths_and_wrong_verbs(self, http: httpx.Client) -> None:
        missing = http.get("/api/nothing")
        assert (missing.status_code, missing.text) == (404, "404 page not found")
        assert missing.headers["content-type"].startswith("text/plain")
        for method, path in (("GET", "/api/chat"), ("POST", "/api/tags"), ("DELETE", "/"), ("HEAD", "/api/ps")):
            assert http.request(method, path).status_code == 405

    def test_a_foreign_host_header(self, http: httpx.Client) -> None:
        response = http.get("/api/tags", headers={"Host": "judge.example.org"})
        assert (response.status_code, response.content) == (403, b"")
        for host in ("localhost:1", "127.0.0.1", "[::1]:11434", "192.168.1.2:11434"):
            assert http.get("/", headers={"Host": host}).status_code == 200


class TestModels:
    def test_root_and_version(self, http: httpx.Client) -> None:
        assert http.get("/").text == "Ollama is running"
        assert list(http.get("/api/version").json()) == ["version"]
        for path in ("/", "/api/version", "/api/tags"):
            head, get = http.head(path), http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == get.headers["content-length"]

    def test_tags(self, double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
        (listed,) = client.list().models
        assert listed.model == "llama3.1:latest"
        assert listed.digest == hashlib.sha256(b"llama3.1:latest").hexdigest()
        (entry,) = http.get("/api/tags").json()["models"]
        keys = ["name", "model", "modified_at", "size", "digest", "details", "capabilities"]
        assert list(entry) == keys
        double.install("llama3.1", digest="0" * 64)
        double.install("other:1b", "completion", "tools")
        assert [model.digest == "0" * 64 for model in client.list().models] == [True, False]
        double.remove("llama3.1")
        with pytest.raises(ollama.ResponseError, match=r"model 'llama3\.1' not found"):
            ask(client)

    def test_show(self, client: ollama.Client) -> None:
        shown = client.show(MODEL)
        assert shown.capabilities == ["completion"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["llama.context_length"] == 131072
        with pytest.raises(ollama.ResponseError) as caught:
            client.show("nope")
        assert (caught.value.status_code, caught.value.error) == (404, "model 'nope:latest' not found")

    def test_loading_and_unloading(self, double: OllamaDouble, client: ollama.Client) -> None:
        assert client.ps().models == []
        response = client.chat(MODEL, [], options={"num_ctx": 2048})
        assert (response.done, response.done_reason) == (True, "load")
        assert client.ps().models[0].context_length == 2048
        ask(client, options={"num_ctx": 2048, "seed": 1})
        assert double.loads == ["llama3.1:latest"]
        ask(client, options={"num_ctx": 1024})  # other runner options: a full reload
        assert double.loads == ["llama3.1:latest"] * 2
        assert client.ps().models[0].context_length == 1024
        assert client.chat(MODEL, [], keep_alive=0).done_reason == "unload"
        assert client.ps().models == []
        ask(client, options={"num_ctx": 10**9}, keep_alive="-1m")
        assert client.ps().models[0].context_length == 131072  # capped without a word
        ask(client, keep_alive=0)
        assert client.ps().models == []

    def test_a_cold_load_takes_its_time(self) -> None:
        with (
            OllamaDouble(load_seconds=0.1) as double,
            connect(double) as client,
        ):
            started = time.monotonic()
            assert (ask(client).load_duration or 0) >= 100_000_000
            assert time.monotonic() - started >= 0.1
            assert (ask(client).load_duration or 0) < 100_000_000
            double.enqueue(Answer("slow", load_seconds=0.05, delay=0.05, between=0.01))
            started = time.monotonic()
            assert (streamed(client)[-1].load_duration or 0) >= 50_000_000
            assert time.monotonic() - started >= 0.1

    def test_a_load_can_fail(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue_load(load_failed("out of memory"))
        with pytest.raises(ollama.ResponseError, match="out of memory"):
            client.chat(MODEL, [])
        assert client.chat(MODEL, []).done_reason == "load"

    def test_generate(self, double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
        double.default = Answer("Some text.", thinking="Hm.")
        response = client.generate(MODEL, "Say something.")
        assert (response.response, response.thinking, response.done) == ("Some text.", "Hm.", True)
        parts = list(client.generate(MODEL, "Say something.", stream=True))
        assert "".join(part.response or "" for part in parts) == "Some text."
        assert client.generate(MODEL, "").done_reason == "load"
        refused = http.post("/api/generate", json={"model": MODEL, "prompt": "x", "raw": True, "system": "y"})
        assert error(refused) == "raw mode does not support template, system, or context"
        missing = http.post("/api/generate", json={"prompt": "x"})
        assert (missing.status_code, error(missing)) == (404, "model '' not found")

    def test_pull(self) -> None:
        with (
            OllamaDouble((), registry=("tiny",)) as double,
            connect(double) as client,
        ):
            steps = [step.status for step in client.pull("tiny", stream=True)]
            assert steps[0] == "pulling manifest"
            assert steps[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
            assert client.list().models[0].model == "tiny:latest"
            unknown = client.pull("nope", stream=True)
            assert next(unknown).status == "pulling manifest"
            text = "pull model manifest: file does not exist"
            with pytest.raises(ollama.ResponseError, match=text) as caught:
                next(unknown)
            assert caught.value.status_code == -1
            with pytest.raises(ollama.ResponseError, match=text) as caught:
                client.pull("nope")
            assert caught.value.status_code == 500


class TestCreate:
    def test_blobs(self, double: OllamaDouble, http: httpx.Client) -> None:
        digest = f"sha256:{hashlib.sha256(b'some bytes').hexdigest()}"
        wrong = f"sha256:{'0' * 64}"
        assert http.head("/api/blobs/sha256:zz").status_code == 400
        assert http.head(f"/api/blobs/{digest}").status_code == 404
        malformed = http.post("/api/blobs/sha256:zz", content=b"some bytes")
        assert (malformed.status_code, error(malformed)) == (400, "invalid digest format")
        mismatch = http.post(f"/api/blobs/{wrong}", content=b"some bytes")
        assert error(mismatch) == f'digest mismatch, expected "{wrong}", got "{digest}"'
        assert http.head(f"/api/blobs/{digest}").status_code == 200  # stored under its true digest
        del double.blobs[digest]
        stored = http.post(f"/api/blobs/{digest}", content=iter([b"some ", b"bytes"]))  # a chunked body
        assert (stored.status_code, stored.content) == (201, b"")
        assert http.post(f"/api/blobs/{digest}", content=b"some bytes").status_code == 200
        assert double.blobs == {digest: b"some bytes"}

    def test_a_large_blob_that_exists_is_answered_early(
        self, double: OllamaDouble, client: ollama.Client, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF" + bytes(3_000_000))
        digest = client.create_blob(path)
        assert len(double.blobs[digest]) == 3_000_004
        assert client.create_blob(path) == digest
        assert [request.status for request in double.requests] == [201, 200]

    def test_a_model_from_a_gguf(self, double: OllamaDouble, client: ollama.Client, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF and more")
        digest = client.create_blob(path)
        made: dict[str, Any] = {"model": "gpt2", "files": {"model.gguf": digest}, "template": "{{ .Prompt }}"}
        steps = list(client.create(**made, parameters={"num_ctx": 512, "stop": ["###"]}, stream=True))
        statuses = [(step.status or "").partition(" sha256:")[0] for step in steps]
        assert [status for index, status in enumerate(statuses) if status not in statuses[:index]] == [
            "parsing GGUF",
            "validating GGUF model",
            "verifying conversion",
            "creating new layer",
            "writing manifest",
            "success",
        ]
        assert client.create(**made, parameters={"num_ctx": 512}).status == "success"
        client.chat("gpt2", QUESTION)
        assert client.ps().models[0].context_length == 512
        client.create(**made, parameters={"stop": "###"})  # accepted, but every request fails afterwards
        with pytest.raises(ollama.ResponseError, match='option "stop" must be of type array'):
            client.chat("gpt2", QUESTION)
        before = {model.model: model.digest for model in client.list().models}
        client.create("judge", from_=MODEL, system="You are a judge.")
        after = {model.model: model.digest for model in client.list().models}
        assert after.keys() - before.keys() == {"judge:latest"}
        assert double.models["judge:latest"].system == "You are a judge."

    @pytest.mark.parametrize(
        ("sent", "status", "text", "written"),
        [
            ({"model": "bad name!"}, 400, "invalid model name", False),
            ({}, 400, "neither 'from' or 'files' was specified", False),
            ({"files": {"/model.gguf": "x"}}, 400, "file path must be relative", False),
            ({"files": {"model.gguf": ""}}, 400, "invalid digest format", False),
            ({"files": {"model.bin": "text"}}, 400, "unknown type", False),
            ({"files": {"model.gguf": "text"}}, 400, "supplied file was not in GGUF format", True),
            ({"files": {"model.gguf": "absent"}}, 500, "no such file or directory", True),
            ({"files": {"m.safetensors": "text"}}, 500, 'unsupported architecture "GPT2LMHeadModel"', True),
            ({"files": {"model.gguf": "gguf"}, "template": "{{ .P"}, 400, "template error: ", True),
        ],
    )
    def test_errors(
        self,
        double: OllamaDouble,
        http: httpx.Client,
        sent: dict[str, Any],
        status: int,
        text: str,
        written: bool,
    ) -> None:
        double.blobs.update({"text": b"text", "gguf": b"GGUF"})
        single = http.post("/api/create", json={"model": "m", "stream": False, **sent})
        assert single.status_code == status
        assert text in error(single)
        response = http.post("/api/create", json={"model": "m", **sent})
        if written:
            assert response.status_code == 200
            assert text in lines(response)[-1]["error"]
        else:
            assert response.status_code == status
            assert text in error(response)
        assert list(double.models) == ["llama3.1:latest"]


class TestConcurrency:
    def test_one_model_works_on_one_request_at_a_time(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.default = when_arrived(double, 4)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: ask(client), range(4)))
        assert double.max_in_flight == 4
        assert double.max_running == 1
        spans = sorted((request.started or 0, request.finished or 0) for request in double.requests)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))

    def test_requests_one_by_one_are_never_in_flight_together(
        self, double: OllamaDouble, client: ollama.Client
    ) -> None:
        for number in range(30):
            streamed(client) if number % 2 else ask(client)
        assert double.max_in_flight == 1

    def test_two_slots(self) -> None:
        with (
            OllamaDouble(num_parallel=2) as double,
            connect(double) as client,
            ThreadPoolExecutor(3) as pool,
        ):
            double.default = when_arrived(double, 3)
            list(pool.map(lambda _: ask(client), range(3)))
            assert (double.max_in_flight, double.max_running) == (3, 2)

    def test_a_client_that_stops_waiting_frees_its_place(self, double: OllamaDouble) -> None:
        double.enqueue(Hang(30), Answer("never read"), Answer("third"))
        with (
            connect(double, 0.5) as first,
            connect(double, 0.1) as second,
            ThreadPoolExecutor(1) as pool,
        ):
            hanging = pool.submit(ask, first)
            until(lambda: len(double.requests) == 1)
            with pytest.raises(httpx.ReadTimeout):
                ask(second)  # it waits behind the first one
            with pytest.raises(httpx.ReadTimeout):
                hanging.result()
            assert ask(first).message.content == "third"
        assert double.requests[1].started is None
        assert double.requests[1].aborted


class TestLifeCycle:
    def test_a_stopped_server_refuses_and_a_started_one_goes_on(
        self, double: OllamaDouble, client: ollama.Client
    ) -> None:
        double.enqueue(Answer("one"), Answer("two"))
        url = double.url
        assert ask(client).message.content == "one"
        double.stop()
        with pytest.raises(ConnectionError, match="Failed to connect to Ollama"):
            ask(client)
        with pytest.raises(httpx.ConnectError):
            streamed(client)
        double.stop()
        double.start()
        assert double.url == url
        assert client.ps().models == []
        assert ask(client).message.content == "two"
        assert len(double.chat()) == 2

    def test_stopped_in_mid_run(self, double: OllamaDouble, client: ollama.Client) -> None:
        double.enqueue(Hang(30, after="Some text"))
        parts = client.chat(MODEL, QUESTION, stream=True)
        assert next(parts).message.content == "Some tex"
        double.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
        assert double.requests[0].aborted

    def test_stopped_by_a_behaviour(self, double: OllamaDouble, client: ollama.Client) -> None:
        def die(_: dict[str, Any]) -> Answer:
            double.stop()
            return Answer("never sent")

        double.enqueue(Answer("fine"), die)
        assert ask(client).message.content == "fine"
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            ask(client)
        with pytest.raises(ConnectionError):
            ask(client)

    def test_no_thread_is_left(self) -> None:
        before = set(threading.enumerate())
        with OllamaDouble() as double, connect_raw(double) as http:
            http.get("/")
            started = set(threading.enumerate()) - before
            assert len(started) == 2
            double.stop()
            assert not any(thread.is_alive() for thread in started)

    def test_a_fault_in_a_test_s_own_function_is_told(self) -> None:
        def faulty(sent: dict[str, Any]) -> Answer:
            return Answer(sent["no such key"])

        faulty_double = OllamaDouble(default=faulty)
        with connect(faulty_double.__enter__()) as client, pytest.raises(httpx.RemoteProtocolError):
            ask(client)
        with pytest.raises(AssertionError, match="KeyError"):
            faulty_double.__exit__(None, None, None)

    def test_async_client(self, double: OllamaDouble) -> None:
        async def call() -> str:
            async with ollama.AsyncClient(host=double.url, timeout=3, trust_env=False, verify=False) as client:
                return "".join([part.message.content async for part in await client.chat(MODEL, QUESTION, stream=True)])

        assert asyncio.run(call()) == "OK"

    def test_as_a_program(self) -> None:
        command = [sys.executable, "-m", "tests.support.ollama_double", "--port", "0", "--model", "judge"]
        root = REPOSITORY
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                with ollama.Client(host=url, timeout=3, trust_env=False, verify=False) as client:
                    scores = [json.loads(client.chat("judge", QUESTION).message.content or "") for _ in "ab"]
            finally:
                process.terminate()
        assert scores[0] == scores[1]
        assert scores[0]["score"] in range(6)
