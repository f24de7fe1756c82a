"""The thread side of the chat: loading a model and answering with it. Knows the messages, not the widgets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from assistant.decoding.reply import Reply, SessionLike
from assistant.errors import AssistantError
from assistant.settings import GenerationSettings

FLUSH_SECONDS = 1 / 20


Load = Callable[[], SessionLike]
Post = Callable[[Message], object]


@dataclass
class ModelReady(Message):
    """The model is loaded."""

    session: SessionLike


@dataclass
class ModelFailed(Message):
    """The model could not be loaded; `problem` is ready to be shown."""

    problem: str


@dataclass
class TextArrived(Message):
    """More of the reply that is being written."""

    text: str


@dataclass
class ReplyFinished(Message):
    """The reply is complete, or was stopped. The last thing its thread says."""

    reply: Reply


@dataclass
class ReplyFailed(Message):
    """The reply broke off; `problem` is ready to be shown. The last thing its thread says."""

    problem: str


def load_model(load: Load, post: Post) -> None:
    """Load the model and report how it went. Runs in a thread of its own."""
    outcome: Message
    try:
        outcome = ModelReady(load())
    except BaseException as error:  # noqa: BLE001  even a SystemExit: whatever is not reported leaves the chat waiting
        outcome = ModelFailed(describe(error))
    post(outcome)


def answer(
    session: SessionLike,
    instruction: str,
    settings: GenerationSettings,
    *,
    should_stop: Callable[[], bool],
    post: Post,
) -> None:
    """Write one reply and report it: any number of `TextArrived`, then `ReplyFinished` or `ReplyFailed`, once.

    Runs in a thread of its own. No earlier exchange is sent: the models are trained on single questions.
    """
    text = _TextBatch(post)
    outcome: Message
    try:
        outcome = ReplyFinished(
            session.reply(instruction, history=(), settings=settings, on_text=text.add, should_stop=should_stop)
        )
    except BaseException as error:  # noqa: BLE001  even a SystemExit: whatever is not reported blocks the prompt
        outcome = ReplyFailed(describe(error))
    text.flush()
    post(outcome)


def describe(error: BaseException) -> str:
    """A sentence for the screen. The project's own errors are one already; others are named by their type."""
    if isinstance(error, AssistantError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _TextBatch:
    """Gathers pieces of text and posts them together, so that a fast model does not drown the screen."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._pieces: list[str] = []
        self._flushed_at = float("-inf")

    def add(self, piece: str) -> None:
        """Keep the piece; post everything kept if the last post is long enough ago."""
        self._pieces.append(piece)
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Post everything kept."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self._flushed_at = time.monotonic()
        if text:
            self._post(TextArrived(text))
