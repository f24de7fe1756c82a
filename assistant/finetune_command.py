"""What `assistant finetune` does, from files to a finished folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from assistant.checkpoint import load_checkpoint, load_info
from assistant.config import FinetuneSettings
from assistant.finetune import finetune
from assistant.instructions import read_examples
from assistant.plots import plot_losses
from assistant.run_folder import RunFolder
from assistant.session import pick_device
from assistant.splits import SplitMethod, data_fingerprint, split_examples
from assistant.terminal import describe_result, note, run_view, stop_on_interrupt
from assistant.watching import FinetuneResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One call of the command."""

    data: tuple[Path, ...]
    model: Path
    output: Path
    split: SplitMethod
    split_seed: int
    settings: FinetuneSettings
    device: str
    save_seconds: float
    resume: bool
    overwrite: bool


def run_job(job: Job) -> FinetuneResult:
    """Read, fine-tune, draw the losses; Ctrl-C ends the run in good order."""
    examples = read_examples(*job.data)
    splits = split_examples(examples, method=job.split, seed=job.split_seed)
    folder = RunFolder(job.output)
    state = None
    if job.resume:
        folder.recover()
        if finished := _finished_result(job, data_fingerprint(examples)):
            note(f"{job.output}: this run is finished already; there is nothing to resume.")
            return finished
        state = folder.read_state()
    if state is None:
        folder.check_free(overwrite=job.overwrite, resume=job.resume)
        if job.resume:
            note(f"{job.output}: nothing was saved yet, so the run starts at its beginning.")
    checkpoint = load_checkpoint(folder.last if state else job.model, device=pick_device(job.device))
    with stop_on_interrupt() as should_stop, run_view() as view:
        result = finetune(
            checkpoint,
            splits,
            job.settings,
            job.output,
            data_files=[path.name for path in job.data],
            observer=view,
            should_stop=should_stop,
            resume_from=state,
            save_seconds=job.save_seconds,
        )
    plot_losses(job.output)
    for line in describe_result(result):
        note(line)
    return result


def _finished_result(job: Job, data_fingerprint: str) -> FinetuneResult | None:
    """The result of the very same run, if it has come to its end before."""
    folder = RunFolder(job.output)
    if not folder.has_model or folder.read_state() is not None:
        return None
    info = load_info(folder.last)
    if info is None or info.finetune != job.settings or info.data_fingerprint != data_fingerprint:
        return None
    number = {name: value for name, value in info.metrics.items() if isinstance(value, int)}
    if number.get("step") != number.get("total_steps"):
        return None
    return FinetuneResult(
        output=job.output,
        steps=number["step"],
        total_steps=number["total_steps"],
        stopped=False,
        first_validation_loss=info.metrics["first_validation_loss"],
        best_validation_loss=info.metrics["best_validation_loss"],
        best_step=number.get("best_step"),
        seconds=info.metrics["seconds"] or 0.0,
    )
