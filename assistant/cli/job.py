"""Carries out a training command, from its data files to a finished run folder."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from assistant.cli.console import StopRequest, describe_os_error, note, print_json, stop_on_signals
from assistant.cli.datasets import read_data
from assistant.cli.progress import describe_forecast, describe_result, progress_observer
from assistant.dataset.encode import check_not_held_out, check_outputs
from assistant.dataset.splits import Splits, split_examples
from assistant.device import pick_device
from assistant.errors import CheckpointError, SettingsError
from assistant.files import shown_path
from assistant.hub_cache import recorded_name
from assistant.model.checkpoint import load_info
from assistant.settings import DataSettings, FinetuneSettings, LossPer, RunSettings, SplitSettings
from assistant.training.distributed import Ranks, is_main_process, is_multi_process, process_group
from assistant.training.events import FinetuneResult, SilentObserver
from assistant.training.finetune import finetune
from assistant.training.forecast import Forecast, forecast
from assistant.training.malloc import keep_freed_memory
from assistant.training.plots import plot_losses
from assistant.training.run_folder import STATE_FILE, RunFolder, RunState, with_more_steps
from assistant.training.tasks import make_trainer
from assistant.training.trainer import Trainer

STOPPING = "\nStopping after this step; Ctrl-C again ends at once, without saving.\n"


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Everything that one call of a training command was given."""

    data: tuple[Path, ...]
    model: Path
    output: Path
    settings: FinetuneSettings
    run: RunSettings
    next_command: ClassVar[str] = "assistant chat"
    """What to do with the model: the words before its folder."""

    @abstractmethod
    def read_splits(self) -> Splits:
        """The rows of the data files, split."""

    def finish(self, splits: Splits, *, quiet: bool) -> dict[str, Any]:
        """Do what follows a run that came to its end, in the main process. Returns what it adds to the JSON result.

        With `quiet`, nothing is printed on stdout.
        """
        del splits, quiet
        return {}

    @property
    def base_model(self) -> str:
        """Name of the model that the run starts from."""
        return recorded_name(self.model)


@dataclass(frozen=True, kw_only=True)
class InstructionJob(Job):
    """A run on instructions or preferences."""

    split: SplitSettings
    reading: DataSettings = field(default_factory=DataSettings)

    def read_splits(self) -> Splits:
        """The instructions, split. Refuses rows for tests alone and rows without an answer."""
        examples = read_data(self.data, self.reading, quiet=not is_main_process()).examples
        check_not_held_out(examples)
        check_outputs(examples)
        split = self.split
        return split_examples(examples, method=split.split, seed=split.split_seed, fractions=split.fractions)


def run_or_plan(job: Job, *, plan: bool, as_json: bool) -> int:
    """Do the run, or only forecast it, and print the result as JSON on request. Returns the exit code."""
    if plan:
        planned = plan_job(job)
        if as_json:
            print_json(planned.as_json())
        return 0
    result, request, splits = run_job(job)
    if is_main_process():
        added = {} if result.stopped else job.finish(splits, quiet=as_json)
        if as_json:
            with suppress(SystemExit):  # nobody reads stdout any more; the run is saved, and its own status counts
                print_json(result.as_json() | added)
                sys.stdout.flush()
    return request.exit_code if result.stopped else 0


def run_job(job: Job) -> tuple[FinetuneResult, StopRequest, Splits]:
    """Read the data, fine-tune, and plot the losses. The rows are returned, too.

    Ctrl-C, SIGTERM and SIGHUP stop the run after the current step and save it.
    """
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
            return *_run_in(folder, job, splits, ranks, device), splits
    except (OSError, CheckpointError):
        if (folder.last / "training" / STATE_FILE).exists():
            note(f"{job.output}: the last save is kept. The same command with --resume continues from there.")
        raise
    finally:
        folder.unlock()


def plan_job(job: Job) -> Forecast:
    """Do a few steps of the run and forecast the rest. Leaves nothing on the disk."""
    if is_multi_process():
        raise SettingsError("--plan: expected one process, got several. Plan without torchrun; several are faster.")
    splits = job.read_splits()
    existing = next(folder for folder in job.output.absolute().parents if folder.is_dir())
    trainer = make_trainer(job.model, splits, job.settings, device=_prepare_device(job.run))
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


def _run_in(
    folder: RunFolder, job: Job, splits: Splits, ranks: Ranks, device: torch.device
) -> tuple[FinetuneResult, StopRequest]:
    if ranks.is_main and job.run.resume:
        folder.recover()
    ranks.barrier()
    if job.run.resume and (finished := _finished_result(folder, job, splits)):
        if ranks.is_main:
            note(f"{job.output}: this run is finished already; there is nothing to resume.")
        return finished, StopRequest()
    state = _read_state(folder, job)
    if state is None and ranks.is_main:
        _check_new(folder, job)
    ranks.barrier()
    trainer = _make_trainer(folder, job, splits, ranks, device, state)
    view = progress_observer() if ranks.is_main else nullcontext(SilentObserver())
    with stop_on_signals(STOPPING if ranks.is_main else "") as request:
        with view as observer:
            result = finetune(
                trainer,
                folder,
                data_files=[shown_path(Path(path.name)) for path in job.data],
                observer=observer,
                should_stop=request,
                resume_from=state,
                save_seconds=job.run.save_every,
                keep_state=job.run.keep_state,
                base_folder=job.model,
            )
        if ranks.is_main:
            _plot(job.output, job.settings.loss_per)
            for line in describe_result(result, state_is_kept=job.run.keep_state, next_command=job.next_command):
                note(line)
    return result, request


def _make_trainer(
    folder: RunFolder, job: Job, splits: Splits, ranks: Ranks, device: torch.device, state: RunState | None
) -> Trainer:
    starts_from_last = state is not None and job.settings.lora is None
    trainer = make_trainer(
        folder.last if starts_from_last else job.model,
        splits,
        job.settings,
        device=device,
        ranks=ranks,
        precision=state.precision if state else None,
        schedule_start=state.schedule_start if state else 0,
    )
    if state is not None and state.schedule_start and state.schedule_start >= trainer.total_steps:
        raise SettingsError(
            f"{job.output}: expected more than the {state.step} steps that this run has done, got "
            f"{trainer.total_steps}. Raise --epochs or --max-steps."
        )
    return trainer


def _plot(output: Path, loss_per: LossPer) -> None:
    """Plot the losses. The run is complete without the picture."""
    try:
        plot_losses(output, loss_per=loss_per)
    except OSError as error:
        note(f"note: no picture of the losses. {describe_os_error(error)}")


def _read_state(folder: RunFolder, job: Job) -> RunState | None:
    """The state to resume from; None for a new run. Raises SettingsError if it has another base model."""
    state = folder.read_state() if job.run.resume else None
    if state is not None and state.base_model != job.base_model:
        raise SettingsError(
            f"{job.output}: expected to resume with the model {state.base_model}, got {job.base_model}. "
            f"Use the same --model as before, or choose another --output."
        )
    return None if state is None else with_more_steps(state, job.settings)


def _check_new(folder: RunFolder, job: Job) -> None:
    """Raise SettingsError if a new run would replace its own base model or an earlier run."""
    if job.model.resolve() in {folder.last.resolve(), folder.best.resolve()}:
        raise SettingsError(
            f"--output: expected another folder than the one that --model {job.model} is in, got {job.output}. "
            f"Choose another --output."
        )
    if job.run.resume and folder.has_model and load_info(folder.path) is not None:
        raise SettingsError(
            f"{job.output}: expected a run with its state, got a finished model. To go on from it, use "
            f"--model {job.output} and another --output. (--keep-state keeps the state of the next run.)"
        )
    folder.check_free(overwrite=job.run.overwrite, resume=job.run.resume)
    if job.run.resume:
        note(f"{job.output}: nothing was saved yet, so the run starts from its beginning.")


def _finished_result(folder: RunFolder, job: Job, splits: Splits) -> FinetuneResult | None:
    """The result of a finished run with the same settings, data, split and base model; else None."""
    state = folder.read_state()
    if not folder.has_model or (state is not None and not state.finished):
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
