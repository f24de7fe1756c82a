"""Fine-tuning runs of a tiny model, watched, for the tests."""

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


@dataclass
class Watcher:
    """An observer that keeps everything it is told."""

    plans: list[Plan] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    validations: list[ValidationReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def on_plan(self, plan: Plan) -> None:
        self.plans.append(plan)

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_validation(self, report: ValidationReport) -> None:
        self.validations.append(report)

    def on_warning(self, text: str) -> None:
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
    """Fine-tune a tiny model; a run can be stopped after a step, and resumed."""
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
    """The bytes of a model folder's weights."""
    return (folder / "model.safetensors").read_bytes()
