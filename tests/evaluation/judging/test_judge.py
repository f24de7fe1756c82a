"""The judge, with an Ollama double that fails in every way the real server does."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from assistant.errors import AssistantError, JudgeError, PrerequisiteError
from evaluation.judging.calls import JudgeClient
from evaluation.judging.judge import Judge, Try, was_truncated
from evaluation.judging.judgement import REASONS, TRANSIENT, WITHOUT_JUDGE, Attempt, JudgeIdentity, JudgeSettings
from evaluation.judging.rubric import SCHEMA, Material, Method
from tests.support.ollama_double import (
    Answer,
    Cut,
    Failure,
    Hang,
    NoDone,
    OllamaDouble,
    Scripted,
    Stream,
    StreamError,
    Truncated,
    blank,
    busy,
    html,
    load_failed,
    missing_model,
    runner_died,
    too_long_nested,
    unauthorized,
    verdict,
)

Result = TypeVar("Result")
UNUSED_URL = "http://127.0.0.1:1"
"""No server listens on this port."""
ROW = Material(instruction="Name the capital of France.", reference="Paris.", response="It is Paris.")


class JudgeAtHost:
    """A judge and its one server, without asking again later in a run: each call is one try at one row."""

    def __init__(self, url: str, **settings: Any) -> None:
        fields: dict[str, Any] = {"model": "llama3.1", "silence_timeout_s": 5.0, "first_byte_timeout_s": 5.0} | settings
        self.url = url
        self.judge = Judge(JudgeSettings(urls=(url,), **fields))
        self.context = self.judge.settings.num_ctx

    def _run(self, use: Callable[[JudgeClient], Awaitable[Result]]) -> Result:
        async def run() -> Result:
            client = self.judge.make_client(self.url)
            try:
                return await use(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def connect(self) -> JudgeIdentity:
        return self.judge.identity(self._run(lambda client: client.connect()))

    def load(self) -> None:
        self.context = self.judge.context(self._run(lambda client: client.load()))

    def attempts(self, row: Material) -> list[Attempt]:
        return list(self.ask(row).attempts)

    def ask(self, row: Material) -> Try:
        return self._run(lambda client: self.judge.ask(client, row, context=self.context, server_version="1"))


@contextmanager
def judge_at(url: str, **settings: Any) -> Iterator[JudgeAtHost]:
    yield JudgeAtHost(url, **settings)


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble() as running:
        yield running


def ask(double: OllamaDouble, *behaviours: Scripted, row: Material = ROW, **settings: Any) -> list[Attempt]:
    """Ask about one row as often as its failures allow; the double answers with the behaviours."""
    double.enqueue(*behaviours)
    attempts: list[Attempt] = []
    with judge_at(double.url, **settings) as judge:
        judge.connect()
        for n_failures in range(4):
            tried = judge.ask(row)
            attempts += tried.attempts
            if tried.retries <= n_failures:
                break
    assert double.pending == 0, "the judge did not ask for every scripted answer"
    return attempts


# --- connect and load ---------------------------------------------------------------------------------------------


def test_error_for_a_missing_server_names_the_command() -> None:
    with (
        judge_at(UNUSED_URL) as judge,
        pytest.raises(PrerequisiteError, match="ollama serve") as caught,
    ):
        judge.connect()
    assert "\n" not in str(caught.value)


def test_error_for_a_missing_model_names_the_command(double: OllamaDouble) -> None:
    with (
        judge_at(double.url, model="nope") as judge,
        pytest.raises(PrerequisiteError, match=r"only llama3\.1:latest\. Fetch it: ollama pull nope$"),
    ):
        judge.connect()


def test_server_that_is_not_ollama_is_refused() -> None:
    class OtherServer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *args: object) -> None:
            """Do not log."""

    with http.server.HTTPServer(("127.0.0.1", 0), OtherServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with (
            judge_at(f"http://127.0.0.1:{server.server_port}") as judge,
            pytest.raises(JudgeError, match="expected an Ollama server"),
        ):
            judge.connect()
        server.shutdown()


def test_judges_with_other_settings_or_models_have_other_fingerprints(double: OllamaDouble) -> None:
    double.install("other")
    with judge_at(double.url) as judge:
        first = judge.connect()
    with judge_at(double.url) as judge:
        again = judge.connect()
    with judge_at(double.url, num_ctx=8192) as judge:
        larger = judge.connect()
    with judge_at(double.url, model="other") as judge:
        other = judge.connect()
    assert first.fingerprint == again.fingerprint
    assert larger.fingerprint == first.fingerprint != other.fingerprint
    assert first.rubric == Method().hash


def test_model_that_cannot_be_loaded_raises(double: OllamaDouble) -> None:
    double.enqueue_load(load_failed())
    with judge_at(double.url) as judge:
        judge.connect()
        with pytest.raises(JudgeError, match=r"process has terminated.*ollama run llama3\.1"):
            judge.load()


def test_odd_end_of_the_load_does_not_stop_the_judge(double: OllamaDouble) -> None:
    double.enqueue_load(NoDone("x"))
    double.enqueue(verdict(4))
    with judge_at(double.url) as judge:
        judge.connect()
        judge.load()
        (attempt,) = judge.attempts(ROW)
    assert attempt.score == 4


# --- one row ------------------------------------------------------------------------------------------------------


def test_verdict_gives_a_score(double: OllamaDouble) -> None:
    (attempt,) = ask(double, verdict(4, "Nearly."))
    assert (attempt.score, attempt.analysis, attempt.unscored, attempt.final) == (4, "Nearly.", None, True)
    assert json.loads(attempt.content or "") == {"analysis": "Nearly.", "score": 4}


def test_verdict_is_read_from_stream_pieces_of_any_size(double: OllamaDouble) -> None:
    (attempt,) = ask(double, verdict(3, "Très bien – 東京 \U0001f600", chunk=1, split_bytes=True))
    assert (attempt.score, attempt.analysis) == (3, "Très bien – 東京 \U0001f600")


def test_half_a_surrogate_pair_is_replaced_in_the_attempt(double: OllamaDouble) -> None:
    (attempt,) = ask(double, Answer('{"analysis": "\\ud83d", "score": 3}'))
    assert attempt.analysis == "\ufffd"
    attempt.model_dump_json()


def test_requests_differ_only_in_their_messages(double: OllamaDouble) -> None:
    other = Material(instruction="2 + 2?", reference="4", response="5")
    double.enqueue(verdict(4), verdict(0))
    with judge_at(double.url, num_ctx=2048) as judge:
        judge.connect()
        judge.load()
        list(judge.attempts(ROW))
        list(judge.attempts(other))
    load, first, second = double.chat()
    assert load["messages"] == []
    assert first["messages"] != second["messages"]
    for body in (load, first, second):
        body.pop("messages")
    assert first == second == load | {"format": SCHEMA}
    assert first["options"] == JudgeSettings(model="m", urls=("u",), num_ctx=2048).options
    assert (first["think"], first["truncate"], first["keep_alive"], first["format"]) == (False, False, "10m", SCHEMA)
    assert double.loads == ["llama3.1:latest"]
    assert double.max_in_flight == 1


def test_repeated_row_makes_an_identical_request(double: OllamaDouble) -> None:
    ask(double, verdict(4))
    ask(double, verdict(4))
    first, second = double.chat()
    assert first == second


CUT_JSON = '{"analysis": "The answer'
FINAL: frozenset[str] = frozenset(REASONS) - TRANSIENT

# Behaviours of the server, one per request, and the row's reason.
FAILURES: dict[str, tuple[list[Scripted], str]] = {
    "always busy": ([busy()] * 4, "server_error"),
    "the runner dies twice": ([runner_died()] * 2, "server_error"),
    "another 500": ([Failure(500, "something else")], "server_error"),
    "another 400": ([Failure(400, '"llama3.1" does not support chat')], "server_error"),
    "an error page": ([html()], "server_error"),
    "a page with status 200": ([html(200)], "server_error"),
    "an error that is a list": ([Failure(500, ["no", "object"])], "server_error"),
    "a list as a line of the stream": ([Stream([1, 2])], "server_error"),
    "an empty stream": ([Stream()], "incomplete"),
    "a load instead of an answer": ([Answer('{"analysis": "a", "score": 5}', done_reason="load")], "incomplete"),
    "content after the end": (
        [
            Stream(
                *[
                    {
                        "message": {"role": "assistant", "content": '{"analysis": "a", "score": 5}'},
                        "done": True,
                        "done_reason": "stop",
                    }
                ]
                * 2
            )
        ],
        "incomplete",
    ),
    "a body that is a number": ([Failure(200, b"5")], "server_error"),
    "an empty body": ([blank(200)], "incomplete"),
    "a line without a message": ([Stream({"done": True})], "server_error"),
    "an error in the stream, twice": ([StreamError(CUT_JSON)] * 2, "server_error"),
    "a stream without done": ([NoDone(CUT_JSON)], "incomplete"),
    "a complete verdict without done": ([NoDone('{"analysis": "a", "score": 5}')], "incomplete"),
    "a verdict that says stop but not done": (
        [
            Stream(
                {
                    "model": "llama3.1",
                    "message": {"role": "assistant", "content": '{"analysis": "a", "score": 5}'},
                    "done": False,
                    "done_reason": "stop",
                }
            )
        ],
        "incomplete",
    ),
    "a verdict cut by num_predict": ([Truncated(CUT_JSON)], "incomplete"),
    "a complete verdict that ends with length": ([Truncated('{"analysis": "a", "score": 5}')], "incomplete"),
    "a cut stream, twice": ([Cut(CUT_JSON, at=300)] * 2, "incomplete"),
    "a reset stream, twice": ([Cut(CUT_JSON, at=300, reset=True)] * 2, "incomplete"),
    "no headers, twice": ([Cut(CUT_JSON, at=-1)] * 2, "unreachable"),
    "silence, twice": ([Hang(30)] * 2, "timeout"),
    "silence within the answer, twice": ([Hang(30, after=CUT_JSON)] * 2, "timeout"),
    "a prompt that is too long, native path": ([too_long_nested(42947, 4096)], "too_long"),
    "a prompt that is too long, Go-template path": (
        [Failure(400, "the prompt is longer than the context length currently available to the model; shorten it")],
        "too_long",
    ),
    "a prompt that was cut without an error": ([verdict(5, prompt_cut=True)], "truncated"),
    "no verdict, twice": ([Answer("I would say 4."), Answer("Really 4.")], "unparsable"),
    "only thinking, twice": ([Answer("", thinking="Hmm.")] * 2, "unparsable"),
    "white space, twice": ([Answer(" \n" * 20)] * 2, "unparsable"),
    "a score outside the scale, twice": ([verdict(6), verdict(-1)], "unparsable"),
}


@pytest.mark.parametrize(("behaviours", "reason"), FAILURES.values(), ids=FAILURES)
def test_every_failure_gives_the_row_a_reason(double: OllamaDouble, behaviours: list[Scripted], reason: str) -> None:
    attempts = ask(double, *behaviours, silence_timeout_s=0.5, first_byte_timeout_s=0.5)
    assert len(double.chat()) == len(behaviours) == len(attempts)
    assert attempts[-1].unscored == reason
    assert attempts[-1].final == (reason in FINAL)
    assert all(attempt.score is None and attempt.detail for attempt in attempts)
    assert not any(attempt.final for attempt in attempts[:-1])


def test_failures_cover_every_reason_of_a_judge() -> None:
    assert {reason for _, reason in FAILURES.values()} == set(REASONS) - WITHOUT_JUDGE - {"not_judged"}


RECOVERIES: dict[str, list[Scripted]] = {
    "busy at first": [busy(), busy(), busy()],
    "the runner died once": [runner_died()],
    "an error in the stream": [StreamError(CUT_JSON)],
    "a cut stream": [Cut(CUT_JSON, at=300)],
    "a reset connection": [Cut(CUT_JSON, at=-1, reset=True)],
    "silence": [Hang(30)],
    "no verdict": [Answer("4")],
}


@pytest.mark.parametrize("behaviours", RECOVERIES.values(), ids=RECOVERIES)
def test_row_gets_a_score_after_transient_failures(double: OllamaDouble, behaviours: list[Scripted]) -> None:
    attempts = ask(double, *behaviours, verdict(4), silence_timeout_s=0.5, first_byte_timeout_s=0.5)
    assert attempts[-1].score == 4
    assert len(attempts) == len(behaviours) + 1
    assert not any(attempt.final for attempt in attempts[:-1])


def test_second_question_has_another_seed_and_a_repair_sentence(double: OllamaDouble) -> None:
    ask(double, Answer("4"), verdict(4))
    first, second = double.chat()
    assert (first["options"].pop("seed"), second["options"].pop("seed")) == (123, 124)
    assert first["options"] == second["options"]
    assert second["messages"][1]["content"].startswith(first["messages"][1]["content"])
    assert "could not be read" in second["messages"][1]["content"]


def test_row_that_does_not_fit_is_not_sent(double: OllamaDouble) -> None:
    long = Material(instruction="Summarise.", reference="r", response="word " * 4000)
    (attempt,) = ask(double, row=long)
    assert attempt.unscored == "too_long"
    assert "4096" in (attempt.detail or "")
    assert double.chat() == []


def test_detail_has_the_token_counts_of_the_server(double: OllamaDouble) -> None:
    (attempt,) = ask(double, too_long_nested(42947, 8192))
    assert "42947" in (attempt.detail or "")
    assert "8192" in (attempt.detail or "")


def test_shorter_context_of_the_model_is_used(double: OllamaDouble) -> None:
    double.install("small", context_length=1024)
    row = Material(instruction="Summarise.", reference="r", response="word " * 300)
    with judge_at(double.url, model="small") as judge:
        judge.connect()
        judge.load()
        (attempt,) = judge.attempts(row)
    assert attempt.unscored == "too_long"
    assert "1024" in (attempt.detail or "")


@pytest.mark.parametrize(
    ("tokens", "num_ctx", "truncated"),
    [
        (None, 4096, False),
        (600, 4096, False),
        (2049, 4096, False),
        (2050, 4096, True),
        (2051, 4096, True),
        (2052, 4096, False),
        (4095, 4096, True),
        (4096, 4096, True),
        (514, 4096, True),  # fewer than the words: the model's context is shorter
        (1, 4096, False),  # an old server that does not count cached tokens
    ],
)
def test_truncated_prompt_is_detected_by_its_token_count(tokens: int | None, num_ctx: int, truncated: bool) -> None:
    assert was_truncated("word " * 550, tokens, num_ctx) is truncated


@pytest.mark.parametrize("behaviour", [missing_model("llama3.1"), unauthorized(), blank(403)])
def test_failure_that_concerns_every_row_raises(double: OllamaDouble, behaviour: Failure) -> None:
    with pytest.raises(AssistantError):
        ask(double, behaviour)
