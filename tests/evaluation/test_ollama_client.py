"""The Ollama client: import, proxies, retries and the deadline of one call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from evaluation.judgement import JudgeSettings
from evaluation.ollama_client import CallFailure, CompleteAnswer, OllamaClient, full_name
from tests.conftest import REPOSITORY
from tests.support.ollama_double import Answer, OllamaDouble, busy

QUESTION = [{"role": "user", "content": "Score this answer."}]


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble() as running:
        yield running


@contextmanager
def client_of(
    double: OllamaDouble, *, sleep: Callable[[float], None] = lambda _seconds: None, **settings: Any
) -> Iterator[OllamaClient]:
    client = OllamaClient(JudgeSettings(model="llama3.1", url=double.url, **settings), sleep=sleep)
    try:
        yield client
    finally:
        client.close()


def test_malformed_ollama_host_does_not_stop_the_import() -> None:
    program = (
        "from evaluation.judgement import JudgeSettings\n"
        "from evaluation.ollama_client import OllamaClient\n"
        "import os\n"
        "OllamaClient(JudgeSettings(model='m', url='http://127.0.0.1:1'))\n"
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
    with client_of(double) as client:
        assert "version" in client.get("/api/version")
        assert client.chat(QUESTION).content == "OK"


def test_answer_has_the_token_counts_of_the_server(double: OllamaDouble) -> None:
    double.enqueue(Answer("four", prompt_eval_count=7, eval_count=2))
    with client_of(double) as client:
        assert client.chat(QUESTION) == CompleteAnswer(content="four", prompt_tokens=7, response_tokens=2)


def test_pauses_between_retries_grow_and_are_bounded(double: OllamaDouble) -> None:
    pauses: list[float] = []
    failures: list[CallFailure] = []
    double.enqueue(busy(), busy(), busy(), Answer("4"))
    with client_of(double, sleep=pauses.append) as client:
        assert client.chat(QUESTION, on_retry=failures.append).content == "4"
    assert [failure.reason for failure in failures] == ["server_error"] * 3
    assert len(pauses) == 3
    assert all(0 < pause <= 8 for pause in pauses)
    assert pauses[2] > pauses[0]


def test_refused_connection_is_retried(double: OllamaDouble) -> None:
    pauses: list[float] = []
    failures: list[CallFailure] = []

    def restart_at_second_pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            double.start()

    with client_of(double, sleep=restart_at_second_pause) as client:
        client.get("/api/version")
        double.stop()
        double.enqueue(Answer("2"))
        assert client.chat(QUESTION, on_retry=failures.append).content == "2"
    assert [failure.reason for failure in failures] == ["unreachable", "unreachable"]


def test_slow_answer_ends_at_the_deadline(double: OllamaDouble) -> None:
    slow = Answer("x" * 200, chunk=1, between=0.02)
    double.enqueue(slow, slow)
    failures: list[CallFailure] = []
    with (
        client_of(double, silence_timeout_s=5, deadline_s=0.2) as client,
        pytest.raises(CallFailure, match=r"no end of the answer after 0\.2 s") as caught,
    ):
        client.chat(QUESTION, on_retry=failures.append)
    assert [failure.reason for failure in [*failures, caught.value]] == ["timeout", "timeout"]
    assert double.pending == 0


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
