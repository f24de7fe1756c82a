"""The Ollama client: import, proxies, what is sent, names and digests of models."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from assistant.errors import AssistantError, JudgeError
from evaluation.judging.calls import CallFailure, CompleteAnswer, Question, TokenLogprobs
from evaluation.judging.judgement import UNVERIFIED, JudgeSettings, full_name
from evaluation.judging.ollama_client import CONSTANT_DIGESTS, OllamaClient
from tests.conftest import REPOSITORY
from tests.support.ollama_double import Answer, OllamaDouble, Stream, token
from tests.support.recordings import Exchange, exchanges
from tests.support.scripted_server import ScriptedServer

Result = TypeVar("Result")
QUESTION = Question(messages=[("user", "Score this answer.")], schema=None, seed=7, num_predict=64)


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble() as running:
        yield running


def with_client(
    double: OllamaDouble, use: Callable[[OllamaClient], Awaitable[Result]], *, model: str = "llama3.1", **settings: Any
) -> Result:
    """Use a client in an event loop of its own."""

    async def run() -> Result:
        client = OllamaClient(JudgeSettings(model=model, urls=(double.url,), **settings), double.url)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_malformed_ollama_host_does_not_stop_the_import() -> None:
    program = (
        "from evaluation.judging.judgement import JudgeSettings\n"
        "from evaluation.judging.ollama_client import OllamaClient\n"
        "import os\n"
        "OllamaClient(JudgeSettings(model='m', urls=('http://127.0.0.1:1',)), 'http://127.0.0.1:1')\n"
        "assert os.environ['OLLAMA_HOST'] == 'abc:99999'\n"
    )
    environment = os.environ | {"OLLAMA_HOST": "abc:99999"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_proxy_of_the_environment_is_not_used_for_this_machine(
    double: OllamaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def use(client: OllamaClient) -> None:
        assert (await client.connect()).version
        assert (await client.ask(QUESTION)).content == "OK"

    with_client(double, use)


def test_answer_has_the_token_counts_of_the_server(double: OllamaDouble) -> None:
    double.enqueue(Answer("four", prompt_eval_count=7, eval_count=2))
    answer = with_client(double, lambda client: client.ask(QUESTION))
    assert answer == CompleteAnswer(content="four", prompt_tokens=7, response_tokens=2)


def test_request_has_every_option_and_refuses_a_cut_prompt(double: OllamaDouble) -> None:
    with_client(double, lambda client: client.ask(QUESTION), num_ctx=2048)
    (body,) = double.chat()
    assert body == {
        "model": "llama3.1",
        "messages": [{"role": "user", "content": "Score this answer."}],
        "stream": True,
        "options": {
            "temperature": 0,
            "seed": 7,
            "num_ctx": 2048,
            "num_predict": 64,
            "repeat_penalty": 1.0,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_k": 40,
            "top_p": 1.0,
            "min_p": 0.0,
        },
        "think": False,
        "truncate": False,
        "keep_alive": "10m",
    }


def test_log_probabilities_are_returned(double: OllamaDouble) -> None:
    question = Question(
        messages=QUESTION.messages, schema=None, seed=7, num_predict=1, top_logprobs=20, may_be_cut=True
    )
    double.enqueue(Answer("4", logprobs=[token("4", -0.5, {"4": -0.5, "3": -1.5})], done_reason="length"))
    answer = with_client(double, lambda client: client.ask(question))
    assert answer.logprobs == (TokenLogprobs("4", -0.5, (("4", -0.5), ("3", -1.5))),)
    (body,) = double.chat()
    assert (body["logprobs"], body["top_logprobs"], body["options"]["num_predict"]) == (True, 20, 1)


@pytest.mark.parametrize(
    "lines",
    [
        [{"message": {"role": "assistant", "content": "4"}, "done": True, "done_reason": "load"}],
        [
            {"message": {"role": "assistant", "content": "4"}, "done": True, "done_reason": "stop"},
            {"message": {"role": "assistant", "content": " or 5"}, "done": True, "done_reason": "stop"},
        ],
    ],
    ids=["load", "content after done"],
)
def test_what_only_looks_like_an_answer_is_refused(double: OllamaDouble, lines: list[Any]) -> None:
    double.enqueue(Stream(*lines))
    with pytest.raises(CallFailure) as caught:
        with_client(double, lambda client: client.ask(QUESTION))
    assert (caught.value.reason, caught.value.retries) == ("incomplete", 0)


# --- what real servers answered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ollama-0.32.15.jsonl", "ollama-0.24.0.jsonl", "llama-server-b10488.jsonl"])
def test_no_recorded_body_makes_a_client_fail_in_another_way(name: str) -> None:
    """Every body, of any call, is given to a question: it is an answer, or a failure with a reason."""
    outcomes = Counter(asyncio.run(_ask_all(exchanges(name))))
    others = set() if name.startswith("llama") else {"answer", "incomplete", "concerns every row"}
    assert set(outcomes) == {"server_error", "too_long"} | others


async def _ask_all(recorded: list[Exchange]) -> list[str]:
    return [await _outcome(exchange) for exchange in recorded]


async def _outcome(exchange: Exchange) -> str:
    body = exchange.text.encode()
    head = f"HTTP/1.1 {exchange.status} X\r\nContent-Type: {exchange.content_type or 'text/plain'}\r\n"
    with ScriptedServer([f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body]) as server:
        client = OllamaClient(JudgeSettings(model="m", urls=(server.url,)), server.url)
        try:
            await client.ask(QUESTION)
        except CallFailure as failure:
            return failure.reason
        except AssistantError:
            return "concerns every row"
        finally:
            await client.close()
    return "answer"


# --- models -------------------------------------------------------------------------------------------------------


def test_digest_and_version_are_the_servers(double: OllamaDouble) -> None:
    double.install("judge", digest="ab" * 32)
    facts = with_client(double, lambda client: client.connect(), model="judge")
    assert facts == ("0.32.15", "ab" * 32)


@pytest.mark.parametrize("digest", ["0" * 64, "abc", next(iter(CONSTANT_DIGESTS))])
def test_digest_that_identifies_nothing_is_unverified(double: OllamaDouble, digest: str) -> None:
    double.install("judge", digest=digest)
    assert with_client(double, lambda client: client.connect(), model="judge").digest == UNVERIFIED


def test_list_of_names_without_a_tag_is_understood(double: OllamaDouble) -> None:
    """KoboldCpp lists names without a tag, and the model's own name under `model`."""
    model = double.install("some-model")
    model.name = "koboldcpp"
    double.models = {"koboldcpp": model}
    assert with_client(double, lambda client: client.connect(), model="koboldcpp").digest == model.digest
    assert with_client(double, lambda client: client.connect(), model="koboldcpp:latest").digest == model.digest


def test_load_returns_the_context_that_the_model_has(double: OllamaDouble) -> None:
    double.install("small", context_length=1024)
    assert with_client(double, lambda client: client.load(), model="small") == 1024
    assert with_client(double, lambda client: client.load(), num_ctx=2048) == 2048


def test_server_that_is_not_alive(double: OllamaDouble) -> None:
    assert with_client(double, lambda client: client.is_alive())
    double.stop()
    assert not with_client(double, lambda client: client.is_alive())


def test_page_instead_of_the_version_is_refused(double: OllamaDouble) -> None:
    with pytest.raises(JudgeError, match=r"got HTTP 404 on /nowhere/api/version|HTTP 404"):
        asyncio.run(_connect_below(double))


async def _connect_below(double: OllamaDouble) -> None:
    url = f"{double.url}/nowhere"
    client = OllamaClient(JudgeSettings(model="m", urls=(url,)), url)
    try:
        await client.connect()
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.1", "llama3.1:latest"),
        ("llama3.1:8b", "llama3.1:8b"),
        ("registry:5000/llama3.1", "registry:5000/llama3.1:latest"),
    ],
)
def test_name_without_a_tag_means_latest(name: str, expected: str) -> None:
    assert full_name(name) == expected
