"""Fine-tuning: one loop for every run on one machine. It reports through an `Observer` and prints nothing.

The order of the rows, the schedule and the samples depend on the settings and the step alone, never on a global
random generator. So a run can be taken up at any step, and looking at it does not change it.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

from assistant import __version__
from assistant.dataset.encode import count_targets, sequences
from assistant.dataset.splits import Splits
from assistant.errors import AssistantError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint, template_record
from assistant.model.config import ModelInfo
from assistant.model.lora import merged, take_adapter
from assistant.settings import FinetuneSettings
from assistant.training.distributed import ALONE, Ranks
from assistant.training.dpo import PreferenceTrainer, make_trainer
from assistant.training.events import FinetuneResult, Observer, Plan, StepReport, ValidationReport
from assistant.training.run_folder import (
    METRICS_FILE,
    VALIDATION_FILE,
    RunFolder,
    RunState,
    check_same_run,
    optimizer_tensors,
)
from assistant.training.trainer import Trainer, Window
from assistant.training.validation import answer_rows

SAMPLE_ROWS = 3
"""Answers that are shown as they are."""
GO_ON, STOP, END_EARLY = range(3)
SAVE_SECONDS = 60.0
"""Least time between two savings of the newest state, which for a large model take seconds themselves."""


def finetune(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: FinetuneSettings,
    folder: RunFolder,
    *,
    data_files: Sequence[str],
    observer: Observer,
    should_stop: Callable[[], bool] = lambda: False,
    resume_from: RunState | None = None,
    save_seconds: float = SAVE_SECONDS,
    ranks: Ranks = ALONE,
) -> FinetuneResult:
    """Fine-tune `checkpoint` in place and leave the best and the last weights in `folder`.

    `should_stop` is asked after every step; a run that stops keeps what it has and can be resumed. To resume, pass
    the checkpoint of the run's `last` folder (with LoRA the base model, whose weights it leaves as they are) and the
    state that `folder.read_state` gave. What a killed run loses are the steps since its state was last saved,
    `save_seconds` ago at most. Of several processes (`ranks`) each must be given the same; the first alone validates
    and writes.

    Raises:
        DataError: no row can be trained on, or a row is too long and `too_long` is "error".
        SettingsError: the run to resume is another one.
        AssistantError: the loss is no longer a number.
    """
    try:
        precision = resume_from.precision if resume_from else None
        trainer = make_trainer(checkpoint, splits, settings, ranks=ranks, precision=precision)
        run = _Run(trainer, folder, data_files, observer, resume_from)
        return run.go(should_stop, save_seconds)
    finally:
        folder.unlock()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        data_files: Sequence[str],
        observer: Observer,
        resume_from: RunState | None,
    ) -> None:
        self.trainer, self.folder, self.observer = trainer, folder, observer
        self.settings, self.ranks, splits = trainer.settings, trainer.ranks, trainer.splits
        self.state = RunState(
            step=0,
            settings=trainer.settings,
            base_model=trainer.checkpoint.name,
            processes=self.ranks.world,
            shards=self.ranks.shards,
            precision=trainer.precision_name,
            data_files=tuple(data_files),
            data_fingerprint=splits.data_fingerprint,
            split_method=splits.method,
            split_seed=splits.seed,
            split_fractions=splits.fractions,
            best_step=None,
            best_validation_loss=None,
            first_validation_loss=None,
            seconds=0.0,
        )
        if resume_from is not None:
            check_same_run(self.state, resume_from, folder.path)
            self.state = resume_from
            if trainer.settings.lora is not None:
                folder.restore_adapter(trainer.model)
            folder.restore_optimizers(trainer.model, trainer.optimizers)
            trainer.restore(folder.read_kept())
        self.saved_at = time.monotonic()

    def go(self, should_stop: Callable[[], bool], save_seconds: float) -> FinetuneResult:
        first = self.state.step
        if self.ranks.is_first:
            if first:
                self.folder.resume(first)
            else:
                self.folder.begin()
        self.observer.on_plan(
            Plan(
                total_steps=self.trainer.total_steps,
                first_step=first,
                train=self.trainer.train,
                validation=self.trainer.validation,
                max_length=self.trainer.max_length,
                precision=self.trainer.precision_name,
                device=str(self.trainer.device),
                n_trained=sum(p.numel() for p in self.trainer.model.parameters() if p.requires_grad),
                n_weights=self.trainer.model.n_parameters,
            )
        )
        with self._memory_checked():
            window = next((window for _, window in self.trainer.windows(first)), None)
            compared = self.trainer.compare_ways(window) if window else None
            loops = fused.problem() if self.trainer.device.type == "cpu" else None
            for warning in (warning for warning in (compared, loops) if warning is not None):
                self.observer.on_warning(warning)
            if not first:
                self.trainer.prepare()
                self._validate()
        wish = GO_ON
        for epoch, window in self.trainer.windows(first):
            with self._memory_checked():
                self._step(epoch, window)
                if self.trainer.validation_is_due(self.state.step):
                    self._validate()
            wish = self._wish(should_stop)
            if wish != GO_ON:
                break
            if self._saving_is_due(save_seconds):
                self._save_last()
        self._save_last()
        if self.ranks.is_first:
            self.folder.publish(use_last=self.state.best_step is None)
            if wish != STOP:
                self.folder.end()
        self.ranks.wait()
        return FinetuneResult(
            output=self.folder.path,
            steps=self.state.step,
            total_steps=self.trainer.total_steps,
            stopped=wish == STOP,
            ended_early=wish == END_EARLY,
            first_validation_loss=self.state.first_validation_loss,
            best_validation_loss=self.state.best_validation_loss,
            best_step=self.state.best_step,
            seconds=self.state.seconds,
        )

    def _saving_is_due(self, save_seconds: float) -> bool:
        """Whether to save now. Processes that hold parts of a model have to agree, and their clocks do not."""
        mine = time.monotonic() - self.saved_at >= save_seconds
        return bool(self.ranks.largest(int(mine), self.trainer.device)) if self.ranks.shards else mine

    def _wish(self, should_stop: Callable[[], bool]) -> int:
        """What is to happen behind this step. What one process wishes, all do at the same step."""
        if self.state.step == self.trainer.total_steps:
            return GO_ON
        mine = END_EARLY if self._has_lost_patience else STOP if should_stop() else GO_ON
        return self.ranks.largest(mine, self.trainer.device)

    @contextmanager
    def _memory_checked(self) -> Iterator[None]:
        """A lack of memory as a sentence. On a CPU torch raises a plain RuntimeError that says it cannot allocate."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not re.search(r"out of memory|can't allocate", str(error)):
                raise
            raise AssistantError(
                f"behind step {self.state.step}: expected enough memory for a batch of {self.settings.batch_size}, "
                f"got none left. Lower --batch-size (and raise --gradient-accumulation-steps), or --max-length."
            ) from error

    def _step(self, epoch: int, window: Window) -> None:
        step = self.state.step + 1
        update = self.trainer.update(step, window)
        self._advance(step=step, seconds=self.state.seconds + update.seconds)
        values = {name: getattr(update, name) for name in update.__slots__}
        values = {name: value for name, value in values.items() if value is not None}
        if self.ranks.is_first:
            self.folder.record(METRICS_FILE, {"step": step, "epoch": epoch, **values})
        self.observer.on_step(StepReport(step=step, total_steps=self.trainer.total_steps, epoch=epoch, **values))

    def _advance(self, **changes: float | int | None) -> None:
        self.state = self.state.model_copy(update=changes)

    def _validate(self) -> None:
        if self.trainer.validation.rows:
            with self.trainer.whole_model():
                if self.ranks.is_first:
                    self._validate_here()

    def _validate_here(self) -> None:
        started = time.perf_counter()
        step, rows = self.state.step, self.trainer.validation.rows
        means = self.trainer.means(rows)
        loss = means.pop("loss")
        if not math.isfinite(loss):
            raise AssistantError(f"step {step}: expected a finite validation loss, got {loss}. Lower --learning-rate.")
        count = self.settings.validation_answers
        answers = answer_rows(self.trainer.checkpoint, rows, count=count, n_samples=SAMPLE_ROWS) if count else None
        shares = {name: getattr(answers, name) if answers else None for name in ("ended", "looped", "exact")}
        is_best = self._keep_if_best(loss, shares.get(self.settings.best_by))
        report = ValidationReport(
            step=step,
            validation_loss=loss,
            supervised_tokens=sum(count_targets(row, "response") for row in sequences(rows)),
            is_best=is_best,
            answered=answers.n if answers else 0,
            samples=answers.samples if answers else (),
            seconds=time.perf_counter() - started,
            **shares,
            **means,
        )
        unsaid = ("is_best", "samples", *PreferenceTrainer.watched)
        record = {name: getattr(report, name) for name in report.__slots__ if name not in unsaid} | means
        shown = [{name: getattr(sample, name) for name in sample.__slots__} for sample in report.samples]
        self.folder.record(VALIDATION_FILE, record | {"samples": shown})
        self.observer.on_validation(report)

    def _keep_if_best(self, loss: float, share: float | None) -> bool:
        """Save the weights if they are the best so far: by `share` where there is one, else by the loss."""
        state = self.state
        if state.step == 0:
            self._advance(first_validation_loss=loss)
            return False
        before = (state.best_share or 0.0, -(state.best_validation_loss or 0.0))
        takes_all = self.settings.best_by == "last"
        if state.best_step is not None and not takes_all and (share or 0.0, -loss) <= before:
            self._advance(validations_since_best=state.validations_since_best + 1)
            return False
        self._advance(best_step=state.step, best_validation_loss=loss, best_share=share, validations_since_best=0)
        self.folder.save_best(self._described())
        return True

    @property
    def _has_lost_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.validations_since_best >= patience

    def _save_last(self) -> None:
        trainer, is_first = self.trainer, self.ranks.is_first
        if is_first or self.ranks.shards:
            tensors = optimizer_tensors(trainer.model, trainer.optimizers, are_kept=is_first)
            with trainer.whole_model():
                if is_first:
                    self.folder.save_last(self._described(), self.state, optimizer_state=tensors, kept=trainer.kept())
        self.saved_at = time.monotonic()

    def _described(self) -> Checkpoint:
        """The checkpoint with the story of this run, as it stands, in its info."""
        state, splits = self.state, self.trainer.splits
        info = ModelInfo(
            base_model=state.base_model,
            template=template_record(self.trainer.checkpoint.template),
            finetune=self.settings,
            data_files=state.data_files,
            data_fingerprint=state.data_fingerprint,
            split_method=splits.method,
            split_seed=splits.seed,
            split_fractions=splits.fractions,
            rows={"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
            metrics={
                "step": state.step,
                "total_steps": self.trainer.total_steps,
                "first_validation_loss": state.first_validation_loss,
                "best_validation_loss": state.best_validation_loss,
                "best_step": state.best_step,
                "best_share": state.best_share,
                "ended_early": int(self._has_lost_patience),
                "seconds": state.seconds,
            },
            versions={
                "assistant": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "tiktoken", "safetensors")},
            },
        )
        if self.settings.lora is None:
            return replace(self.trainer.checkpoint, info=info)
        model = self.trainer.model
        adapter = take_adapter(model, self.settings.lora, base_model=state.base_model)
        return replace(self.trainer.checkpoint, info=info, model=merged(model), adapter=adapter)
