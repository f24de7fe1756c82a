"""The worker's thread: loading, answering, stopping, background runs, and what happens when something fails."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from assistant.chat.events import (
    AnswerFailed,
    AnswerFinished,
    AnswerStarted,
    Event,
    ModelFailed,
    ModelReady,
    RowAnswered,
    RunEnded,
    TextArrived,
)
from assistant.chat.heldout import HeldOutRow
from assistant.chat.records import AnswerKey, Side
from assistant.chat.worker import AnswerJob, RowsJob, Worker
from assistant.dataset.examples import Example
from assistant.errors import CheckpointError
from assistant.settings import GenerationSettings
from tests.support.scripted_session import ScriptedSession

PATIENCE_SECONDS = 10.0
Kind = TypeVar("Kind")


class Events:
    """The events that a worker posted, in their order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Event] = queue.Queue()
        self.seen: list[Event] = []

    def post(self, event: Event) -> None:
        self._queue.put(event)

    def until(self, kind: type[Kind]) -> Kind:
        """Wait for an event of that kind, and return it."""
        while True:
            event = self._queue.get(timeout=PATIENCE_SECONDS)
            self.seen.append(event)
            if isinstance(event, kind):
                return event


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Worker, Events]]]:
    workers: list[Worker] = []

    def start(**sessions: ScriptedSession | BaseException) -> tuple[Worker, Events]:
        events = Events()
        load: dict[Side, Callable[[], ScriptedSession]] = {}
        for side, session in sessions.items():
            load[side] = lambda session=session: _loaded(session)  # type: ignore[index, misc]
        worker = Worker(load, events.post)
        workers.append(worker)
        worker.start()
        for _ in sessions:
            events.until(object) if isinstance(session, BaseException) else events.until(ModelReady)
        return worker, events

    yield start
    for worker in workers:
        worker.close()


def _loaded(session: ScriptedSession | BaseException) -> ScriptedSession:
    if isinstance(session, BaseException):
        raise session
    return session


def job(turn: int = 0, side: Side = "tuned", instruction: str = "Hello.") -> AnswerJob:
    settings = GenerationSettings(max_new_tokens=4096)
    return AnswerJob(key=AnswerKey(turn, side, 0), instruction=instruction, input="x", history=(), settings=settings)


def rows(count: int) -> tuple[HeldOutRow, ...]:
    return tuple(HeldOutRow(id=f"id{n}", example=Example(instruction=f"Row {n}.", output="yes")) for n in range(count))


def test_an_answer_arrives_in_pieces_and_ends_once(start: Callable[..., tuple[Worker, Events]]) -> None:
    session = ScriptedSession("a", "b", "c")
    worker, events = start(tuned=session)
    worker.submit(job())
    finished = events.until(AnswerFinished)
    kinds = [type(event) for event in events.seen[1:]]
    assert kinds[0] is AnswerStarted
    assert kinds[-1] is AnswerFinished
    assert "".join(event.text for event in events.seen if isinstance(event, TextArrived)) == "abc"
    assert finished.reply.response == "abc"
    assert session.inputs == ["x"]


def test_jobs_are_worked_off_in_order_by_one_thread(start: Callable[..., tuple[Worker, Events]]) -> None:
    tuned, base = ScriptedSession("t", piece_seconds=0.002), ScriptedSession("b", piece_seconds=0.002)
    worker, events = start(tuned=tuned, base=base)
    for turn in range(10):
        worker.submit(job(turn, "tuned"))
        worker.submit(job(turn, "base"))
    keys = [events.until(AnswerFinished).key for _ in range(20)]
    assert keys == [AnswerKey(turn, side, 0) for turn in range(10) for side in ("tuned", "base")]
    assert max(tuned.max_running, base.max_running) == 1


def test_a_stopped_answer_keeps_its_text_and_the_next_one_is_whole(
    start: Callable[..., tuple[Worker, Events]],
) -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    worker, events = start(tuned=session)
    worker.submit(job(0))
    worker.submit(job(1))
    events.until(TextArrived)
    worker.stop(AnswerKey(0, "tuned", 0))
    stopped = events.until(AnswerFinished)
    assert (stopped.reply.response, stopped.reply.stop_reason) == ("a", "cancelled")
    session.gate.set()
    assert events.until(AnswerFinished).reply.response == "ab"


def test_an_error_ends_its_answer_only(start: Callable[..., tuple[Worker, Events]]) -> None:
    session = ScriptedSession("a", error=RuntimeError("[red] out of memory"))
    worker, events = start(tuned=session)
    worker.submit(job(0))
    assert events.until(AnswerFailed).problem == "RuntimeError: [red] out of memory"
    session.error = None
    worker.submit(job(1))
    assert events.until(AnswerFinished).reply.response == "a"


def test_a_model_that_cannot_be_loaded_is_reported_and_loaded_again() -> None:
    events = Events()
    outcomes: list[ScriptedSession | BaseException] = [
        CheckpointError("folder: expected weights."),
        ScriptedSession("a"),
    ]
    worker = Worker({"tuned": lambda: _loaded(outcomes.pop(0))}, events.post)
    worker.start()
    assert events.until(ModelFailed).problem == "folder: expected weights."
    worker.submit(job())
    assert "tuned model" in events.until(AnswerFailed).problem
    worker.load_again("tuned")
    events.until(ModelReady)
    worker.submit(job())
    assert events.until(AnswerFinished).reply.response == "a"
    worker.close()


def test_a_run_answers_each_row_once_with_both_models(start: Callable[..., tuple[Worker, Events]]) -> None:
    worker, events = start(tuned=ScriptedSession("yes"), base=ScriptedSession("no"))
    worker.submit(RowsJob(run=3, rows=rows(45), settings=GenerationSettings(), with_base=True))
    events.until(RunEnded)
    answered = [event for event in events.seen if isinstance(event, RowAnswered)]
    assert [event.row for event in answered] == [f"id{n}" for n in range(45)]
    assert {(event.run, event.tuned.response, event.base and event.base.response) for event in answered} == {
        (3, "yes", "no")
    }


def test_a_run_gives_way_to_a_question_and_goes_on(start: Callable[..., tuple[Worker, Events]]) -> None:
    session = ScriptedSession("yes", piece_seconds=0.005)
    worker, events = start(tuned=session)
    worker.submit(RowsJob(run=0, rows=rows(40), settings=GenerationSettings(), with_base=False))
    while len(session.instructions) < 3:
        time.sleep(0.001)
    worker.submit(job(instruction="Mine."))
    events.until(AnswerFinished)
    assert session.instructions.index("Mine.") <= 20
    events.until(RunEnded)
    assert [event.row for event in events.seen if isinstance(event, RowAnswered)] == [f"id{n}" for n in range(40)]


def test_a_stopped_run_ends_and_keeps_what_it_has(start: Callable[..., tuple[Worker, Events]]) -> None:
    session = ScriptedSession("yes", piece_seconds=0.002)
    worker, events = start(tuned=session)
    worker.submit(RowsJob(run=0, rows=rows(60), settings=GenerationSettings(), with_base=False))
    events.until(RowAnswered)
    worker.stop_run(0)
    assert events.until(RunEnded).problem == ""
    assert len([event for event in events.seen if isinstance(event, RowAnswered)]) < 60


def test_a_run_that_fails_says_why(start: Callable[..., tuple[Worker, Events]]) -> None:
    worker, events = start(tuned=ScriptedSession("a", error=RuntimeError("no memory")))
    worker.submit(RowsJob(run=0, rows=rows(2), settings=GenerationSettings(), with_base=False))
    assert events.until(RunEnded).problem == "RuntimeError: no memory"


def test_a_closed_worker_posts_nothing_more(start: Callable[..., tuple[Worker, Events]]) -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    worker, events = start(tuned=session)
    worker.submit(job())
    events.until(TextArrived)
    n_seen = len(events.seen)
    worker.close()
    while session.running:
        time.sleep(0.001)
    assert len(events.seen) == n_seen
    assert events._queue.empty()


def test_an_answer_of_a_run_ends_soon_after_it_is_longer_than_any_reference(
    start: Callable[..., tuple[Worker, Events]],
) -> None:
    session = ScriptedSession(*["word "] * 500)
    worker, events = start(tuned=session)
    worker.submit(RowsJob(run=0, rows=rows(2), settings=GenerationSettings(), with_base=False))
    events.until(RunEnded)
    n_reference = len(session.tokenizer.encode("yes"))
    assert {settings.max_new_tokens for settings in session.settings} == {2 * n_reference + 16}
