"""Shows a fine-tuning run on stderr: a progress bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assistant.cli.console import note
from assistant.escape import displayable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from assistant.dataset.instructions import Example
    from assistant.training.events import (
        FinetuneResult,
        Observer,
        Plan,
        StepMetrics,
        StepReport,
        ValidationReport,
    )
    from assistant.training.forecast import Forecast

SHOWN_ROWS = 10
"""Largest number of rows that one sentence names."""


@contextmanager
def progress_observer() -> Iterator[Observer]:
    """An observer that shows a run: a progress bar on a terminal, and plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainObserver()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("fine-tuning"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} tokens/s"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield BarObserver(progress)


# --- sentences ----------------------------------------------------------------------------------------------------


def describe_plan(plan: Plan) -> list[str]:
    """What a run will do, one sentence per line."""
    train, validation = plan.train, plan.validation
    lines = [
        f"{len(train.rows)} training rows, {len(validation.rows)} validation rows, "
        f"{plan.total_steps} steps, {plan.precision} on {plan.device}."
    ]
    if plan.n_trained < plan.n_weights:
        share = 100 * plan.n_trained / plan.n_weights
        lines.append(f"{plan.n_trained:,} of {plan.n_weights:,} weights are trained ({share:.1f} %).")
    if plan.first_step:
        lines.append(f"Continuing after step {plan.first_step}.")
    labels = any(row.label is not None for row in train.rows)
    verb = "Cut the end of" if labels else "Shortened the user's text of"
    lines += _overlong(verb, (*train.truncated, *validation.truncated), plan.max_length)
    lines += _overlong("Left out", (*train.dropped, *validation.dropped), plan.max_length)
    return lines


def _overlong(verb: str, examples: Sequence[Example], max_length: int) -> list[str]:
    if not examples:
        return []
    places = "; ".join(example.where for example in examples[:SHOWN_ROWS])
    more = f"; and {len(examples) - SHOWN_ROWS} more" if len(examples) > SHOWN_ROWS else ""
    rows = "1 row that does" if len(examples) == 1 else f"{len(examples)} rows that do"
    return [f"{verb} {rows} not fit into {max_length} positions: {places}{more}."]


def describe_validation(report: ValidationReport) -> list[str]:
    """A validation and a sample answer, one line each."""
    when = "before training" if report.step == 0 else f"step {report.step}"
    answers = ""
    if report.step and report.exact is not None and report.ended is not None:
        exact, ended = (round(share * report.answered) for share in (report.exact, report.ended))
        looped = f", {report.looped * report.answered:.0f} repeat themselves" if report.looped else ""
        answers = f"; of {report.answered} answers {exact} match, {ended} end by themselves{looped}"
    best = " (best so far)" if report.is_best else ""
    rewards = describe_rewards(report) if report.step else ""
    accuracy = "" if report.accuracy is None else f", accuracy {100 * report.accuracy:.1f} %"
    lines = [f"{when}: validation loss {report.validation_loss:.3f}{accuracy}{rewards}{answers}{best}"]
    for sample in report.samples[:1] if report.step else ():
        question = " ".join(f"{sample.instruction} {sample.input}".split())
        answer = " ".join(sample.response.split()) or "(nothing)"
        lines.append(f"    {question[:70]} -> {answer[:90]}")
    return lines


def describe_rewards(metrics: StepMetrics | ValidationReport) -> str:
    """Reward accuracy and margin of a DPO run; empty for other runs."""
    if metrics.reward_accuracy is None or metrics.margin is None:
        return ""
    return f", reward accuracy {100 * metrics.reward_accuracy:.0f} %, margin {metrics.margin:.3f}"


def describe_forecast(planned: Forecast) -> list[str]:
    """What a run is expected to need."""
    lines = [
        f"{planned.steps} steps and {planned.validations} validations: about {_duration(planned.seconds)}.",
        f"Peak memory: {planned.peak_bytes / 1e9:.2f} GB"
        + (f"; {planned.free_bytes / 1e9:.1f} GB more are free." if planned.free_bytes is not None else "."),
    ]
    if planned.largest_batch_size is not None:
        lines.append(
            f"A micro-batch has {planned.batch_size} rows; about {planned.largest_batch_size} of the longest would fit."
        )
    return [*lines, "Nothing was written. Without --plan the same command starts the run."]


def _duration(seconds: float) -> str:
    if seconds < 90:
        count = max(1, round(seconds))
        return f"{count} {'second' if count == 1 else 'seconds'}"
    return f"{seconds / 60:.1f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def describe_result(
    result: FinetuneResult, *, state_is_kept: bool = False, next_command: str = "assistant chat"
) -> list[str]:
    """How a run ended, and what to do next. `next_command` is followed by the folder."""
    lines = []
    if result.best_validation_loss is not None and result.first_validation_loss is not None:
        lines.append(
            f"Validation loss {result.first_validation_loss:.3f} before training, "
            f"{result.best_validation_loss:.3f} at its best (step {result.best_step} of {result.total_steps})."
        )
    if result.stopped:
        lines.append(
            f"Stopped at step {result.steps} of {result.total_steps}. "
            f"The same command with --resume continues from there."
        )
    if result.ended_early:
        lines.append(f"Early stopping at step {result.steps} of {result.total_steps}: no better weights for too long.")
    # The names of the records are in the docs of `training.run_folder`, which imports torch.
    names = [name for name in ("metrics.jsonl", "validation.jsonl", "loss.png") if (result.output / name).exists()]
    records = f", its records in {join_names(names)} there" if names else ""
    lines.append(f"The model is in {result.output}{records}.")
    folder = shlex.quote(str(result.output))
    lines.append(f"Next: {next_command} {folder}")
    if not result.stopped:
        more = shlex.quote(f"{result.output}-more")
        kept = ", or the same command with --resume and more --epochs" if state_is_kept else ""
        lines.append(f"To train it further: --model {folder} --output {more}{kept}.")
    return lines


def join_names(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# --- observers ----------------------------------------------------------------------------------------------------


class PlainObserver:
    """Plain lines for logs and pipes: a line for each tenth of the run."""

    def on_plan(self, plan: Plan) -> None:
        for line in describe_plan(plan):
            self._print(line)

    def on_step(self, report: StepReport) -> None:
        if report.step == 1 or report.step % max(1, report.total_steps // 10) == 0:
            metrics = report.metrics
            rate = metrics.tokens / metrics.seconds
            rewards = describe_rewards(metrics) if report.step > 1 else ""  # at step 1 they are only rounding errors
            note(f"step {report.step}/{report.total_steps}: loss {metrics.loss:.3f}{rewards}, {rate:,.0f} tokens/s")

    def on_validation(self, report: ValidationReport) -> None:
        for line in describe_validation(report):
            self._print(line)

    def on_warning(self, text: str) -> None:
        self._print(f"Warning: {text}")

    def _print(self, line: str) -> None:
        note(line)


class BarObserver(PlainObserver):
    """A live progress bar, with notes above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._rate = 0.0

    def on_plan(self, plan: Plan) -> None:
        super().on_plan(plan)
        self._task = self._progress.add_task("", total=plan.total_steps, completed=plan.first_step, loss="-", rate="-")

    def on_step(self, report: StepReport) -> None:
        if self._task is None:
            return
        metrics = report.metrics
        rate = metrics.tokens / metrics.seconds
        self._rate = rate if self._rate == 0 else 0.9 * self._rate + 0.1 * rate
        self._progress.update(self._task, completed=report.step, loss=f"{metrics.loss:.3f}", rate=f"{self._rate:,.0f}")

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(displayable(line)))
