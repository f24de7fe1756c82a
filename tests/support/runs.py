"""Fine-tunes a tiny model and records every report of the run."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import Checkpoint, load_checkpoint
from assistant.settings import FinetuneSettings
from assistant.training.events import FinetuneResult, Plan, StepReport, ValidationReport
from assistant.training.finetune import finetune
from assistant.training.run_folder import RunFolder, read_records
from assistant.training.tasks import make_trainer
from tests.support.models import tiny_checkpoint

FAST = FinetuneSettings(epochs=2, batch_size=8, learning_rate=3e-3, precision="float32")
"""Settings for `train` with few steps: 5 per epoch of the 34 training rows of the `examples` fixture."""


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
    base: Checkpoint | None = None,
    base_folder: Path | None = None,
) -> tuple[FinetuneResult, Watcher]:
    """Fine-tune a tiny model or `base`: with DPO if the settings have a beta, and as a classifier if they say so.

    Stop after step `stop_at`; with `resume`, continue the run in `output`.
    """
    watcher = Watcher()
    state = RunFolder(output).read_state() if resume else None
    starts_from_last = resume and settings.lora is None
    checkpoint = base or tiny_checkpoint(tokenizer)
    if starts_from_last:
        checkpoint = load_checkpoint(output / "last", may_classify=settings.classifier is not None)
    precision = state.precision if state else None
    result = finetune(
        make_trainer(checkpoint, split_examples(examples), settings, precision=precision),
        RunFolder(output),
        data_files=["rows.json"],
        observer=watcher,
        should_stop=lambda: len(watcher.steps) == stop_at,
        resume_from=state,
        base_folder=base_folder,
    )
    return result, watcher


def weights(folder: Path) -> bytes:
    """Return the bytes of a model folder's weights file."""
    return (folder / "model.safetensors").read_bytes()


def records_without_seconds(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a record file without their times, which differ from run to run."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in read_records(path)]


def with_random_answers(examples: list[Example]) -> list[Example]:
    """Replace every answer by 12 random letters from a to f.

    A model can learn which letters are likely. When it then memorises training answers, its validation loss rises.
    """
    letters = random.Random(0)
    return [replace(example, output="".join(letters.choices("abcdef", k=12))) for example in examples]
