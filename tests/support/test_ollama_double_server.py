"""Ollama double: concurrent requests, start and stop."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import REPOSITORY
from tests.support.ollama_calls import (
    MODEL,
    QUESTION,
    answer_after_arrivals,
    ask,
    ask_streaming,
    connect,
    connect_http,
    wait_until,
)
from tests.support.ollama_double import Answer, Hang, OllamaDouble

# --- concurrency --------------------------------------------------------------------------------------------------


def test_model_runs_one_request_at_a_time(double: OllamaDouble, client: ollama.Client) -> None:
    double.default = answer_after_arrivals(double, 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(client), range(4)))
    assert double.max_in_flight == 4
    assert double.max_running == 1
    spans = sorted((request.started or 0, request.finished or 0) for request in double.requests)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_sequential_requests_are_never_in_flight_together(double: OllamaDouble, client: ollama.Client) -> None:
    for number in range(30):
        ask_streaming(client) if number % 2 else ask(client)
    assert double.max_in_flight == 1


def test_two_slots_run_two_requests_at_once() -> None:
    with (
        OllamaDouble(num_parallel=2) as double,
        connect(double) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        double.default = answer_after_arrivals(double, 3)
        list(pool.map(lambda _: ask(client), range(3)))
        assert (double.max_in_flight, double.max_running) == (3, 2)


def test_client_that_disconnects_frees_its_place_in_the_queue(double: OllamaDouble) -> None:
    double.enqueue(Hang(30), Answer("never read"), Answer("third"))
    with (
        connect(double, 0.5) as first,
        connect(double, 0.1) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        hanging = pool.submit(ask, first)
        wait_until(lambda: len(double.requests) == 1)
        with pytest.raises(httpx.ReadTimeout):
            ask(second)  # It waits for the first request.
        with pytest.raises(httpx.ReadTimeout):
            hanging.result()
        assert ask(first).message.content == "third"
    assert double.requests[1].started is None
    assert double.requests[1].aborted


# --- start and stop -----------------------------------------------------------------------------------------------


def test_stopped_server_refuses_and_continues_after_a_restart(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Answer("one"), Answer("two"))
    url = double.url
    assert ask(client).message.content == "one"
    double.stop()
    with pytest.raises(ConnectionError, match="Failed to connect to Ollama"):
        ask(client)
    with pytest.raises(httpx.ConnectError):
        ask_streaming(client)
    double.stop()
    double.start()
    assert double.url == url
    assert client.ps().models == []
    assert ask(client).message.content == "two"
    assert len(double.chat()) == 2


def test_stop_cuts_a_running_stream(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue(Hang(30, after="Some text"))
    parts = client.chat(MODEL, QUESTION, stream=True)
    assert next(parts).message.content == "Some tex"
    double.stop()
    with pytest.raises(httpx.RemoteProtocolError):
        list(parts)
    assert double.requests[0].aborted


def test_behaviour_can_stop_the_server(double: OllamaDouble, client: ollama.Client) -> None:
    def die(_: dict[str, Any]) -> Answer:
        double.stop()
        return Answer("never sent")

    double.enqueue(Answer("fine"), die)
    assert ask(client).message.content == "fine"
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        ask(client)
    with pytest.raises(ConnectionError):
        ask(client)


def test_stop_ends_all_threads() -> None:
    before = set(threading.enumerate())
    with OllamaDouble() as double, connect_http(double) as http:
        http.get("/")
        started = set(threading.enumerate()) - before
        assert len(started) == 2
        double.stop()
        assert not any(thread.is_alive() for thread in started)


def test_exception_in_a_behaviour_fails_the_test() -> None:
    def faulty(sent: dict[str, Any]) -> Answer:
        return Answer(sent["no such key"])

    faulty_double = OllamaDouble(default=faulty)
    with connect(faulty_double.__enter__()) as client, pytest.raises(httpx.RemoteProtocolError):
        ask(client)
    with pytest.raises(AssertionError, match="KeyError"):
        faulty_double.__exit__(None, None, None)


def test_async_client_works(double: OllamaDouble) -> None:
    async def call() -> str:
        async with ollama.AsyncClient(host=double.url, timeout=3, trust_env=False, verify=False) as client:
            return "".join([part.message.content async for part in await client.chat(MODEL, QUESTION, stream=True)])

    assert asyncio.run(call()) == "OK"


def test_double_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "tests.support.ollama_double", "--port", "0", "--model", "judge"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with ollama.Client(host=url, timeout=3, trust_env=False, verify=False) as client:
                scores = [json.loads(client.chat("judge", QUESTION).message.content or "") for _ in "ab"]
        finally:
            process.terminate()
    assert scores[0] == scores[1]
    assert scores[0]["score"] in range(6)
