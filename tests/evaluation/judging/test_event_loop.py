"""Signals while a judge is asked."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from evaluation.judging import event_loop
from evaluation.judging.event_loop import run_until_stopped


class Stopped(KeyboardInterrupt):
    """What the program's own handler raises."""


@pytest.fixture(autouse=True, params=[signal.SIGINT, signal.SIGTERM])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal whose handler raises `Stopped`."""

    def handle(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    number: signal.Signals = request.param
    before = signal.signal(number, handle)
    yield number
    assert signal.getsignal(number) is handle
    signal.signal(number, before)


async def _asks(done: list[str], name: str, n_asked: int = 1000) -> None:
    try:
        for _ in range(n_asked):
            await asyncio.sleep(0.001)
    finally:
        done.append(name)


def test_a_signal_ends_every_task_and_is_raised_afterwards(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for name in ("one", "two", "three"):
                group.create_task(_asks(done, name))
            await asyncio.sleep(0.02)
            signal.raise_signal(number)
            signal.raise_signal(number)  # the same request
            done.append("went on")
            await asyncio.sleep(10)

    with caplog.at_level(logging.DEBUG, "asyncio"), pytest.raises(Stopped):
        run_until_stopped(work())
    assert done[0] == "went on"
    assert sorted(done[1:]) == ["one", "three", "two"]
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_a_signal_counts_also_if_a_task_fails_at_its_end(number: signal.Signals) -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            raise OSError("no room on the disk")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await asyncio.sleep(0.01)
            signal.raise_signal(number)
            await asyncio.sleep(10)

    with pytest.raises(Stopped):
        run_until_stopped(work())


def test_a_second_signal_does_not_wait(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "SAME_REQUEST_S", 0.0)
    reached: list[str] = []

    async def work() -> None:
        signal.raise_signal(number)
        reached.append("first")
        time.sleep(0.001)  # a task that does not give up control
        signal.raise_signal(number)
        reached.append("second")

    with pytest.raises(Stopped):
        run_until_stopped(work())
    assert reached == ["first"]


def test_a_signal_before_the_first_task_is_not_lost(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    run, reached = asyncio.run, list[str]()

    def late(main: object) -> object:
        signal.raise_signal(number)
        return run(main)  # type: ignore[arg-type]

    async def work() -> None:
        reached.append("asked")

    monkeypatch.setattr(asyncio, "run", late)
    with pytest.raises(Stopped):
        run_until_stopped(work())
    assert reached == []


def test_without_a_signal_it_returns_the_result_in_every_thread() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    results = [run_until_stopped(work())]
    thread = threading.Thread(target=lambda: results.append(run_until_stopped(work())))
    thread.start()
    thread.join()
    assert results == [3, 3]


def test_a_cancellation_that_no_signal_asked_for_stays_one() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_until_stopped(work())
