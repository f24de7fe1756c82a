"""One HTTP call: limits in time and size that hold for whatever arrives, and lines from bytes split anywhere."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.errors import JudgeError
from evaluation.judging.calls import CallFailure
from evaluation.judging.transport import MAX_LINES, Limits, Transport
from tests.support.scripted_server import HEAD, ScriptedServer, dripping

LONG = 30.0
"""Seconds that no test waits for."""


def limits(
    first_byte_s: float = LONG, silence_s: float = LONG, total_s: float = LONG, line_bytes: int = 1 << 20
) -> Limits:
    return Limits(
        first_byte_s=first_byte_s, silence_s=silence_s, total_s=total_s, line_bytes=line_bytes, answer_bytes=1 << 21
    )


async def _lines(url: str, with_limits: Limits) -> list[bytes]:
    transport = Transport(url)
    try:
        async with transport.call("POST", "/x", with_limits, body={"a": 1}) as incoming:
            lines = []
            while (line := await incoming.next_line()) is not None:
                lines.append(line)
            return lines
    finally:
        await transport.close()


def lines_of(steps: Sequence[bytes | float], with_limits: Limits | None = None) -> list[bytes]:
    """Return the lines of an answer that arrives in these steps."""
    with ScriptedServer(steps) as server:
        return asyncio.run(_lines(server.url, with_limits or limits()))


def failure_of(steps: Sequence[bytes | float], with_limits: Limits | None = None) -> CallFailure:
    with pytest.raises(CallFailure) as caught:
        lines_of(steps, with_limits)
    return caught.value


# --- time ---------------------------------------------------------------------------------------------------------


def test_total_limit_holds_inside_a_line_that_drips() -> None:
    failure = failure_of([HEAD, *dripping(b"x" * 1000, 0.03)], limits(silence_s=0.3, total_s=0.3))
    assert (failure.reason, str(failure)) == ("timeout", "no end of the answer after 0.3 s")


def test_silence_limit_holds_inside_a_line() -> None:
    failure = failure_of([HEAD, b'{"half', LONG], limits(silence_s=0.1))
    assert (failure.reason, str(failure)) == ("timeout", "silent for 0.1 s")


def test_first_byte_limit_is_one_of_its_own() -> None:
    failure = failure_of([HEAD, LONG], limits(first_byte_s=0.1))
    assert (failure.reason, str(failure)) == ("timeout", "no first byte after 0.1 s")
    assert lines_of([0.15, HEAD, 0.15, b"late\n"], limits(silence_s=0.1)) == [b"late"]


def test_first_byte_limit_holds_for_a_head_that_drips() -> None:
    failure = failure_of(dripping(HEAD, 0.02), limits(first_byte_s=0.1))
    assert (failure.reason, str(failure)) == ("timeout", "no first byte after 0.1 s")


# --- size ---------------------------------------------------------------------------------------------------------


def test_line_is_bounded() -> None:
    failure = failure_of([HEAD, b"x" * 5000], limits(line_bytes=1000))
    assert (failure.reason, str(failure)) == ("server_error", "a line of more than 1000 bytes")


def test_number_of_lines_is_bounded() -> None:
    failure = failure_of([HEAD, b"{}\n" * (MAX_LINES + 1)])
    assert (failure.reason, str(failure)) == ("server_error", "an answer of more than 16384 lines")
    assert lines_of([HEAD, b"\n" * MAX_LINES]) == [b""] * MAX_LINES


def test_answer_is_bounded() -> None:
    failure = failure_of([HEAD, *[b"y" * 999 + b"\n"] * 5000])
    assert (failure.reason, str(failure)) == ("server_error", "an answer of more than 2097152 bytes")


def test_compressed_answer_is_refused() -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    failure = failure_of([head, gzip.compress(b"0" * 100_000)])
    assert (failure.reason, "compressed" in str(failure)) == ("server_error", True)


# --- what arrives -------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(min_value=0, max_value=40), max_size=12))
def test_lines_are_read_from_bytes_split_anywhere(cuts: list[int]) -> None:
    text = "eins\n\nzwei – 東京 \U0001f600\ndrei".encode()
    edges = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    steps: list[bytes | float] = [HEAD]
    for start, end in pairwise(edges):
        steps += [text[start:end], 0.001]
    assert lines_of(steps) == text.split(b"\n")


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "unreachable"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"], "unreachable"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"], "incomplete"),
        ([b"no HTTP at all\r\n\r\n"], "unreachable"),
    ],
    ids=["nothing", "a head alone", "half a body", "another protocol"],
)
def test_connection_that_breaks(steps: list[bytes | float], reason: str) -> None:
    failure = failure_of(steps)
    assert (failure.reason, failure.retries) == (reason, 1)


def test_refused_connection_is_unreachable() -> None:
    with pytest.raises(CallFailure) as caught:
        asyncio.run(_lines("http://127.0.0.1:1", limits()))
    assert caught.value.reason == "unreachable"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_to_another_server_is_not_followed(status: int) -> None:
    with ScriptedServer([HEAD, b"stolen\n"]) as thief:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {thief.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
        with pytest.raises(JudgeError, match=rf"got HTTP {status} to {thief.url}/x.*--host"):
            lines_of([head])
        assert thief.requests == []
