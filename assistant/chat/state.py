"""What a chat knows beside its conversation: settings, what waits, what is being written, loaded models."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from assistant.chat.heldout import HeldOutRow
from assistant.settings import GenerationSettings

ModelState = Literal["absent", "loading", "ready", "failed"]


class Question(NamedTuple):
    """A question that waits for its turn."""

    instruction: str
    input: str
    row: HeldOutRow | None = None


@dataclass(kw_only=True)
class OpenAnswer:
    """An answer that has not ended."""

    settings: GenerationSettings
    has_begun: bool = False
    text: str = ""
    n_pieces: int = 0
    is_stopping: bool = False
    began: float = 0.0
    """When the model began to read the prompt, on the monotonic clock."""

    @property
    def tokens_per_second(self) -> float:
        """The speed so far, about one token a piece."""
        seconds = time.monotonic() - self.began
        return self.n_pieces / seconds if self.began and seconds > 0 else 0.0


@dataclass(kw_only=True)
class Run:
    """A background run of held-out rows."""

    rows: dict[str, HeldOutRow]
    n_answered: int = 0
    has_ended: bool = False


@dataclass(kw_only=True)
class ChatSettings:
    """What the person may change while talking."""

    generation: GenerationSettings
    seed: int | None = None
    """The seed of every answer. None: each answer draws its own."""
    beside: bool = False
    """Whether the base model answers too."""
    blind: bool = False
    """Whether the names of the two models are hidden until the person has chosen."""


def now() -> datetime:
    """Return the current time in UTC, without microseconds."""
    return datetime.now(UTC).replace(microsecond=0)
