"""What happens in a conversation, as records: the lines of its file, and the only way to change it.

A record says what a person or a model did. `Conversation.apply` turns records into turns, and does the same for a new
record and for one that was read from a file.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from assistant.decoding.reply import StopReason
from assistant.settings import Frozen, GenerationSettings

Side = Literal["tuned", "base"]
"""Which of the two models answers. A chat with a base model alone calls that model `tuned`."""
SIDES: tuple[Side, Side] = ("tuned", "base")


class AnswerKey(NamedTuple):
    """Names one answer of a conversation."""

    turn: int
    side: Side
    variant: int
    """Counts the answers of one side to one turn from 0. Answers of both sides with one number had one seed."""


class Opened(Frozen):
    """The first record: which models talk."""

    kind: Literal["opened"] = "opened"
    format: Literal[1] = 1
    at: datetime
    model: str
    """Path of the model's folder, or its name."""
    base: str | None = None


class Asked(Frozen):
    """A question, written by the person or dealt from the held-out rows."""

    kind: Literal["asked"] = "asked"
    at: datetime
    turn: int
    instruction: str
    input: str = ""
    row: str | None = None
    """The id of the held-out row. None for the person's own question."""
    reference: str | None = None
    """The row's reference answer."""
    left: Side | None = None
    """The side whose answer stands left in a blind choice. None if both are named."""


class Answered(Frozen):
    """An ended answer. One that failed before its end is not recorded."""

    kind: Literal["answered"] = "answered"
    at: datetime
    turn: int
    side: Side
    variant: int
    response: str
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    seconds: float
    settings: GenerationSettings
    """With the seed that was drawn for this answer."""
    n_prompt_tokens: int = 0
    n_history: int = 0
    """Exchanges before the question that the model saw."""
    n_forgotten: int = 0
    """Exchanges that did not fit into the context."""
    n_forced: int = 0
    """Leading tokens of the answer that the person chose in the token view."""

    @property
    def key(self) -> AnswerKey:
        """The name of the answer."""
        return AnswerKey(self.turn, self.side, self.variant)


class Kept(Frozen):
    """The person made one variant the answer that counts, for history and exports."""

    kind: Literal["kept"] = "kept"
    at: datetime
    turn: int
    variant: int


class Chosen(Frozen):
    """The person chose the better of two answers to one question. `chosen` None is a tie."""

    kind: Literal["chosen"] = "chosen"
    at: datetime
    turn: int
    chosen: AnswerKey | None
    rejected: AnswerKey | None
    blind: bool
    """Whether the names of the models were hidden."""


class Corrected(Frozen):
    """The person wrote the right answer to a question."""

    kind: Literal["corrected"] = "corrected"
    at: datetime
    turn: int
    text: str


class RowRun(Frozen):
    """A held-out row that both models answered in the background, without a turn of its own."""

    kind: Literal["row"] = "row"
    at: datetime
    run: int
    """Counts the background runs of a conversation from 0."""
    row: str
    instruction: str
    input: str = ""
    reference: str
    tuned: str
    base: str | None
    """None if there is no base model."""


class Titled(Frozen):
    """The person named the conversation."""

    kind: Literal["titled"] = "titled"
    at: datetime
    title: str


Record = Annotated[Opened | Asked | Answered | Kept | Chosen | Corrected | RowRun | Titled, Field(discriminator="kind")]
