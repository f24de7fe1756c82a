"""What a fine-tuning run tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from assistant.dataset.encode import EncodedRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run is going to do."""

    total_steps: int
    first_step: int
    """Steps that an earlier start has already done."""
    train: EncodedRows
    validation: EncodedRows
    max_length: int
    """Positions a row may take."""
    precision: str
    device: str
    n_trained: int
    """Weights that are updated; fewer than `n_weights` with LoRA."""
    n_weights: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one update of the weights did."""

    loss: float
    """Mean cross-entropy (nats) over the targets of the whole accumulation window; of a run on preferences the mean
    DPO loss (nats) over its pairs."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens: int
    """Real tokens of the step's rows, EOS counted, padding not."""
    supervised_tokens: int
    """Targets that count in the loss."""
    seconds: float
    reward_accuracy: float | None = None
    """Of a run on preferences: share of pairs whose chosen answer has gained more than the rejected one, as
    log-probability over that under the starting weights. Before there was a step it is rounding, not a finding."""
    margin: float | None = None
    """Of a run on preferences: beta times how much more it has gained (nats), mean over the pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport(Update):
    """An update and its place in the run."""

    step: int
    """Counted from 1."""
    total_steps: int
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What the model says, at this point, to a validation row."""

    instruction: str
    input: str
    reference: str
    response: str
    stop_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """A look at the whole validation set behind step `step`; 0 is before training."""

    step: int
    validation_loss: float
    """Mean cross-entropy (nats) over the responses' tokens and EOS, whatever the run trains on; or as `Update.loss`."""
    supervised_tokens: int
    is_best: bool
    answered: int
    """Validation rows that were answered; the three shares below are theirs, and None where there are none."""
    ended: float | None
    """Share of answers that stop by themselves."""
    looped: float | None
    """Share that say the same over and over."""
    exact: float | None
    """Share that match the reference."""
    samples: tuple[Sample, ...]
    seconds: float
    reward_accuracy: float | None = None
    margin: float | None = None
    """Both as in `Update`, of the validation pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """How a run ended."""

    output: Path
    steps: int
    total_steps: int
    stopped: bool
    """Whether it was asked to stop before its end."""
    ended_early: bool
    """Whether it ended because nothing had become better for `patience` validations."""
    first_validation_loss: float | None
    best_validation_loss: float | None
    best_step: int | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {name: getattr(self, name) for name in self.__slots__} | {"output": str(self.output)}


class Observer(Protocol):
    """Who watches a run. Called in the run's own thread."""

    def on_plan(self, plan: Plan) -> None:
        """Before the first step."""

    def on_step(self, report: StepReport) -> None:
        """After every step."""

    def on_validation(self, report: ValidationReport) -> None:
        """After every validation."""

    def on_warning(self, text: str) -> None:
        """When something is not as it should be and the run goes on all the same."""


class SilentView:
    """Watches and says nothing: for processes beside the first."""

    def on_plan(self, plan: Plan) -> None:
        """Nothing."""

    def on_step(self, report: StepReport) -> None:
        """Nothing."""

    def on_validation(self, report: ValidationReport) -> None:
        """Nothing."""

    def on_warning(self, text: str) -> None:
        """Nothing."""
