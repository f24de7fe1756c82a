"""Ollama double: answers and failures, on the wire and through the real client."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx
import ollama
import pytest

from tests.support.ollama_calls import (
    MODEL,
    QUESTION,
    SCHEMA,
    ask,
    ask_streaming,
    chat_body,
    connect,
    ndjson_lines,
    wait_until,
)
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

# --- answers ------------------------------------------------------------------------------------------------------


def test_answer_is_one_object_without_streaming(double: OllamaDouble, client: ollama.Client) -> None:
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


def test_answer_is_streamed_in_pieces(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Answer("The score is 3.", chunk=4))
    parts = ask_streaming(client)
    assert [part.message.content for part in parts] == ["The ", "scor", "e is", " 3.", ""]
    assert [part.done for part in parts] == [False] * 4 + [True]


def test_streaming_is_the_default_and_sends_chunked_ndjson(double: OllamaDouble, http: httpx.Client) -> None:
    double.enqueue(Answer("4"))
    response = http.post("/api/chat", json={"model": MODEL, "messages": QUESTION})
    first, last = ndjson_lines(response)
    assert response.headers["transfer-encoding"] == "chunked"
    assert list(first) == ["model", "created_at", "message", "done"]
    assert first["message"] == {"role": "assistant", "content": "4"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["created_at"])
    assert last["message"] == {"role": "assistant", "content": ""}
    durations = [value for key, value in last.items() if key.endswith("_duration")]
    assert len(durations) == 4
    assert all(type(value) is int and value > 0 for value in durations)
    assert last["total_duration"] >= last["load_duration"] + last["eval_duration"]


def test_counts_of_zero_are_left_out(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Answer("4", prompt_eval_count=0, eval_count=0))
    response = ask(client)
    assert response.prompt_eval_count is None
    assert response.eval_count is None


def test_markup_characters_are_escaped_as_go_does(double: OllamaDouble, http: httpx.Client) -> None:
    double.enqueue(Answer("<a> & é\u2028"), Answer("<a>"))
    whole = http.post("/api/chat", json=chat_body())
    assert b'"content":"\\u003ca\\u003e \\u0026 \xc3\xa9\\u2028"' in whole.content
    assert whole.json()["message"]["content"] == "<a> & é\u2028"
    assert b"\\u003ca\\u003e" in http.post("/api/chat", json=chat_body(stream=True)).content


def test_client_joins_characters_that_are_split_between_chunks(
    double: OllamaDouble, client: ollama.Client, http: httpx.Client
) -> None:
    text = "Zürich — 日本語 🙂 fünf" * 3
    double.default = Answer(text, split_bytes=True)
    assert "".join(part.message.content or "" for part in ask_streaming(client)) == text
    with http.stream("POST", "/api/chat", json=chat_body(stream=True)) as response:
        pieces = list(response.iter_raw())
    broken = 0
    for piece in pieces:
        try:
            piece.decode()
        except UnicodeDecodeError:
            broken += 1
    assert broken > 10
    assert "日本語" in b"".join(pieces).decode()


def test_answer_can_have_thinking_without_content(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = Answer("", thinking="Let me think about it.", done_reason="length")
    response = ask(client)
    assert (response.message.content, response.message.thinking) == ("", "Let me think about it.")
    parts = ask_streaming(client)
    assert "".join(part.message.thinking or "" for part in parts) == "Let me think about it."
    assert parts[-1].done_reason == "length"


def test_truncated_answer_ends_with_length(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Truncated('{"analysis": "It is'))
    response = ask(client)
    assert response.done is True
    assert response.done_reason == "length"


def test_cut_prompt_reports_half_the_context_plus_two(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = Answer("4", prompt_cut=True)
    assert ask(client).prompt_eval_count == 2050
    assert ask(client, options={"num_ctx": 1024}).prompt_eval_count == 514
    double.default = Answer("4")
    long = [{"role": "user", "content": "word " * 1000}]
    assert client.chat(MODEL, long, options={"num_ctx": 1024}).prompt_eval_count == 514
    assert client.chat(MODEL, long, options={"num_ctx": 2048}).prompt_eval_count == 1258


def test_logprobs_are_sent_only_on_request(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = Answer("4!", logprobs=[token("4", -0.1, {"4": -0.1, "3": -2.5, "5": -4.0}), token("!", -0.01)])
    assert ask(client).logprobs is None
    first, second = ask(client, logprobs=True, top_logprobs=2).logprobs or ()
    assert (first.token, first.logprob) == ("4", -0.1)
    assert [(top.token, top.logprob) for top in first.top_logprobs or ()] == [("4", -0.1), ("3", -2.5)]
    assert not second.top_logprobs
    parts = ask_streaming(client, logprobs=True)
    assert [[entry.token for entry in part.logprobs or ()] for part in parts] == [["4"], ["!"], []]


def test_keys_of_structured_answers_can_be_sorted() -> None:
    content = '{"score": 4, "analysis": "Good."}'
    with (
        OllamaDouble(default=Answer(content), alphabetical_keys=True) as double,
        connect(double) as client,
    ):
        assert ask(client).message.content == content
        assert ask(client, format=SCHEMA).message.content == '{"analysis": "Good.", "score": 4}'


def test_behaviour_can_be_a_function_of_the_body(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = lambda sent: verdict(len(sent["messages"]))
    double.enqueue(lambda sent: Answer(sent["model"]))
    assert ask(client).message.content == MODEL
    assert json.loads(ask(client).message.content or "")["score"] == 1


def test_hashed_verdict_is_stable_and_in_range() -> None:
    def score(question: str, **extra: Any) -> int:
        sent = {"messages": [{"role": "user", "content": question}], **extra}
        value = json.loads(hashed_verdict(sent).content)["score"]
        assert isinstance(value, int)
        return value

    assert {score(f"question {number}") for number in range(60)} == set(range(6))
    assert score("same") == score("same")
    tens = {"properties": {"score": {"enum": [10, 20]}}}
    assert {score(f"question {number}", format=tens) for number in range(20)} == {10, 20}


# --- failures -----------------------------------------------------------------------------------------------------


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
def test_client_raises_http_errors_with_status_and_text(
    double: OllamaDouble,
    client: ollama.Client,
    failure: Failure,
    status: int,
    text: str,
    stream: bool,
) -> None:
    double.enqueue(failure)
    with pytest.raises(ollama.ResponseError) as caught:
        ask_streaming(client) if stream else ask(client)
    assert (caught.value.status_code, caught.value.error) == (status, text)
    assert str(caught.value) == f"{text} (status code: {status})"


def test_errors_of_runner_and_context_have_ollamas_text(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(runner_died(), too_long())
    with pytest.raises(ollama.ResponseError, match="model runner has unexpectedly stopped") as caught:
        ask(client)
    assert caught.value.status_code == 500
    with pytest.raises(ollama.ResponseError, match="prompt is longer than the context length") as caught:
        ask(client)
    assert caught.value.status_code == 400


def test_nested_context_error_is_a_json_string(double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
    double.default = too_long_nested(42947, 8192)
    assert http.post("/api/chat", json=chat_body()).text == (
        r'{"error":"{\"error\":{\"code\":400,\"message\":\"request (42947 tokens) exceeds the available context '
        r"size (8192 tokens), try increasing it\",\"type\":\"exceed_context_size_error\","
        r'\"n_prompt_tokens\":42947,\"n_ctx\":8192}}"}'
    )
    with pytest.raises(ollama.ResponseError) as caught:
        ask(client)
    assert caught.value.status_code == 400
    assert json.loads(caught.value.error)["error"]["n_ctx"] == 8192


@pytest.mark.parametrize("stream", [False, True])
def test_error_body_that_is_a_list_breaks_the_client(double: OllamaDouble, client: ollama.Client, stream: bool) -> None:
    double.enqueue(Failure(500, ["no", "object"]))
    with pytest.raises(AttributeError, match="'list' object has no attribute 'get'"):
        ask_streaming(client) if stream else ask(client)


def test_html_and_empty_bodies_are_sent_unchanged(
    double: OllamaDouble, client: ollama.Client, http: httpx.Client
) -> None:
    double.enqueue(html(502), html(502), blank(403), blank(200))
    response = http.post("/api/chat", json=chat_body())
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


def test_error_within_a_stream_has_no_http_status(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(StreamError("The sco"))
    parts = client.chat(MODEL, QUESTION, stream=True)
    assert next(parts).message.content == "The sco"
    with pytest.raises(ollama.ResponseError, match="an error was encountered while running") as caught:
        next(parts)
    assert caught.value.status_code == -1


def test_error_before_the_first_line_has_an_http_status(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(StreamError("", "broken"), StreamError("The sco", "broken"))
    for call in (ask_streaming, ask):
        with pytest.raises(ollama.ResponseError, match="broken") as caught:
            call(client)
        assert caught.value.status_code == 500


def test_stream_can_end_without_done(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = NoDone("    ")
    response = ask(client)
    assert (response.done, response.done_reason, response.message.content) == (False, None, "    ")
    assert [part.done for part in ask_streaming(client)] == [False]
    double.default = NoDone("")
    assert ask_streaming(client) == []


@pytest.mark.parametrize("at", [0, 30, 150, 100_000])
@pytest.mark.parametrize("stream", [False, True])
def test_connection_can_be_cut_anywhere_in_the_body(
    double: OllamaDouble, client: ollama.Client, at: int, stream: bool
) -> None:
    double.enqueue(Cut("A fairly long text. " * 3, at=at))
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        ask_streaming(client) if stream else ask(client)


def test_connection_can_close_without_a_response(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Cut("text", at=-1), Cut("text" * 100, at=50, reset=True))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        ask(client)
    with pytest.raises(httpx.ReadError):
        ask(client)
    assert ask(client).message.content == "OK"


def test_stream_sends_any_lines(double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
    double.enqueue(Stream({"a": "<"}, "", b"\xff", [1]), Stream("", {}), Stream([1]))
    response = http.post("/api/chat", json=chat_body(stream=True))
    assert response.content == b'{"a":"\\u003c"}\n\n\xff\n[1]\n'
    with pytest.raises(json.JSONDecodeError):
        ask_streaming(client)
    with pytest.raises(AttributeError):
        ask_streaming(client)


def test_silence_ends_when_the_client_disconnects(double: OllamaDouble) -> None:
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
    wait_until(lambda: all(request.finished for request in double.requests))
    assert [request.aborted for request in double.requests] == [True, True, False, False]
    assert double.max_in_flight == 1  # A client that has disconnected does not count.
    assert double.errors == []
