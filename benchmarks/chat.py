"""The chat's budgets: first paint, loading, streaming, held-out rows, tokens, long conversations, and the end.

    python benchmarks/chat.py demo/model

Nothing else may compute on the machine meanwhile. The parts that need no model use scripted sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pty
import queue
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tests.support

from assistant.chat.conversation import Conversation, from_records
from assistant.chat.events import AnswerFinished, DataReady, Event, ModelReady, RowAnswered, RunEnded, TokensReady
from assistant.chat.heldout import next_rows
from assistant.chat.records import Answered, AnswerKey, Asked, Opened, Record
from assistant.chat.setup import read_data, set_up
from assistant.chat.state import ChatSettings, now
from assistant.chat.store import NoStore, Store
from assistant.chat.worker import AnswerJob, InspectJob, RowsJob, Worker
from assistant.settings import EngineSettings, GenerationSettings
from assistant.tui.app import ChatApp
from tests.support.chat_setup import make_setup
from tests.support.scripted_session import ScriptedSession

ROUNDS = 5
TOKENS = 800
TOKENS_PER_SECOND = 100
LONG, SHORT = 2000, 10
PLACEHOLDER = b"Type an instruction"


def main() -> None:
    """Measure, and print one line for each budget."""
    parser = argparse.ArgumentParser(description="The chat's budgets.")
    parser.add_argument("model", type=Path, help="Folder of a fine-tuned model with its data, such as the demo's.")
    options = parser.parse_args()
    paint, leave = zip(*(start_and_quit(options.model) for _ in range(ROUNDS)), strict=True)
    show("first paint", statistics.median(paint), "s", "0.5 s")
    show("quit, from the key to the end of the process", statistics.median(leave), "s", "0.5 s")
    measure_models(options.model)
    for is_markdown in (False, True):
        lags = asyncio.run(measure_lag(is_markdown=is_markdown))
        name = "Markdown" if is_markdown else "raw text"
        show(f"lag at p95 while {TOKENS} tokens stream as {name}", 1000 * quantile(lags, 0.95), "ms", "20 ms")
        show(f"  at p50; largest {1000 * max(lags):.0f} ms", 1000 * quantile(lags, 0.5), "ms", "")
    few, many = (asyncio.run(processor_a_turn(count)) for count in (SHORT, LONG))
    show(f"processor a turn at {SHORT} turns", 1000 * few, "ms", "")
    show(f"processor a turn at {LONG} turns, as a ratio", many / few, "", "1.5")
    show(f"open {LONG} turns from the disk", asyncio.run(open_long()), "s", "1 s")


def show(name: str, value: float, unit: str, bar: str) -> None:
    """Print a figure beside its bar."""
    print(f"{name:<58} {value:8.3f} {unit:<3} {f'(bar {bar})' if bar else ''}", flush=True)


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of some values."""
    return sorted(values)[int(share * (len(values) - 1))]


# --- the real program ---------------------------------------------------------------------------------------------


def start_and_quit(model: Path) -> tuple[float, float]:
    """Return the seconds to the first paint, and from ctrl+q, once the models are loaded, to the end."""
    ours, theirs = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "TERM": "xterm-256color",
            "COLUMNS": "80",
            "LINES": "24",
            "ASSISTANT_DATA_DIR": folder,
        }
        command = [sys.executable, "-m", "assistant", "chat", str(model)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        read_until(ours, lambda text: PLACEHOLDER in text)
        painted = time.perf_counter() - started
        with contextlib.suppress(TimeoutError):
            read_until(ours, lambda _: False, seconds=6.0)
        asked = time.perf_counter()
        os.write(ours, b"\x11")
        reader = read_forever(ours)
        while process.poll() is None:
            next(reader)
        return painted, time.perf_counter() - asked


def read_until(file: int, condition: Callable[[bytes], bool], seconds: float = 60.0) -> None:
    """Read from a terminal until its text meets a condition."""
    text, deadline = b"", time.perf_counter() + seconds
    while not condition(text):
        if time.perf_counter() > deadline:
            raise TimeoutError(text[-2000:])
        if select.select([file], [], [], 0.01)[0]:
            text += os.read(file, 65536)


def read_forever(file: int) -> Iterator[None]:
    """Read what comes, a little at a time."""
    while True:
        with contextlib.suppress(OSError):
            if select.select([file], [], [], 0.002)[0]:
                os.read(file, 65536)
        yield


# --- models -------------------------------------------------------------------------------------------------------


def measure_models(model: Path) -> None:
    """Load both models, answer held-out rows, and look at tokens."""
    settings = GenerationSettings()
    setup = set_up(
        model,
        settings=ChatSettings(generation=settings),
        engine=EngineSettings(),
        base=None,
        data=(),
        store=NoStore(),
        resume=None,
    )
    events: queue.Queue[Event] = queue.Queue()
    worker = Worker(setup.load, events.put)
    started = time.perf_counter()
    worker.start()
    until(events, ModelReady)
    tuned_ready = time.perf_counter() - started
    until(events, ModelReady)
    show("tuned model ready", tuned_ready, "s", "")
    show("base model ready after that", time.perf_counter() - started - tuned_ready, "s", "2 s")
    started = time.perf_counter()
    data = read_data(model, setup.info, ())
    show("held-out rows found and training rows indexed", time.perf_counter() - started, "s", "")
    assert isinstance(data, DataReady)
    rows = next_rows(data.held_out.rows, 20, seed=1)
    job = RowsJob(run=0, rows=rows, settings=settings, with_base=True)
    started = time.perf_counter()
    worker.submit(job)
    until(events, RunEnded)
    show("20 held-out rows by both models", time.perf_counter() - started, "s", "3 s")
    measure_tokens(worker, events, data)
    worker.close()


def measure_tokens(worker: Worker, events: queue.Queue[Event], data: DataReady) -> None:
    """Compare the time of the token view with that of writing the answer."""
    writing, looking, count = [], [], 0
    for place, row in enumerate(data.held_out.rows[:30]):
        key, settings = AnswerKey(place, "base", 0), GenerationSettings(max_new_tokens=100)
        example = row.example
        asked = {"key": key, "instruction": example.instruction, "input": example.input, "history": ()}
        started = time.perf_counter()
        worker.submit(AnswerJob(**asked, settings=settings))
        finished = until(events, AnswerFinished)
        writing.append(time.perf_counter() - started)
        reply = finished.reply
        answer = Answered(
            at=now(),
            turn=place,
            side="base",
            variant=0,
            response=reply.response,
            token_ids=reply.token_ids,
            stop_reason=reply.stop_reason,
            seconds=reply.seconds,
            settings=settings,
        )
        started = time.perf_counter()
        worker.submit(InspectJob(**asked, answer=answer))
        until(events, TokensReady)
        looking.append(time.perf_counter() - started)
        count += len(reply.token_ids)
    share = sum(looking) / sum(writing)
    show(f"token view of {count} tokens, as a share of writing them", 100 * share, "%", "10 %")


def until(events: queue.Queue[Event], kind: type) -> Event:
    """Take events until one of a kind comes."""
    while True:
        event = events.get(timeout=120)
        if isinstance(event, kind):
            return event
        assert isinstance(event, RowAnswered | ModelReady) or "Failed" not in type(event).__name__, event


# --- the screen ---------------------------------------------------------------------------------------------------


async def measure_lag(*, is_markdown: bool) -> list[float]:
    """Return how late the event loop was, every 5 ms, while an answer streamed. In seconds."""
    words = [{0: "\n\n", 60: "\n\n* item ", 75: "\n* item "}.get(n % 120, f"word{n} ") for n in range(TOKENS)]
    session = ScriptedSession(*words, piece_seconds=1 / TOKENS_PER_SECOND)
    app = ChatApp(make_setup(session))
    lags: list[float] = []
    async with app.run_test(size=(100, 30)) as pilot:
        screen = app.screen
        await idle(screen)
        if is_markdown:
            await pilot.press("f8")
        screen.call_later(screen.send, "Write.", "")
        screen.call_later(screen.draw)
        while not screen.chat.open_answers:
            await asyncio.sleep(0.002)
        while screen.chat.open_answers:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - before - 0.005)
    return lags


def long_conversation(count: int) -> list[Record]:
    """Return the records of a conversation."""
    records: list[Record] = [Opened(at=now(), model="toy")]
    for turn in range(count):
        records.append(Asked(at=now(), turn=turn, instruction=f"What is number {turn}?"))
        records.append(
            Answered(
                at=now(),
                turn=turn,
                side="tuned",
                variant=0,
                response=f"Number {turn} is a number between {turn - 1} and {turn + 1}.",
                token_ids=tuple(range(12)),
                stop_reason="eos",
                seconds=0.1,
                settings=GenerationSettings(),
            )
        )
    return records


async def processor_a_turn(count: int) -> float:
    """Return the processor seconds of a turn, in a conversation of `count` turns."""
    conversation: Conversation = from_records(long_conversation(count))
    app = ChatApp(make_setup(ScriptedSession(*("word " for _ in range(20))), conversation=conversation))
    async with app.run_test(size=(80, 24)):
        screen = app.screen
        await idle(screen)
        before = processor()
        for turn in range(20):
            screen.call_later(screen.send, f"Question {turn}", "")
            screen.call_later(screen.draw)
            await asyncio.sleep(0)
            while len(screen.chat.conversation.turns) <= count + turn:
                await asyncio.sleep(0.002)
            await idle(screen)
        return (processor() - before) / 20


async def open_long() -> float:
    """Return the seconds to open a long conversation from the disk, up to the drawn screen."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        first, *rest = long_conversation(LONG)
        assert isinstance(first, Opened)
        file = store.create(first)
        for record in rest:
            file.append(record)
        file.close()
        app = ChatApp(make_setup(folder=Path(folder)))
        async with app.run_test(size=(80, 24)) as pilot:
            await idle(app.screen)
            started = time.perf_counter()
            await app.screen.resume("last")
            await pilot.pause()
            return time.perf_counter() - started


async def idle(screen: object) -> None:
    """Wait until the chat answers nothing."""
    while screen.chat is None or not screen.chat.has_read_data or screen.chat.open_answers or screen.chat.waiting:  # type: ignore[attr-defined]
        await asyncio.sleep(0.005)


def processor() -> float:
    """Return the processor seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
