"""What the worker's thread reports to the front, one value for each thing that happened. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.chat.records import AnswerKey, Side
from assistant.decoding.reply import Reply, TokenLogprob
from assistant.settings import GenerationSettings

if TYPE_CHECKING:
    from assistant.chat.heldout import HeldOut
    from assistant.chat.nearest import NearestRows
    from assistant.dataset.prompts import Template
    from assistant.dataset.tokenizer import Tokenizer
    from assistant.model.config import ModelInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """A loaded model, as the front needs it: enough to show it, and to count the tokens of a prompt."""

    name: str
    folder: Path | None
    n_parameters: int
    context_length: int
    template: Template
    template_note: str = ""
    """What a person should know about the template. Mostly empty."""
    tokenizer: Tokenizer
    info: ModelInfo | None
    """None for a base model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReady:
    """A model is loaded."""

    side: Side
    card: ModelCard


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFailed:
    """A model could not be loaded."""

    side: Side
    problem: str
    """What went wrong, as a sentence for the screen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerStarted:
    """The model begins to read the prompt of an answer."""

    key: AnswerKey


@dataclass(frozen=True, kw_only=True, slots=True)
class TextArrived:
    """An answer goes on with this text, which is as the model wrote it."""

    key: AnswerKey
    text: str
    n_pieces: int
    """Pieces of text so far, about one a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFinished:
    """An answer is complete, or was stopped."""

    key: AnswerKey
    reply: Reply
    settings: GenerationSettings
    n_history: int
    n_forced: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFailed:
    """An error ended an answer."""

    key: AnswerKey
    problem: str
    """What went wrong, as a sentence for the screen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowAnswered:
    """Both models answered a held-out row of a background run."""

    run: int
    row: str
    tuned: Reply
    base: Reply | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded:
    """A background run is over: all rows are answered, it was stopped, or it failed."""

    run: int
    problem: str = ""
    """Empty unless it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenDetail:
    """One token of an answer under both models, at the temperature of the model itself."""

    token_id: int
    text: str
    """Bytes that are not a character by themselves are U+FFFD."""
    probability: float
    rank: int
    """1 for the likeliest token."""
    entropy: float
    """Of the distribution at this place, in bits."""
    likeliest: tuple[TokenLogprob, ...]
    """The five likeliest tokens, likeliest first."""
    base_probability: float | None
    base_rank: int | None
    """Under the base model. None if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensReady:
    """The tokens of an answer were looked at."""

    key: AnswerKey
    tokens: tuple[TokenDetail, ...]
    """One for each token of the answer, and one more for EOS if it ended by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensFailed:
    """The tokens of an answer could not be looked at."""

    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReady:
    """The model's data are read: its held-out rows, and the rows it was trained on."""

    held_out: HeldOut
    nearest: NearestRows | None = None
    """Finds the training row that is nearest to a question."""


Event = (
    ModelReady
    | ModelFailed
    | AnswerStarted
    | TextArrived
    | AnswerFinished
    | AnswerFailed
    | RowAnswered
    | RunEnded
    | TokensReady
    | TokensFailed
    | DataReady
)
Post = Callable[[Event], None]
"""Takes an event in the worker's thread, and gives it to the front's own thread."""
