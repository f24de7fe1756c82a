"""What `assistant finetune` and `assistant prefer` do, from files to a finished folder."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from assistant.cli.console import EXIT_INTERRUPTED, note, print_json, stop_on_interrupt
from assistant.cli.progress import describe_forecast, describe_result, progress_observer
from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import Splits, split_examples
from assistant.device import pick_device
from assistant.errors import SettingsError
from assistant.files import shown_path
from assistant.hub_cache import model_name
from assistant.model.checkpoint import load_checkpoint, load_info
from assistant.settings import FinetuneSettings, RunSettings, SplitSettings
from assistant.training.distributed import Ranks, is_main_process, is_multi_process, process_group
from assistant.training.dpo import make_trainer
from assistant.training.events import FinetuneResult, SilentObserver
from assistant.training.finetune import finetune
from assistant.training.forecast import Forecast, forecast
from assistant.training.malloc import keep_freed_memory
from assistant.training.plots import plot_losses
from assistant.training.run_folder import RunFolder, RunState

STOPPING = "\nStopping after this step; Ctrl-C again ends at once, without saving.\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One call of the command."""

    data: tuple[Path, ...]
    model: Path
    output: Path
    split: SplitSettings
    settings: FinetuneSettings
    run: RunSettings

    def read_splits(self) -> Splits:
        """The rows of the data files, split."""
        examples = read_examples(*self.data)
        split = self.split
        return split_examples(examples, method=split.split, seed=split.split_seed, fractions=split.fractions)

    @property
    def base_model(self) -> str:
        """Name of the model that the run starts from."""
        return model_name(self.model)


def run_or_plan(job: Job, *, plan: bool, as_json: bool) -> int:
    """Do the run, or only its `plan`, and print what was asked for. Returns the exit code."""
    if plan:
        planned = plan_job(job)
        if as_json:
            print_json(planned.as_json())
        return 0
    result = run_job(job)
    if as_json and is_main_process():
        print_json(result.as_json())
    return EXIT_INTERRUPTED if result.stopped else 0


def run_job(job: Job) -> FinetuneResult:
    """Read, fine-tune, and plot the losses. Ctrl-C stops the run after its step, with everything saved."""
    if job.run.resume and job.run.overwrite:
        raise SettingsError("--resume: expected without --overwrite, got both. Continue the run, or start it again.")
    splits = job.read_splits()
    if job.run.shard and not is_multi_process():
        note("note: --shard does nothing without torchrun.")
    folder, device = RunFolder(job.output), _prepare_device(job.run)
    try:
        with process_group(use_gpu=device.type == "cuda", shards=job.run.shard) as ranks:
            if ranks.world_size > 1 and device.type == "cuda":
                device = torch.device("cuda", ranks.local_rank)
            return _run_in(folder, job, splits, ranks, device)
    finally:
        folder.unlock()


def plan_job(job: Job) -> Forecast:
    """Do a few steps of the run and forecast the rest. Leaves nothing on the disk."""
    if is_multi_process():
        raise SettingsError("--plan: expected one process, got several. Plan without torchrun; several are faster.")
    splits = job.read_splits()
    checkpoint = load_checkpoint(job.model, device=_prepare_device(job.run))
    existing = next(folder for folder in job.output.absolute().parents if folder.is_dir())
    trainer = make_trainer(checkpoint, splits, job.settings)
    planned = forecast(trainer, save_seconds=job.run.save_every, folder=existing)
    for line in describe_forecast(planned):
        note(line)
    return planned


def _prepare_device(run: RunSettings) -> torch.device:
    """The device of a run. Prepares the process to train on it."""
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when the GPU is first used
        torch.use_deterministic_algorithms(True)
    device = pick_device(run.device)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def _run_in(folder: RunFolder, job: Job, splits: Splits, ranks: Ranks, device: torch.device) -> FinetuneResult:
    if ranks.is_main and job.run.resume:
        folder.recover()
    ranks.barrier()
    if job.run.resume and (finished := _finished_result(folder, job, splits)):
        if ranks.is_main:
            note(f"{job.output}: this run is finished already; there is nothing to resume.")
        return finished
    state = _read_state(folder, job)
    if state is None and ranks.is_main:
        _check_new(folder, job)
    ranks.barrier()
    starts_from_last = state is not None and job.settings.lora is None
    checkpoint = load_checkpoint(folder.last if starts_from_last else job.model, device=device)
    precision = state.precision if state else None
    trainer = make_trainer(checkpoint, splits, job.settings, ranks=ranks, precision=precision)
    view = progress_observer() if ranks.is_main else nullcontext(SilentObserver())
    with stop_on_interrupt(STOPPING if ranks.is_main else "") as should_stop, view as observer:
        result = finetune(
            trainer,
            folder,
            data_files=[shown_path(Path(path.name)) for path in job.data],
            observer=observer,
            should_stop=should_stop,
            resume_from=state,
            save_seconds=job.run.save_every,
        )
    if ranks.is_main:
        plot_losses(job.output)
        for line in describe_result(result):
            note(line)
    return result


def _read_state(folder: RunFolder, job: Job) -> RunState | None:
    """The state to resume from; None for a new run. Raises SettingsError if it has another base model."""
    state = folder.read_state() if job.run.resume else None
    if state is not None and state.base_model != job.base_model:
        raise SettingsError(
            f"{job.output}: expected to resume with the model {state.base_model}, got {job.base_model}. "
            f"Use the option as before, or choose another --output."
        )
    return state


def _check_new(folder: RunFolder, job: Job) -> None:
    """Raise SettingsError if a new run would replace what a person may want to keep."""
    if job.model.resolve() in {folder.last.resolve(), folder.best.resolve()}:
        raise SettingsError(
            f"--output: expected another folder than the one that --model {job.model} is in, got {job.output}. "
            f"Choose another --output."
        )
    folder.check_free(overwrite=job.run.overwrite, resume=job.run.resume)
    if job.run.resume:
        note(f"{job.output}: nothing was saved yet, so the run starts from its beginning.")


def _finished_result(folder: RunFolder, job: Job, splits: Splits) -> FinetuneResult | None:
    """The result of a finished run with the same settings, data, split and base model; else None."""
    if not folder.has_model or folder.read_state() is not None:
        return None
    info = load_info(folder.last)
    if info is None:
        return None
    asked = (job.settings, splits.data_fingerprint, splits.method, splits.seed, splits.fractions, job.base_model)
    split = (info.split_method, info.split_seed, info.split_fractions)
    if (info.finetune, info.data_fingerprint, *split, info.base_model) != asked:
        return None
    counts = {name: value for name, value in info.metrics.items() if isinstance(value, int)}
    if counts.get("step") != counts.get("total_steps") and not counts.get("ended_early"):
        return None
    return FinetuneResult(
        output=job.output,
        steps=counts["step"],
        total_steps=counts["total_steps"],
        stopped=False,
        ended_early=counts["step"] < counts["total_steps"],
        first_validation_loss=info.metrics["first_validation_loss"],
        best_validation_loss=info.metrics["best_validation_loss"],
        best_step=counts.get("best_step"),
        seconds=info.metrics["seconds"] or 0.0,
    )
