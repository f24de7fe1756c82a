"""Several servers at work on one queue of questions: spread, fail over, never a question twice at a time.

A question that fails goes to the back of the queue, so that it does not block the others. A server that does not
answer at all is asked for a sign of life for a while, and then left alone. Does not know what is asked or stored.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from assistant.errors import AssistantError
from evaluation.judging import calls
from evaluation.judging.calls import JudgeClient, ServerFacts

SIGNS_OF_LIFE = 6
"""How often a server that does not answer is asked for a sign of life: for about 24 seconds."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
MAX_FAILURES = 12
"""New questions in a row without any answer, with growing pauses, after which the server answers nobody."""

Task = TypeVar("Task")


@dataclass(kw_only=True, slots=True)
class Host:
    """One server."""

    client: JudgeClient
    facts: ServerFacts
    context: int = 0
    """The context that a row must fit into. Known after the load."""
    fault: AssistantError | None = None
    """Why this server is not asked any more."""
    _random: random.Random = field(default_factory=lambda: random.Random(123))

    def pause(self, n_failures: int) -> float:
        """Return the seconds to wait after this number of failures in a row."""
        return min(FIRST_PAUSE_S * 2.0 ** (n_failures - 1), LONGEST_PAUSE_S) + self._random.uniform(0, 0.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What became of one question.

    Args:
        again: Whether the question goes to the back of the queue.
        unreachable: Whether the server gave no answer at all.
        answered: Whether the server gave an answer, good or bad. If not, the next question waits.
        first: Whether the question was asked for the first time. At the end of a run only those are left that failed
            before, so their failures say nothing about the server.
    """

    again: bool = False
    unreachable: bool = False
    answered: bool = True
    first: bool = True


class Queue(Generic[Task]):
    """Questions that wait. `take` returns None when none waits and none in flight can come back."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.waiting = deque(tasks)
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def take(self) -> Task | None:
        """Take the next question, or wait until a question in flight comes back."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.waiting or not self._in_flight)
            if not self.waiting:
                return None
            self._in_flight += 1
            return self.waiting.popleft()

    async def put_back(self, task: Task, *, first: bool = False) -> None:
        """Put a question in flight back: to the end, or to the front if it was not asked."""
        async with self._changed:
            self._in_flight -= 1
            if first:
                self.waiting.appendleft(task)
            else:
                self.waiting.append(task)
            self._changed.notify_all()

    async def finish(self) -> None:
        """Note that a question in flight is done."""
        async with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()


async def spread(
    hosts: Sequence[Host],
    tasks: Iterable[Task],
    *,
    start: Callable[[Host], Awaitable[None]],
    ask: Callable[[Host, Task], Awaitable[Reply]],
    parallel: int,
    no_answer: Callable[[Host], AssistantError],
) -> list[Task]:
    """Ask all questions, `parallel` at a time at each server. Returns the questions that no server was left for.

    Args:
        hosts: The servers. One that fails gets its `fault`.
        tasks: The questions, in order.
        start: Prepares a server. An error that it raises is the server's fault.
        ask: Asks one question. An AssistantError that it raises is the server's fault, and the question is not lost.
        parallel: Questions in flight at each server.
        no_answer: Makes the fault of a server that does not answer.
    """
    queue = Queue(tasks)

    async def serve(host: Host) -> None:
        try:
            await start(host)
        except AssistantError as error:
            host.fault = error
            return
        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(_work(host, queue, ask, no_answer))

    async with asyncio.TaskGroup() as group:
        for host in hosts:
            group.create_task(serve(host))
    return list(queue.waiting)


async def _work(
    host: Host,
    queue: Queue[Task],
    ask: Callable[[Host, Task], Awaitable[Reply]],
    no_answer: Callable[[Host], AssistantError],
) -> None:
    """Ask one question after the other until none is left, or until the server fails."""
    n_failures = n_first = 0
    while (task := await queue.take()) is not None:
        if host.fault is not None:  # another worker has seen it fail
            await queue.put_back(task, first=True)
            return
        try:
            reply = await ask(host, task)
        except AssistantError as error:
            host.fault = error
            await queue.put_back(task, first=True)
            return
        await (queue.put_back(task) if reply.again else queue.finish())
        n_failures = 0 if reply.answered else n_failures + 1
        n_first = 0 if reply.answered else n_first + reply.first
        is_gone = reply.unreachable and not await _wait_for_life(host)
        if is_gone or n_first >= MAX_FAILURES:
            host.fault = host.fault or no_answer(host)
            return
        if n_failures:
            await calls.sleep(host.pause(n_failures))


async def _wait_for_life(host: Host) -> bool:
    """Return whether the server answers, after some patience."""
    for n in range(1, SIGNS_OF_LIFE + 1):
        if await host.client.is_alive():
            return True
        if host.fault is not None:
            return False
        await calls.sleep(host.pause(n))
    return False
