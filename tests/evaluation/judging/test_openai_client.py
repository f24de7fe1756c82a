"""The client of OpenAI's API: llama.cpp's server as it was recorded, and a double of it that fails in every way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from assistant.errors import AssistantError, PrerequisiteError
from evaluation.judging import calls
from evaluation.judging.calls import CallFailure, CompleteAnswer, Question
from evaluation.judging.judgement import TRANSIENT, UNVERIFIED, JudgeSettings
from evaluation.judging.openai_client import OpenAIClient
from evaluation.judging.rubric import SCHEMA
from tests.conftest import shared_file
from tests.evaluation.conftest import do_not_wait
from tests.support import openai_double as server
from tests.support.evaluation_command import CommandResult, evaluation
from tests.support.guesses import outcomes_by_row, row_of, write_guesses
from tests.support.openai_double import OpenAIDouble, Scripted
from tests.support.scripted_server import ScriptedServer

Result = TypeVar("Result")
QUESTION = Question(messages=[("system", "Judge."), ("user", "Score this.")], schema=SCHEMA, seed=7, num_predict=64)
FIVE = '{"analysis": "a", "score": 5}'


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIDouble]:
    monkeypatch.setattr(calls, "sleep", do_not_wait)
    with OpenAIDouble() as running:
        yield running


def with_client(
    url: str, use: Callable[[OpenAIClient], Awaitable[Result]], *, model: str = "judge", **settings: Any
) -> Result:
    """Use a client in an event loop of its own."""

    async def run() -> Result:
        client = OpenAIClient(JudgeSettings(model=model, urls=(url,), api="openai", **settings), url)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def ask(url: str, question: Question = QUESTION, **settings: Any) -> CompleteAnswer:
    return with_client(url, lambda client: client.ask(question), **settings)


# --- what is sent -------------------------------------------------------------------------------------------------


def test_request_has_every_option(openai: OpenAIDouble) -> None:
    assert json.loads(ask(openai.url).content)["score"] == 3
    assert openai.bodies == [
        {
            "model": "judge",
            "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Score this."}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 64,
            "seed": 7,
            "temperature": 0,
            "repeat_penalty": 1.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_k": 40,
            "top_p": 1.0,
            "min_p": 0.0,
            "chat_template_kwargs": {"enable_thinking": False},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
            },
        }
    ]


def test_address_may_end_with_the_version_of_the_api(openai: OpenAIDouble) -> None:
    assert with_client(f"{openai.url}/v1", lambda client: client.connect()).digest == UNVERIFIED
    assert openai.paths == ["/v1/models", "/props"]


def test_model_that_is_not_in_the_list_is_refused(openai: OpenAIDouble) -> None:
    """llama.cpp's server would answer to any name with the model that it has."""
    with pytest.raises(PrerequisiteError, match=r"'nope' at http.*, got only judge\. .*--judge NAME"):
        with_client(openai.url, lambda client: client.connect(), model="nope")
    assert openai.bodies == []


def test_client_waits_while_the_server_loads(openai: OpenAIDouble) -> None:
    openai.loading = 3
    assert with_client(openai.url, lambda client: client.connect()).version == "b10488-test"


def test_load_returns_the_servers_context(openai: OpenAIDouble) -> None:
    async def use(client: OpenAIClient) -> int | None:
        await client.connect()
        return await client.load()

    assert with_client(openai.url, use) == 8192
    openai.n_ctx = None
    assert with_client(openai.url, use) is None


# --- one question -------------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[Scripted, str]] = {
    "loading": (server.loading(), "server_error"),
    "an error": (server.failure(500, "something"), "server_error"),
    "an error page": (server.reply(b"<html>Bad Gateway</html>", 502, "text/html"), "server_error"),
    "a page with status 200": (server.reply(b"<html>Hello</html>", 200, "text/html"), "server_error"),
    "a list": (server.reply(b"[1, 2]"), "server_error"),
    "an error that is a list": (server.reply(b"[1, 2]", 500), "server_error"),
    "an error that is text": (server.reply(b'{"error": "no"}', 400), "server_error"),
    "an error of vLLM": (server.reply(b'{"object": "error", "message": "no", "code": 400}'), "server_error"),
    "an empty body": (server.reply(b""), "server_error"),
    "an object without choices": (server.reply(b'{"id": 5}'), "server_error"),
    "a blank stream": (server.events(done=False), "incomplete"),
    "only the end": (server.events(), "incomplete"),
    "no end": (server.answer(FIVE, finish=None), "incomplete"),
    "a cut answer": (server.answer(FIVE, finish="length"), "incomplete"),
    "a filtered answer": (server.answer(FIVE, finish="content_filter"), "incomplete"),
    "content after the end": (server.events(server.chunk(FIVE, "stop"), server.chunk(FIVE)), "incomplete"),
    "content after [DONE]": (
        server.events(server.chunk(FIVE, "stop"), b"data: [DONE]\n\n", server.chunk(FIVE)),
        "incomplete",
    ),
    "an error in the stream": (server.events(server.chunk("{"), {"error": {"message": "died"}}), "server_error"),
    "an old error in the stream": (server.events(server.chunk("{"), b'error: {"message": "died"}\n\n'), "server_error"),
    "a broken line": (server.events(server.chunk("{"), b"data: {nope\n\n"), "incomplete"),
    "a list in the stream": (server.events(server.chunk("{"), [1]), "incomplete"),
    "silence": (server.events(server.chunk("{"), 30.0), "timeout"),
    "no first byte": ([30.0], "timeout"),
    "a closed connection": ([], "unreachable"),
    "a prompt that is too long": (server.too_long(), "too_long"),
    "a prompt that is too long for vLLM": (
        server.failure(400, "This model's maximum context length is 4096 tokens. However, you requested 5000."),
        "too_long",
    ),
}


@pytest.mark.parametrize(("behaviour", "reason"), FAILURES.values(), ids=FAILURES)
def test_every_failure_has_a_reason(openai: OpenAIDouble, behaviour: Scripted, reason: str) -> None:
    openai.enqueue(behaviour)
    with pytest.raises(CallFailure) as caught:
        ask(openai.url, silence_timeout_s=0.2, first_byte_timeout_s=0.2)
    assert caught.value.reason == reason
    assert str(caught.value)


ANSWERS: dict[str, Scripted] = {
    "streamed": server.answer(FIVE),
    "whole, by a server that ignores stream": server.whole(FIVE),
    "with blank lines and comments": server.events(b": ping\n\n", b"\n", server.chunk(FIVE, "stop")),
    "with carriage returns": server.events(b"data: " + json.dumps(server.chunk(FIVE, "stop")).encode() + b"\r\n\r\n"),
    "without [DONE]": server.events(server.chunk(FIVE), server.chunk("", "stop"), done=False),
    "one byte at a time": [bytes([byte]) for byte in b"".join(s for s in server.answer(FIVE) if isinstance(s, bytes))],
}


@pytest.mark.parametrize("behaviour", ANSWERS.values(), ids=ANSWERS)
def test_answer_is_read_in_every_form(openai: OpenAIDouble, behaviour: Scripted) -> None:
    openai.enqueue(behaviour)
    assert ask(openai.url).content == FIVE


@pytest.mark.parametrize("status", [401, 403])
def test_refused_access_concerns_every_row(openai: OpenAIDouble, status: int) -> None:
    openai.enqueue(server.failure(status, "Invalid API Key"))
    with pytest.raises(AssistantError, match=rf"got HTTP {status}: Invalid API Key"):
        ask(openai.url)


# --- what llama.cpp's server answered -----------------------------------------------------------------------------


def recorded() -> dict[str, dict[str, Any]]:
    lines = shared_file("ollama-transcripts/llama-server-b10488.jsonl").read_text(encoding="utf-8").splitlines()
    return {exchange["name"]: exchange for exchange in map(json.loads, lines)}


def replay(exchange: dict[str, Any], use: Callable[[str], Result]) -> Result:
    """Use a server that gives a recorded answer to everything."""
    body = exchange["body"].encode()
    head = f"HTTP/1.1 {exchange['status']} X\r\nContent-Type: {exchange['content_type']}\r\n"
    with ScriptedServer([f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body]) as running:
        return use(running.url)


def test_recorded_answers_are_read() -> None:
    exchanges = recorded()
    cut_allowed = Question(messages=QUESTION.messages, schema=None, seed=7, num_predict=1, may_be_cut=True)
    streamed = replay(exchanges["chat streamed"], lambda url: ask(url, cut_allowed))
    whole = replay(exchanges["chat whole"], ask)
    schema = replay(exchanges["schema"], ask)
    logprobs = replay(exchanges["logprobs"], lambda url: ask(url, cut_allowed))
    assert whole.content.startswith(streamed.content)
    assert streamed.response_tokens == 6
    assert (whole.prompt_tokens, whole.response_tokens) == (48, 53)
    assert json.loads(schema.content) == {"analysis": "2+2=4", "score": 2}
    (first,) = logprobs.logprobs
    assert (first.token, len(first.top)) == ("The", 20)
    assert first.top[0] == ("The", first.logprob)


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("chat while loading", "server_error", "Loading model"),
        ("cut", "incomplete", "'length'"),
        ("too long", "too_long", "3631 tokens; the judge's context has 2048"),
        ("bad JSON", "server_error", "parse error"),
        ("unknown path", "server_error", "File Not Found"),
        ("no messages", "server_error", "'messages' is required"),
        ("bad schema", "server_error", "Unrecognized schema"),
    ],
)
def test_recorded_failures_have_a_reason(name: str, reason: str, words: str) -> None:
    with pytest.raises(CallFailure, match=words) as caught:
        replay(recorded()[name], ask)
    assert caught.value.reason == reason


def test_recorded_list_of_models_has_name_and_context() -> None:
    exchange = recorded()["models"]

    async def use(client: OpenAIClient) -> tuple[str, int | None]:
        return (await client.connect()).digest, client._context

    assert replay(exchange, lambda url: with_client(url, use, model="smollm2")) == (UNVERIFIED, 2048)
    with pytest.raises(PrerequisiteError, match=r"got only smollm2\."):
        replay(exchange, lambda url: with_client(url, use, model="nope"))


# --- through the command ------------------------------------------------------------------------------------------


def score(path: Path, double: OpenAIDouble, *options: object) -> CommandResult:
    where = ("--judge", "judge", "--api", "openai", "--host", double.url, "--controls", "0")
    return evaluation("score", path, *where, "--json", *options)


@pytest.mark.usefixtures("work_in_tmp_path")
def test_every_row_of_a_run_is_scored_or_has_its_reason(tmp_path: Path, openai: OpenAIDouble) -> None:
    """One row for each failure, after some that are scored: the counts add up, and a second run asks the right ones."""
    failures = [(behaviour, reason) for behaviour, reason in FAILURES.values() if reason != "timeout"]
    behaviours = [server.verdict(4)] * 3 + [behaviour for behaviour, _ in failures]
    reasons = [reason for _, reason in failures]

    def answer(body: dict[str, Any]) -> server.Steps:
        steps = behaviours[row_of(str(body["messages"]))]
        return steps(body) if callable(steps) else steps

    openai.default = answer
    path = write_guesses(tmp_path, len(behaviours))
    result = score(path, openai, "--parallel", 4)
    assert (result.code, result.json["scored"]) == (0, 3)
    assert result.json["unscored"] == dict(Counter(reasons))
    assert result.json["scored"] + sum(result.json["unscored"].values()) == result.json["n"]
    assert outcomes_by_row(Path("runs/guesses")) == [None] * 3 + reasons
    assert (result.json["judge"]["api"], result.json["judge"]["digest"]) == ("openai", UNVERIFIED)
    openai.default = server.verdict(4)
    openai.bodies.clear()
    score(path, openai)
    transient = [row for row, reason in enumerate(reasons, start=3) if reason in TRANSIENT]
    assert sorted(row_of(str(body["messages"])) for body in openai.bodies) == transient


@pytest.mark.usefixtures("work_in_tmp_path")
def test_address_must_be_given(answers: Path) -> None:
    result = evaluation("score", answers, "--judge", "judge", "--api", "openai")
    assert (result.code, "--host" in result.error) == (2, True)
