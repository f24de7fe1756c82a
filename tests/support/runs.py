"""Fine-tunes a tiny model and records every report of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint
from assistant.settings import FinetuneSettings
from assistant.training.events import FinetuneResult, Plan, StepReport, ValidationReport
from assistant.training.finetune import finetune
from assistant.training.run_folder import RunFolder
from assistant.training.trainer import Trainer
from tests.support.models import tiny_checkpoint

FAST = FinetuneSettings(epochs=2, batch_size=8, learning_rate=3e-3, precision="float32")
"""Settings for `train` with few steps."""


@dataclass
class Watcher:
    """An observer that records every report of a run."""

    plans: list[Plan] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    validations: list[ValidationReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def on_plan(self, plan: Plan) -> None:
        """Record the plan."""
        self.plans.append(plan)

    def on_step(self, report: StepReport) -> None:
        """Record the step."""
        self.steps.append(report)

    def on_validation(self, report: ValidationReport) -> None:
        """Record the validation."""
        self.validations.append(report)

    def on_warning(self, text: str) -> None:
        """Record the warning."""
        self.warnings.append(text)


def train(
    tokenizer: Tokenizer,
    examples: list[Example],
    output: Path,
    settings: FinetuneSettings = FAST,
    *,
    stop_at: int | None = None,
    resume: bool = False,
) -> tuple[FinetuneResult, Watcher]:
    """Fine-tune a tiny model. Stop after step `stop_at`; with `resume`, continue the run in `output`."""
    watcher = Watcher()
    state = RunFolder(output).read_state() if resume else None
    checkpoint = load_checkpoint(output / "last") if resume else tiny_checkpoint(tokenizer)
    precision = state.precision if state else None
    result = finetune(
        Trainer(checkpoint, split_examples(examples), settings, precision=precision),
        RunFolder(output),
        data_files=["rows.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=state,
    )
    return result, watcher


def weights(folder: Path) -> bytes:
    """Return the bytes of a model folder's weights file."""
    return (folder / "model.safetensors").read_bytes()
