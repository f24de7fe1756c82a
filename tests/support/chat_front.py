"""A front without a screen, for tests of `assistant.chat.chat`: it writes down what it is told."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from typing import Any

from assistant.chat.chat import Chat
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.conversation_file import UnsavedFile
from assistant.chat.events import DataReady, Event, TokenDetail
from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.chat.records import AnswerKey, Opened, Record, RowRun, Side
from assistant.chat.state import ChatSettings, now
from assistant.chat.worker import LoadModel, Worker
from assistant.dataset.examples import Example
from assistant.settings import GenerationSettings
from tests.support.scripted_session import ScriptedSession

PATIENCE_SECONDS = 10.0


class RecordingFile(UnsavedFile):
    """Keeps the records in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Record] = []
        self.error: Exception | None = None

    def append(self, record: Record) -> None:
        if self.error is not None:
            raise self.error
        self.records.append(record)


class RecordingFront:
    """Writes down every call."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.problems: list[tuple[str, str]] = []
        self.added: list[int] = []
        self.texts: dict[AnswerKey, str] = {}
        self.rows: list[RowRun] = []
        self.tokens: tuple[TokenDetail, ...] = ()
        self.n_looks = 0
        """How often tokens were shown."""
        self.given_back: list[tuple[str, str]] = []
        self.has_room = True

    def turn_added(self, turn: Turn) -> None:
        self.added.append(turn.number)

    def turn_changed(self, number: int) -> None:
        pass

    def text_arrived(self, key: AnswerKey, text: str) -> None:
        self.texts[key] = self.texts.get(key, "") + text

    def row_answered(self, row: RowRun) -> None:
        self.rows.append(row)

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:  # noqa: ARG002
        self.tokens = tokens
        self.n_looks += 1

    def state_changed(self) -> None:
        pass

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def problem(self, text: str, advice: str) -> None:
        self.problems.append((text, advice))

    def give_back(self, instruction: str, input: str) -> bool:
        self.given_back.append((instruction, input))
        return self.has_room


class ChatBench:
    """A chat on scripted sessions. `until` handles the worker's events in the test's thread."""

    def __init__(self, sessions: dict[Side, ScriptedSession], conversation: Conversation, **settings: Any) -> None:
        self.front, self.file = RecordingFront(), RecordingFile()
        self._events: queue.Queue[Event] = queue.Queue()
        load: dict[Side, LoadModel] = {side: _loader(session) for side, session in sessions.items()}
        self.worker = Worker(load, self._events.put)
        generation = settings.pop("generation", GenerationSettings(max_new_tokens=4096))
        self.chat = Chat(
            front=self.front,
            worker=self.worker,
            names={side: session.name for side, session in sessions.items()},
            conversation=conversation,
            file=self.file,
            opened=Opened(at=now(), model="toy"),
            settings=ChatSettings(generation=generation, **settings),
            draw=random.Random(1),
        )

    def until(self, condition: Callable[[], object]) -> None:
        """Handle events until the condition holds."""
        while not condition():
            self.chat.handle(self._events.get(timeout=PATIENCE_SECONDS))

    def until_idle(self) -> None:
        """Handle events until the models are loaded and nothing is answered or waits."""
        chat = self.chat
        self.until(
            lambda: (
                "loading" not in (chat.state("tuned"), chat.state("base"))
                and not chat.open_answers
                and not chat.waiting
                and all(run.has_ended for run in chat.runs.values())
            )
        )

    def give_rows(self, *examples: Example) -> None:
        """Make these examples the held-out rows."""
        rows = tuple(HeldOutRow(id=f"id{n}", example=example) for n, example in enumerate(examples))
        self.chat.handle(DataReady(held_out=HeldOut(rows=rows)))


def open_bench(
    tuned: ScriptedSession | None = None,
    base: ScriptedSession | None = None,
    *,
    conversation: Conversation | None = None,
    **settings: Any,
) -> ChatBench:
    """Open a chat, and load its models."""
    sessions: dict[Side, ScriptedSession] = {"tuned": tuned or ScriptedSession("Hello.")}
    if base is not None:
        sessions["base"] = base
    bench = ChatBench(sessions, conversation or Conversation(), **settings)
    bench.worker.start()
    bench.until_idle()
    return bench


def _loader(session: ScriptedSession) -> LoadModel:
    return lambda: session
