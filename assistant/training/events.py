"""What a fine-tuning run reports to its observer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from assistant.dataset.encode import EncodedRows

VALIDATION_FILE = "validation.jsonl"
"""Each line holds a `ValidationReport`, without `is_best`, as JSON. The chat reads it, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run is about to do."""

    total_steps: int
    first_step: int
    """Steps that were done before the run was resumed."""
    train: EncodedRows
    validation: EncodedRows
    max_length: int
    """Positions that a row may take."""
    precision: str
    device: str
    n_trained: int
    """Weights that are updated; fewer than `n_weights` with LoRA."""
    n_weights: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMetrics:
    """Metrics of one optimizer step."""

    loss: float
    """Mean cross-entropy (nats) over the targets of all micro-batches of the step; in DPO the mean loss (nats) per
    pair, of a classifier per text."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens: int
    """Real tokens of the step's rows, with EOS, without padding."""
    supervised_tokens: int
    """Targets that count in the loss."""
    seconds: float
    reward_accuracy: float | None = None
    """DPO only: share of pairs whose chosen answer has the larger reward. At the first step all rewards are 0, so
    only rounding decides."""
    margin: float | None = None
    """DPO only: mean reward of the chosen answer minus that of the rejected one (nats)."""
    accuracy: float | None = None
    """Classifiers only: share of the rows whose likeliest label, before the step, is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """The metrics of a step, and its place in the run."""

    step: int
    """Counted from 1."""
    total_steps: int
    epoch: int
    metrics: StepMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The model's answer to a validation row."""

    instruction: str
    input: str
    reference: str
    response: str
    stop_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationReport:
    """A validation over the whole validation set after step `step`; step 0 is before training."""

    step: int
    validation_loss: float
    """Mean cross-entropy (nats) over the responses' tokens and EOS, also if the run trains on all tokens; in DPO as
    `StepMetrics.loss`."""
    supervised_tokens: int
    is_best: bool
    answered: int
    """Validation rows that were answered. The three shares below are shares of these rows, or None without any."""
    ended: float | None
    """Share of answers that end with EOS."""
    looped: float | None
    """Share of answers that repeat the same few tokens."""
    exact: float | None
    """Share of answers that match the reference."""
    samples: tuple[Sample, ...]
    seconds: float
    reward_accuracy: float | None = None
    margin: float | None = None
    """Both as in `StepMetrics`, over the validation pairs."""
    accuracy: float | None = None
    """Classifiers only: share of the validation rows whose likeliest label is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """How a run ended."""

    output: Path
    steps: int
    total_steps: int
    stopped: bool
    """Whether the user stopped it."""
    ended_early: bool
    """Whether early stopping ended it."""
    first_validation_loss: float | None
    best_validation_loss: float | None
    best_step: int | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values, for scripts."""
        return {name: getattr(self, name) for name in self.__slots__} | {"output": str(self.output)}


class Observer(Protocol):
    """Receives a run's reports, in the run's own thread."""

    def on_plan(self, plan: Plan) -> None:
        """Before the first step."""

    def on_step(self, report: StepReport) -> None:
        """After every step."""

    def on_validation(self, report: ValidationReport) -> None:
        """After every validation."""

    def on_warning(self, text: str) -> None:
        """When something is wrong and the run continues."""


class SilentObserver:
    """Ignores all reports: for processes other than the main one."""

    def on_plan(self, plan: Plan) -> None:
        """Ignored."""

    def on_step(self, report: StepReport) -> None:
        """Ignored."""

    def on_validation(self, report: ValidationReport) -> None:
        """Ignored."""

    def on_warning(self, text: str) -> None:
        """Ignored."""
