"""The work of the chat's threads: loading the model and writing replies. Knows the messages, not the widgets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from assistant.decoding.reply import Reply, SessionLike
from assistant.errors import AssistantError
from assistant.settings import GenerationSettings

FLUSH_SECONDS = 1 / 20
"""The shortest time between two `TextArrived` messages, except for the last one of a reply."""

LoadModel = Callable[[], SessionLike]
PostMessage = Callable[[Message], object]


@dataclass
class ModelReady(Message):
    """The model is loaded."""

    session: SessionLike


@dataclass
class ModelFailed(Message):
    """The model could not be loaded."""

    problem: str
    """What went wrong, as a sentence for the screen."""


@dataclass
class TextArrived(Message):
    """The model wrote more text of the reply."""

    text: str


@dataclass
class ReplyFinished(Message):
    """The reply is complete, or the user stopped it. The last message of a reply's thread."""

    reply: Reply


@dataclass
class ReplyFailed(Message):
    """An error ended the reply. The last message of a reply's thread."""

    problem: str
    """What went wrong, as a sentence for the screen."""


def load_model(load: LoadModel, post: PostMessage) -> None:
    """Load the model, then post `ModelReady` or `ModelFailed`. Runs in its own thread."""
    outcome: Message
    try:
        outcome = ModelReady(load())
    except BaseException as error:  # noqa: BLE001  also SystemExit: without a report the chat would wait forever
        outcome = ModelFailed(describe_error(error))
    post(outcome)


def answer(
    session: SessionLike,
    instruction: str,
    settings: GenerationSettings,
    *,
    should_stop: Callable[[], bool],
    post: PostMessage,
) -> None:
    """Write one reply and report it. Runs in its own thread.

    Posts any number of `TextArrived`, then `ReplyFinished` or `ReplyFailed` once. The session sees no earlier messages,
    because the models are trained on single questions.
    """
    batch = _TextBatch(post)
    outcome: Message
    try:
        outcome = ReplyFinished(
            session.reply(instruction, settings=settings, on_text=batch.add, should_stop=should_stop)
        )
    except BaseException as error:  # noqa: BLE001  also SystemExit: without a report the prompt would stay locked
        outcome = ReplyFailed(describe_error(error))
    batch.flush()
    post(outcome)


def describe_error(error: BaseException) -> str:
    """Describe an error in one sentence for the screen.

    The project's own errors already are sentences. For other errors, the type comes first.
    """
    if isinstance(error, AssistantError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _TextBatch:
    """Collects pieces of text and posts them together, so that a fast model does not flood the screen."""

    def __init__(self, post: PostMessage) -> None:
        self._post = post
        self._pieces: list[str] = []
        self._flushed_at = float("-inf")

    def add(self, piece: str) -> None:
        """Add a piece, and flush if the last flush was at least `FLUSH_SECONDS` ago."""
        self._pieces.append(piece)
        if time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Post all collected text."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self._flushed_at = time.monotonic()
        if text:
            self._post(TextArrived(text))
