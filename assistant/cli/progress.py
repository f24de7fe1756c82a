"""How a fine-tuning run is shown: a progress bar on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assistant.cli.console import note
from assistant.escape import displayable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from assistant.training.events import FinetuneResult, Observer, Plan, StepReport, ValidationReport
    from assistant.training.forecast import Forecast


@contextmanager
def run_view() -> Iterator[Observer]:
    """A progress bar on a terminal, plain lines elsewhere; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainView()
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
        yield BarView(progress)


def describe_plan(plan: Plan) -> list[str]:
    """What a run is about to do, a sentence a line."""
    train, validation = plan.train, plan.validation
    lines = [
        f"{len(train.rows)} training rows, {len(validation.rows)} validation rows, "
        f"{plan.total_steps} steps, {plan.precision} on {plan.device}."
    ]
    if plan.n_trained < plan.n_weights:
        share = 100 * plan.n_trained / plan.n_weights
        lines.append(f"{plan.n_trained:,} of {plan.n_weights:,} weights are trained ({share:.1f} %).")
    if plan.first_step:
        lines.append(f"Going on behind step {plan.first_step}.")
    for verb, examples in (
        ("Shortened the user's text of", (*train.truncated, *validation.truncated)),
        ("Left out", (*train.dropped, *validation.dropped)),
    ):
        if examples:
            places = "; ".join(example.where for example in examples[:10])
            more = f"; and {len(examples) - 10} more" if len(examples) > 10 else ""
            lines.append(
                f"{verb} {len(examples)} rows that do not fit into {plan.max_length} positions: {places}{more}."
            )
    return lines


def describe_validation(report: ValidationReport) -> list[str]:
    """A validation and its samples, a line each."""
    when = "before training" if report.step == 0 else f"step {report.step}"
    answers = ""
    if report.step and report.exact is not None and report.ended is not None:
        exact, ended = (round(share * report.answered) for share in (report.exact, report.ended))
        looped = f", {report.looped * report.answered:.0f} loop" if report.looped else ""
        answers = f"; of {report.answered} answers {exact} match, {ended} end by themselves{looped}"
    best = " (best so far)" if report.is_best else ""
    rewards = describe_rewards(report) if report.step else ""
    lines = [f"{when}: validation loss {report.validation_loss:.3f}{rewards}{answers}{best}"]
    for sample in report.samples[:1] if report.step else ():
        question = " ".join(f"{sample.instruction} {sample.input}".split())
        answer = " ".join(sample.response.split()) or "(nothing)"
        lines.append(f"    {question[:70]} -> {answer[:90]}")
    return lines


def describe_rewards(report: StepReport | ValidationReport) -> str:
    """Of a run on preferences, how the pairs stand; else nothing."""
    if report.reward_accuracy is None or report.margin is None:
        return ""
    return f", {100 * report.reward_accuracy:.0f} % of pairs right, margin {report.margin:.3f}"


def describe_forecast(found: Forecast) -> list[str]:
    """What a run is expected to take."""
    minutes = found.seconds / 60
    lines = [
        f"{found.steps} steps and {found.validations} validations: about "
        + (f"{minutes:.1f} minutes." if minutes < 90 else f"{minutes / 60:.1f} hours."),
        f"Peak memory: {found.peak_bytes / 1e9:.2f} GB"
        + (f"; {found.free_bytes / 1e9:.1f} GB more are free." if found.free_bytes is not None else "."),
    ]
    if found.largest_batch_size is not None:
        lines.append(
            f"A micro-batch has {found.batch_size} rows; about {found.largest_batch_size} of the longest would fit."
        )
    return [*lines, "Nothing was written. Without --plan the same command starts the run."]


def describe_result(result: FinetuneResult) -> list[str]:
    """How a run ended and what to do next."""
    lines = []
    if result.best_validation_loss is not None and result.first_validation_loss is not None:
        lines.append(
            f"Validation loss {result.first_validation_loss:.3f} before training, "
            f"{result.best_validation_loss:.3f} at its best (step {result.best_step} of {result.total_steps})."
        )
    if result.stopped:
        lines.append(
            f"Stopped at step {result.steps} of {result.total_steps}. "
            f"The same command with --resume goes on from there."
        )
    if result.ended_early:
        lines.append(
            f"Ended early, at step {result.steps} of {result.total_steps}: nothing had become better for long."
        )
    lines.append(f"The model is in {result.output}, its records in metrics.jsonl, validation.jsonl and loss.png there.")
    lines.append(f"Next: assistant chat {shlex.quote(str(result.output))}")
    return lines


class BarView:
    """A live bar, with notes above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._rate = 0.0

    def on_plan(self, plan: Plan) -> None:
        for line in describe_plan(plan):
            self._print(line)
        self._task = self._progress.add_task("", total=plan.total_steps, completed=plan.first_step, loss="-", rate="-")

    def on_step(self, report: StepReport) -> None:
        if self._task is None:
            return
        rate = report.tokens / report.seconds
        self._rate = rate if self._rate == 0 else 0.9 * self._rate + 0.1 * rate
        self._progress.update(self._task, completed=report.step, loss=f"{report.loss:.3f}", rate=f"{self._rate:,.0f}")

    def on_validation(self, report: ValidationReport) -> None:
        for line in describe_validation(report):
            self._print(line)

    def on_warning(self, text: str) -> None:
        self._print(f"Warning: {text}")

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(displayable(line)))


class PlainView:
    """A line now and then, for logs and pipes."""

    def on_plan(self, plan: Plan) -> None:
        for line in describe_plan(plan):
            note(line)

    def on_step(self, report: StepReport) -> None:
        if report.step == 1 or report.step % max(1, report.total_steps // 10) == 0:
            rate = report.tokens / report.seconds
            rewards = describe_rewards(report) if report.step > 1 else ""  # the first has not moved anything yet
            note(f"step {report.step}/{report.total_steps}: loss {report.loss:.3f}{rewards}, {rate:,.0f} tokens/s")

    def on_validation(self, report: ValidationReport) -> None:
        for line in describe_validation(report):
            note(line)

    def on_warning(self, text: str) -> None:
        note(f"Warning: {text}")
