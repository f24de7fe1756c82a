"""Fine-tuning: one loop for every run, on one process or several. It reports through an `Observer` and prints nothing.

The order of the rows, the schedule and the samples depend only on the settings and the step, never on a global random
generator. So a run can be resumed at any step, and reporting on it does not change it.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import IntEnum
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from assistant import __version__
from assistant.dataset.encode import count_targets, sequences
from assistant.dataset.examples import Example, usual_history
from assistant.dataset.trained_prompts import PromptHashes, prompt_hashes
from assistant.errors import AssistantError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import ModelInfo
from assistant.model.digest import record_base_path, weights_digest
from assistant.model.lora import take_adapter
from assistant.model.templates import template_record
from assistant.training.events import (
    VALIDATION_FILE,
    FinetuneResult,
    Observer,
    Plan,
    StepReport,
    ValidationReport,
)
from assistant.training.run_folder import (
    METRICS_FILE,
    RunFolder,
    RunState,
    check_same_run,
    optimizer_tensors,
)
from assistant.training.trainer import Trainer, Window
from assistant.training.validation import answer_rows

SAMPLE_ROWS = 3
"""Answers that a validation shows in full."""
SAVE_SECONDS = 60.0
"""Least time between two saves of the state. A save of a large model takes seconds, too."""


class _Next(IntEnum):
    """What happens after a step. If processes differ, the largest value counts."""

    CONTINUE = 0
    STOP = 1
    """The user asked to stop; the run can be resumed."""
    END_EARLY = 2
    """Early stopping: the run is finished."""


def finetune(
    trainer: Trainer,
    folder: RunFolder,
    *,
    data_files: Sequence[str],
    observer: Observer,
    should_stop: Callable[[], bool] = lambda: False,
    resume_from: RunState | None = None,
    save_seconds: float = SAVE_SECONDS,
    keep_state: bool = False,
    base_folder: Path | None = None,
) -> FinetuneResult:
    """Train the trainer's model in place, and leave the best and the last weights in `folder`.

    `should_stop` is asked after every step. A stopped run keeps its state and can be resumed: make the trainer from the
    run's `last` folder (with LoRA from the base model, whose weights stay as they are), and pass the state that
    `folder.read_state` returned. A killed run loses the steps since its last save, `save_seconds` ago at most. With
    several processes each gets the same arguments; the main process validates and writes. With `keep_state` a finished
    run keeps its state too, and can be given more steps (`run_folder.with_more_steps`). `base_folder` is the folder of
    the model that the run starts from, for the record; a resumed run keeps the record that it began with.

    Raises:
        SettingsError: the run to resume has other settings or data.
        AssistantError: the loss is not finite.
    """
    try:
        return _Run(trainer, folder, data_files, observer, resume_from, base_folder).go(
            should_stop, save_seconds, keep_state=keep_state
        )
    finally:
        folder.unlock()


class _Run:
    """A run and its state."""

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        data_files: Sequence[str],
        observer: Observer,
        resume_from: RunState | None,
        base_folder: Path | None,
    ) -> None:
        self.trainer, self.folder, self.observer = trainer, folder, observer
        self.settings, self.ranks, splits = trainer.settings, trainer.ranks, trainer.splits
        self.state = RunState(
            step=0,
            settings=trainer.settings,
            base_model=trainer.checkpoint.name,
            conversation_rows=_count_conversations(trainer),
            history_length=history_length(trainer.checkpoint, splits.train),
            processes=self.ranks.world_size,
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
                folder.restore_adapter(trainer.checkpoint)
            folder.restore_optimizers(trainer.model, trainer.optimizers)
            trainer.load_reference(folder.read_reference_logprobs())
        elif base_folder is not None and self.ranks.is_main:
            self._advance(base_path=record_base_path(base_folder, folder.path), base_digest=weights_digest(base_folder))
        self.saved_at = time.monotonic()

    def go(self, should_stop: Callable[[], bool], save_seconds: float, *, keep_state: bool) -> FinetuneResult:
        first_step = self.state.step
        if self.ranks.is_main:
            if first_step:
                self.folder.resume(first_step)
            else:
                self.folder.begin()
        self.observer.on_plan(self._plan())
        with self._memory_checked():
            self._warn()
            self.trainer.prepare()
            if not first_step:
                self.trainer.compute_reference()
                self._validate()
        following = _Next.CONTINUE
        for epoch, window in self.trainer.windows(first_step):
            with self._memory_checked():
                self._step(epoch, window)
                if self.trainer.validation_is_due(self.state.step):
                    self._validate()
            following = self._after_step(should_stop)
            if following != _Next.CONTINUE:
                break
            if self._save_is_due(save_seconds):
                self._save_last()
        self._save_last()
        if self.ranks.is_main:
            self.folder.publish(use_last=self.state.best_step is None)
            if following != _Next.STOP:
                self.folder.keep(self.state) if keep_state else self.folder.end()
        self.ranks.barrier()
        return self._result(following)

    def _plan(self) -> Plan:
        trainer = self.trainer
        return Plan(
            total_steps=trainer.total_steps,
            first_step=self.state.step,
            train=trainer.train,
            validation=trainer.validation,
            max_length=trainer.max_length,
            precision=trainer.precision_name,
            device=str(trainer.device),
            n_trained=sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
            n_weights=trainer.model.n_parameters,
        )

    def _warn(self) -> None:
        """Check the fast path on the first batch, and report what is wrong with it or with the compiled loops."""
        window = next((window for _, window in self.trainer.windows(self.state.step)), None)
        difference = self.trainer.check_fast_path(window) if window else None
        problem = fused.problem() if self.trainer.device.type == "cpu" else None
        for warning in (difference, problem):
            if warning is not None:
                self.observer.on_warning(warning)

    def _result(self, following: _Next) -> FinetuneResult:
        return FinetuneResult(
            output=self.folder.path,
            steps=self.state.step,
            total_steps=self.trainer.total_steps,
            stopped=following == _Next.STOP,
            ended_early=following == _Next.END_EARLY,
            first_validation_loss=self.state.first_validation_loss,
            best_validation_loss=self.state.best_validation_loss,
            best_step=self.state.best_step,
            seconds=self.state.seconds,
        )

    def _save_is_due(self, save_seconds: float) -> bool:
        """Whether to save now. Processes that hold shards must decide alike, but their clocks differ."""
        mine = time.monotonic() - self.saved_at >= save_seconds
        return bool(self.ranks.all_reduce_max(int(mine), self.trainer.device)) if self.ranks.shards else mine

    def _after_step(self, should_stop: Callable[[], bool]) -> _Next:
        """What happens after this step, the same in every process."""
        if self.state.step == self.trainer.total_steps:
            return _Next.CONTINUE
        mine = _Next.END_EARLY if self._patience_is_over else _Next.STOP if should_stop() else _Next.CONTINUE
        return _Next(self.ranks.all_reduce_max(mine, self.trainer.device))

    @contextmanager
    def _memory_checked(self) -> Iterator[None]:
        """Turn an out-of-memory error into an AssistantError. On a CPU, torch raises a plain RuntimeError."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not re.search(r"out of memory|can't allocate", str(error)):
                raise
            raise AssistantError(
                f"after step {self.state.step}: expected enough memory for a batch of {self.settings.batch_size}, "
                f"got none left. Lower --batch-size (and raise --gradient-accumulation-steps), or --max-length."
            ) from error

    def _step(self, epoch: int, window: Window) -> None:
        step = self.state.step + 1
        metrics = self.trainer.train_step(step, window)
        self._advance(step=step, seconds=self.state.seconds + metrics.seconds)
        if self.ranks.is_main:
            values = {name: value for name, value in asdict(metrics).items() if value is not None}
            self.folder.record(METRICS_FILE, {"step": step, "epoch": epoch, **values})
        self.observer.on_step(StepReport(step=step, total_steps=self.trainer.total_steps, epoch=epoch, metrics=metrics))

    def _advance(self, **changes: float | int | str | None) -> None:
        self.state = self.state.model_copy(update=changes)

    def _validate(self) -> None:
        if self.trainer.validation.rows:
            with self.trainer.gathered_model():
                if self.ranks.is_main:
                    self._validate_here()

    def _validate_here(self) -> None:
        started = time.perf_counter()
        step, rows = self.state.step, self.trainer.validation.rows
        means = self.trainer.evaluate(rows)
        loss = means.pop("loss")
        if not math.isfinite(loss):
            raise AssistantError(f"step {step}: expected a finite validation loss, got {loss}. Lower --learning-rate.")
        count = self.settings.validation_answers
        answers = answer_rows(self.trainer.checkpoint, rows, count=count, n_samples=SAMPLE_ROWS) if count else None
        shares = {name: getattr(answers, name) if answers else None for name in ("ended", "looped", "exact")}
        chosen_by = {**shares, "accuracy": means.get("accuracy")}
        report = ValidationReport(
            step=step,
            validation_loss=loss,
            supervised_tokens=sum(count_targets(row, "response") for row in sequences(rows)),
            is_best=self._keep_if_best(loss, chosen_by.get(self.settings.best_by)),
            answered=answers.n if answers else 0,
            samples=answers.samples if answers else (),
            seconds=time.perf_counter() - started,
            **shares,
            **means,
        )
        record = asdict(report)
        del record["is_best"]
        for name in ("reward_accuracy", "margin", "accuracy"):
            if record[name] is None:
                del record[name]
        samples = record.pop("samples")
        self.folder.record(VALIDATION_FILE, record | {"samples": samples})
        self.observer.on_validation(report)

    def _keep_if_best(self, loss: float, share: float | None) -> bool:
        """Save the weights if they are the best so far: by `share` if there is one, and else by the loss."""
        state = self.state
        if state.step == 0:
            self._advance(first_validation_loss=loss)
            return False
        before = (state.best_share or 0.0, -(state.best_validation_loss or 0.0))
        keeps_last = self.settings.best_by == "last"
        if state.best_step is not None and not keeps_last and (share or 0.0, -loss) <= before:
            self._advance(validations_since_best=state.validations_since_best + 1)
            return False
        self._advance(best_step=state.step, best_validation_loss=loss, best_share=share, validations_since_best=0)
        self.folder.save_best(self._described())
        return not keeps_last

    @property
    def _patience_is_over(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.validations_since_best >= patience

    def _save_last(self) -> None:
        trainer, is_main = self.trainer, self.ranks.is_main
        if is_main or self.ranks.shards:
            tensors = optimizer_tensors(trainer.model, trainer.optimizers, are_kept=is_main)
            with trainer.gathered_model():
                if is_main:
                    self.folder.save_last(
                        self._described(),
                        self.state,
                        optimizer_state=tensors,
                        reference_logprobs=trainer.reference_logprobs(),
                    )
        self.saved_at = time.monotonic()

    def _described(self) -> Checkpoint:
        """The checkpoint with this run's history in its info, and with LoRA's adapter."""
        state = self.state
        checkpoint = replace(self.trainer.checkpoint, info=self._info(), trained_prompts=self._trained_prompts)
        if self.settings.lora is None:
            return checkpoint
        adapter = take_adapter(self.trainer.model, self.settings.lora, base_model=state.base_model)
        return replace(checkpoint, adapter=adapter)

    @cached_property
    def _trained_prompts(self) -> PromptHashes | None:
        """The prompts of this run and of the model that it starts from. None if those are not known."""
        before = self.trainer.checkpoint
        if before.info is not None and before.trained_prompts is None:
            return None
        return prompt_hashes(self.trainer.splits.train) | (before.trained_prompts or frozenset())

    def _info(self) -> ModelInfo:
        state, splits = self.state, self.trainer.splits
        return ModelInfo(
            base_model=state.base_model,
            base_path=state.base_path,
            base_digest=state.base_digest,
            template=template_record(self.trainer.checkpoint.template),
            finetune=self.settings,
            data_files=state.data_files,
            data_fingerprint=state.data_fingerprint,
            split_method=splits.method,
            split_seed=splits.seed,
            split_fractions=splits.fractions,
            rows={"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
            conversation_rows=state.conversation_rows,
            history_length=state.history_length,
            metrics={
                "step": state.step,
                "total_steps": self.trainer.total_steps,
                "first_validation_loss": state.first_validation_loss,
                "best_validation_loss": state.best_validation_loss,
                "best_step": state.best_step,
                "best_share": state.best_share,
                "ended_early": int(self._patience_is_over),
                "seconds": state.seconds,
            },
            versions={
                "assistant": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "tiktoken", "safetensors")},
            },
        )


def _count_conversations(trainer: Trainer) -> int:
    """Training rows with a history: those of this run, and of the training of the model that it starts from."""
    before = trainer.checkpoint.info
    n_before = 0 if before is None else before.conversation_rows
    return n_before + sum(bool(example.history) for example in trainer.splits.train)


def history_length(checkpoint: Checkpoint, examples: Iterable[Example]) -> int:
    """Earlier turns that a model has learnt to read after it was trained on these examples. 0 if that is not known."""
    before = checkpoint.info
    if before is None:
        is_known, n_before = not checkpoint.template.markers, 0  # somebody else trained a chat model to chat
    else:
        is_known, n_before = before.history_length > 0 or not before.conversation_rows, before.history_length
    return max(n_before, usual_history(examples)) if is_known else 0
