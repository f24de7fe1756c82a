"""Runs the questions to a judge, so that a signal ends them in order."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

from assistant.signals import SAME_REQUEST_S, STOP_SIGNALS

Result = TypeVar("Result")


def run_until_stopped(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine as `asyncio.run` does. At a signal, cancel it, and call the signal's handler when it has ended.

    A handler that raises inside of a task leaves the other tasks as they are, and asyncio prints its exception with a
    traceback. At a second signal, its handler is called at once.

    Raises:
        KeyboardInterrupt: a signal came and its handler raised nothing else.
    """
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread alone
        return asyncio.run(work)
    handlers = {number: handler for number in STOP_SIGNALS if callable(handler := signal.getsignal(number))}
    received: list[int] = []
    first_at = 0.0
    task: asyncio.Task[Any] | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        received.append(number)
        if len(received) == 1:
            first_at = time.monotonic()
        elif time.monotonic() - first_at > SAME_REQUEST_S:
            handlers[signal.Signals(number)](number, frame)
        if task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)

    async def main() -> Result:
        nonlocal task
        task = asyncio.current_task()
        try:
            if received:  # before there was a task to cancel
                raise asyncio.CancelledError
            return await work
        finally:
            task = None
            work.close()

    for number in handlers:
        signal.signal(number, handle)
    try:
        result = asyncio.run(main())
    except KeyboardInterrupt:  # of a second signal
        raise
    except BaseException:  # the cancellation, or what failed while the tasks ended
        if not received:
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        handlers[signal.Signals(received[0])](received[0], None)
        raise KeyboardInterrupt
    return result
