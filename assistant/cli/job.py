"""What `assistant finetune` does, from files to a finished folder."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from assistant.cli.console import EXIT_INTERRUPTED, note, print_json, stop_on_interrupt
from assistant.cli.progress import describe_forecast, describe_result, run_view
from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import SplitMethod, Splits, split_examples
from assistant.device import pick_device
from assistant.errors import SettingsError
from assistant.files import shown_path
from assistant.model.checkpoint import load_checkpoint, load_info
from assistant.settings import FinetuneSettings
from assistant.training.distributed import Ranks, is_first_process, joined, started_with_others
from assistant.training.dpo import make_trainer
from assistant.training.events import FinetuneResult, SilentView
from assistant.training.finetune import finetune
from assistant.training.forecast import Forecast, forecast
from assistant.training.malloc import keep_freed_memory
from assistant.training.plots import plot_losses
from assistant.training.run_folder import RunFolder

STOPPING = "\nStopping after this step; Ctrl-C again ends at once, without saving.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One call of the command."""

    data: tuple[Path, ...]
    model: Path
    output: Path
    split: SplitMethod
    split_seed: int
    fractions: tuple[float, float, float]
    settings: FinetuneSettings
    device: str
    deterministic: bool = False
    shard: bool = False
    """Whether each of several processes keeps a part of the model alone."""
    save_seconds: float
    resume: bool
    overwrite: bool


def carry_out(job: Job, *, plan: bool, as_json: bool) -> int:
    """What a command line asks for: the run, or only its `plan`. Returns the exit code."""
    if plan:
        found = plan_job(job)
        if as_json:
            print_json(found.as_json())
        return 0
    result = run_job(job)
    if as_json and is_first_process():
        print_json(result.as_json())
    return EXIT_INTERRUPTED if result.stopped else 0


def run_job(job: Job) -> FinetuneResult:
    """Read, fine-tune, draw the losses; Ctrl-C ends the run in good order."""
    if job.resume and job.overwrite:
        raise SettingsError("--resume: expected without --overwrite, got both. Go on with the run, or start it anew.")
    examples = read_examples(*job.data)
    splits = split_examples(examples, method=job.split, seed=job.split_seed, fractions=job.fractions)
    if job.shard and not started_with_others():
        note("note: --shard does nothing without torchrun.")
    folder, device = RunFolder(job.output), _ready_device(job)
    try:
        with joined(use_gpu=device.type == "cuda", shards=job.shard) as ranks:
            return _run_in(folder, job, splits, ranks, device)
    finally:
        folder.unlock()


def plan_job(job: Job) -> Forecast:
    """A few steps of the run, and what they tell of the rest. Writes nothing that stays."""
    if started_with_others():
        raise SettingsError("--plan: expected one process, got several. Plan without torchrun; several are faster.")
    examples = read_examples(*job.data)
    splits = split_examples(examples, method=job.split, seed=job.split_seed, fractions=job.fractions)
    checkpoint = load_checkpoint(job.model, device=_ready_device(job))
    disk = next(folder for folder in job.output.absolute().parents if folder.is_dir())
    found = forecast(make_trainer(checkpoint, splits, job.settings), save_seconds=job.save_seconds, folder=disk)
    for line in describe_forecast(found):
        note(line)
    return found


def _ready_device(job: Job) -> torch.device:
    """The device of a run, and the process made ready to train on it."""
    if job.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when the GPU is first used
        torch.use_deterministic_algorithms(True)
    device = pick_device(job.device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _run_in(folder: RunFolder, job: Job, splits: Splits, ranks: Ranks, device: torch.device) -> FinetuneResult:
    if ranks.is_first and job.resume:
        folder.recover()
    ranks.wait()
    if job.resume and (finished := _finished_result(folder, job, splits)):
        if ranks.is_first:
            note(f"{job.output}: this run is finished already; there is nothing to resume.")
        return finished
    state = folder.read_state() if job.resume else None
    if state is not None and state.base_model != _model_name(job):
        raise SettingsError(
            f"{job.output}: expected to resume with the model {state.base_model}, got {_model_name(job)}. "
            f"Leave the option as it was, or choose another --output."
        )
    if state is None and ranks.is_first:
        _check_new(folder, job)
    ranks.wait()
    if ranks.world > 1 and device.type == "cuda":
        device = torch.device("cuda", ranks.local)
    goes_on_from_last = state is not None and job.settings.lora is None
    checkpoint = load_checkpoint(folder.last if goes_on_from_last else job.model, device=device)
    view = run_view() if ranks.is_first else nullcontext(SilentView())
    with stop_on_interrupt(STOPPING if ranks.is_first else "") as should_stop, view as observer:
        result = finetune(
            checkpoint,
            splits,
            job.settings,
            folder,
            data_files=[shown_path(Path(path.name)) for path in job.data],
            observer=observer,
            should_stop=should_stop,
            resume_from=state,
            save_seconds=job.save_seconds,
            ranks=ranks,
        )
    if ranks.is_first:
        plot_losses(job.output)
        for line in describe_result(result):
            note(line)
    return result


def _check_new(folder: RunFolder, job: Job) -> None:
    """Raise SettingsError if a new run would replace what a person may want to keep."""
    if job.model.resolve() in {folder.last.resolve(), folder.best.resolve()}:
        raise SettingsError(f"--output: expected another folder than the one --model {job.model} lies in.")
    folder.check_free(overwrite=job.overwrite, resume=job.resume)
    if job.resume:
        note(f"{job.output}: nothing was saved yet, so the run starts at its beginning.")


def _model_name(job: Job) -> str:
    return job.model.resolve().name


def _finished_result(folder: RunFolder, job: Job, splits: Splits) -> FinetuneResult | None:
    """The result of a run of the same settings, data, split and model, if it has come to its end before."""
    if not folder.has_model or folder.read_state() is not None:
        return None
    info = load_info(folder.last)
    wanted = (job.settings, splits.data_fingerprint, splits.method, splits.seed, splits.fractions, _model_name(job))
    if info is None:
        return None
    split = (info.split_method, info.split_seed, info.split_fractions)
    if (info.finetune, info.data_fingerprint, *split, info.base_model) != wanted:
        return None
    number = {name: value for name, value in info.metrics.items() if isinstance(value, int)}
    if number.get("step") != number.get("total_steps") and not number.get("ended_early"):
        return None
    return FinetuneResult(
        output=job.output,
        steps=number["step"],
        total_steps=number["total_steps"],
        stopped=False,
        ended_early=number["step"] < number["total_steps"],
        first_validation_loss=info.metrics["first_validation_loss"],
        best_validation_loss=info.metrics["best_validation_loss"],
        best_step=number.get("best_step"),
        seconds=info.metrics["seconds"] or 0.0,
    )
