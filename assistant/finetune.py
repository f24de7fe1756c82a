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

import torch

from assistant import __version__
from assistant.checkpoint import Checkpoint, template_record
from assistant.collate import (
    Batch,
    EncodedExample,
    EncodedRows,
    collate,
    encode_examples,
    plan_batches,
)
from assistant.config import FinetuneSettings, ModelInfo
from assistant.errors import AssistantError, DataError, SettingsError
from assistant.lora import add_adapters, merged, take_adapter
from assistant.prompts import get_template
from assistant.run_folder import METRICS_FILE, VALIDATION_FILE, RunFolder, RunState, check_same_run
from assistant.splits import Splits
from assistant.update import build_optimizers, learning_rate, pick_precision, summed_loss
from assistant.validation import answer_rows, mean_loss
from assistant.watching import FinetuneResult, Observer, Plan, StepReport, ValidationReport

MOST_VALIDATIONS = 20
"""Of a run that was not told how often to validate."""
SAMPLE_ROWS = 3
"""Answers that are shown as they are."""
WAYS_MAY_DIFFER = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference of a loss computed in two ways, in nats, that rounding explains."""
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
) -> FinetuneResult:
    """Fine-tune `checkpoint` in place and leave the best and the last weights in `folder`.

    `should_stop` is asked after every step; a run that stops keeps what it has and can be resumed. To resume, pass
    the checkpoint of the run's `last` folder (with LoRA the base model, whose weights it leaves as they are) and the
    state that `folder.read_state` gave. What a killed run loses
    are the steps since its state was last saved, `save_seconds` ago at most.

    Raises:
        DataError: no row can be trained on, or a row is too long and `too_long` is "error".
        SettingsError: the run to resume is another one.
        AssistantError: the loss is no longer a number.
    """
    try:
        run = _Run(checkpoint, splits, settings, folder, data_files, observer, resume_from)
        return run.go(should_stop, save_seconds)
    finally:
        folder.unlock()


class _Run:
    """The state of one run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        splits: Splits,
        settings: FinetuneSettings,
        folder: RunFolder,
        data_files: Sequence[str],
        observer: Observer,
        resume_from: RunState | None,
    ) -> None:
        self.settings, self.folder, self.observer, self.splits = settings, folder, observer, splits
        self.checkpoint = replace(checkpoint, template=get_template(settings.template))
        self.device = next(checkpoint.model.parameters()).device
        self.precision = pick_precision(settings.precision, self.device)
        context_length = checkpoint.config.context_length
        self.max_length = settings.max_length or context_length
        if self.max_length > context_length:
            raise SettingsError(
                f"--max-length: expected at most {context_length}, the model's context, got {self.max_length}."
            )
        if settings.best_by != "loss" and not settings.validation_answers:
            raise SettingsError(
                f"--best-by {settings.best_by}: expected answers to choose by, got --validation-answers 0. Raise it."
            )
        self.train, self.validation = self._encode("train"), self._encode("validation")
        if not self.train.rows:
            raise DataError("training rows: expected at least one that fits, got none. Raise --max-length or add rows.")
        self.steps_per_epoch = math.ceil(len(self._batches(0)) / settings.gradient_accumulation_steps)
        self.total_steps = settings.max_steps or settings.epochs * self.steps_per_epoch
        checkpoint.model.recomputes = settings.gradient_checkpointing
        if settings.lora is not None:
            add_adapters(checkpoint.model, settings.lora, seed=settings.seed)
        self.optimizers = build_optimizers(checkpoint.model, settings)
        self.state = RunState(
            step=0,
            settings=settings,
            base_model=checkpoint.name,
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
            if settings.lora is not None:
                folder.restore_adapter(checkpoint.model)
            folder.restore_optimizers(checkpoint.model, self.optimizers)
        self.saved_at = time.monotonic()
        self.is_plain = False
        """Whether every position of every row is computed, because the faster way was found to be wrong here."""

    def _encode(self, part: str) -> EncodedRows:
        return encode_examples(
            self.splits.part(part),
            self.checkpoint.template,
            self.checkpoint.tokenizer,
            max_length=self.max_length,
            too_long=self.settings.too_long,
        )

    def _batches(self, epoch: int) -> list[list[int]]:
        lengths = [len(row.input_ids) for row in self.train.rows]
        return plan_batches(lengths, batch_size=self.settings.batch_size, seed=self.settings.seed, epoch=epoch)

    def go(self, should_stop: Callable[[], bool], save_seconds: float) -> FinetuneResult:
        first = self.state.step
        if first:
            self.folder.resume(first)
        else:
            self.folder.begin()
        self.observer.on_plan(
            Plan(
                total_steps=self.total_steps,
                first_step=first,
                train=self.train,
                validation=self.validation,
                max_length=self.max_length,
                precision="bfloat16" if self.precision is torch.bfloat16 else "float32",
                device=str(self.device),
                n_trained=sum(p.numel() for p in self.checkpoint.model.parameters() if p.requires_grad),
                n_weights=self.checkpoint.model.n_parameters,
            )
        )
        with self._memory_checked():
            self._compare_ways(first)
            if not first:
                self._validate()
        stopped = False
        for epoch, window in self._windows(first):
            with self._memory_checked():
                self._step(epoch, window)
                if self._validation_is_due():
                    self._validate()
            stopped = self.state.step < self.total_steps and not self._has_lost_patience and should_stop()
            if stopped or self._has_lost_patience:
                break
            if time.monotonic() - self.saved_at >= save_seconds:
                self._save_last()
        self._save_last()
        self.folder.publish(use_last=self.state.best_step is None)
        if not stopped:
            self.folder.end()
        return FinetuneResult(
            output=self.folder.path,
            steps=self.state.step,
            total_steps=self.total_steps,
            stopped=stopped,
            ended_early=self._has_lost_patience and self.state.step < self.total_steps,
            first_validation_loss=self.state.first_validation_loss,
            best_validation_loss=self.state.best_validation_loss,
            best_step=self.state.best_step,
            seconds=self.state.seconds,
        )

    def _compare_ways(self, first_step: int) -> None:
        """Compute the first batch the fast and the plain way. Should they differ on this machine, go on with plain."""
        window = next((window for _, window in self._windows(first_step)), None)
        if window is None:
            return
        batch = self._collate([self.train.rows[index] for index in window[0]])
        model = self.checkpoint.model.eval()
        with torch.inference_mode():
            fast, plain = (
                summed_loss(model, batch, self.precision, is_plain=is_plain).item() / batch.n_targets
                for is_plain in (False, True)
            )
        allowed = WAYS_MAY_DIFFER[self.precision] * max(1.0, abs(plain))
        if not abs(fast - plain) <= allowed:
            self.is_plain = True
            self.observer.on_warning(
                f"the first batch: expected a loss of {plain:.6f}, got {fast:.6f} the faster way. "
                f"This run computes the plain way, which is slower. Please report it, with `assistant doctor`."
            )

    def _windows(self, first_step: int) -> Iterator[tuple[int, list[list[int]]]]:
        """The micro-batches of every step still to do, with their epoch. An epoch's last window may be smaller."""
        epoch, step = first_step // self.steps_per_epoch, first_step
        while step < self.total_steps:
            batches, size = self._batches(epoch), self.settings.gradient_accumulation_steps
            for place in range(step % self.steps_per_epoch, self.steps_per_epoch):
                if step == self.total_steps:
                    return
                yield epoch, batches[place * size : (place + 1) * size]
                step += 1
            epoch += 1

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

    def _step(self, epoch: int, window: list[list[int]]) -> None:
        started = time.perf_counter()
        step = self.state.step + 1
        rate = learning_rate(step, self.total_steps, self.settings)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        batches = [self._collate([self.train.rows[index] for index in indices]) for indices in window]
        n_targets = sum(batch.n_targets for batch in batches)
        self.checkpoint.model.train()
        total = 0.0
        for batch in batches:
            # Weighted by the targets of the whole window, so that accumulation equals one big batch.
            loss = self._loss(batch) / n_targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        limit = self.settings.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.checkpoint.model.parameters(), limit).item()
        if not math.isfinite(total) or not math.isfinite(norm):
            raise AssistantError(
                f"step {step}: expected a finite loss and gradient, got a loss of {total} and a norm of {norm}. "
                f"Lower --learning-rate; the last good weights, if any were saved, are in {self.folder.last}."
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        self._advance(step=step, seconds=self.state.seconds + seconds)
        report = StepReport(
            step=step,
            total_steps=self.total_steps,
            epoch=epoch,
            loss=total,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(batch.n_tokens for batch in batches),
            supervised_tokens=n_targets,
            seconds=seconds,
        )
        record = {name: getattr(report, name) for name in report.__slots__ if name != "total_steps"}
        self.folder.record(METRICS_FILE, record)
        self.observer.on_step(report)

    def _collate(self, rows: Sequence[EncodedExample]) -> Batch:
        pad_id = self.checkpoint.tokenizer.pad_id
        return collate(rows, pad_id=pad_id, train_on=self.settings.train_on).to(self.device)

    def _loss(self, batch: Batch) -> torch.Tensor:
        return summed_loss(self.checkpoint.model, batch, self.precision, is_plain=self.is_plain)

    def _advance(self, **changes: float | int | None) -> None:
        self.state = self.state.model_copy(update=changes)

    def _validation_is_due(self) -> bool:
        often = max(math.ceil(self.steps_per_epoch / 4), math.ceil(self.total_steps / MOST_VALIDATIONS))
        every = self.settings.validate_every or often
        return self.state.step % every == 0 or self.state.step == self.total_steps

    def _validate(self) -> None:
        if not self.validation.rows:
            return
        started = time.perf_counter()
        self.checkpoint.model.eval()
        step, rows = self.state.step, self.validation.rows
        loss, n_targets = mean_loss(
            rows,
            lambda batch: self._loss(batch.to(self.device)),
            batch_size=self.settings.batch_size,
            pad_id=self.checkpoint.tokenizer.pad_id,
        )
        if not math.isfinite(loss):
            raise AssistantError(f"step {step}: expected a finite validation loss, got {loss}. Lower --learning-rate.")
        count = self.settings.validation_answers
        answers = answer_rows(self.checkpoint, rows, count=count, n_samples=SAMPLE_ROWS) if count else None
        shares = {name: getattr(answers, name) if answers else None for name in ("ended", "looped", "exact")}
        is_best = self._keep_if_best(loss, shares.get(self.settings.best_by))
        report = ValidationReport(
            step=step,
            validation_loss=loss,
            supervised_tokens=n_targets,
            is_best=is_best,
            answered=answers.n if answers else 0,
            samples=answers.samples if answers else (),
            seconds=time.perf_counter() - started,
            **shares,
        )
        record = {name: getattr(report, name) for name in report.__slots__ if name not in ("is_best", "samples")}
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
        if state.best_step is not None and (share or 0.0, -loss) <= before:
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
        self.folder.save_last(self._described(), self.checkpoint.model, self.optimizers, self.state)
        self.saved_at = time.monotonic()

    def _described(self) -> Checkpoint:
        """The checkpoint with the story of this run, as it stands, in its info."""
        state, splits = self.state, self.splits
        info = ModelInfo(
            base_model=state.base_model,
            template=template_record(self.checkpoint.template),
            finetune=self.settings,
            data_files=state.data_files,
            data_fingerprint=state.data_fingerprint,
            split_method=splits.method,
            split_seed=splits.seed,
            split_fractions=splits.fractions,
            rows={"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
            metrics={
                "step": state.step,
                "total_steps": self.total_steps,
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
            return replace(self.checkpoint, info=info)
        model = self.checkpoint.model
        adapter = take_adapter(model, self.settings.lora, base_model=state.base_model)
        return replace(self.checkpoint, info=info, model=merged(model), adapter=adapter)
