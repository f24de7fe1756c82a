"""The folder of a fine-tuning run: the model it makes, its records, and what it needs to resume.

    DIR/                 a model folder once the run has ended or was stopped: the weights of the best validation
    DIR/metrics.jsonl    one line per step        DIR/validation.jsonl    one line per validation
    DIR/last/            a model folder: the newest weights; last/training/ holds what --resume needs
    DIR/best/            only during the run: the best weights so far

Model folders appear complete or not at all. The `config.json` of DIR is written last, so DIR becomes a model folder
only when everything else is in place.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from assistant.dataset.added_tokens import EXTRA_TOKENIZER_FILES
from assistant.dataset.splits import DEFAULT_FRACTIONS
from assistant.dataset.tokenizer import CONFIG_FILE, GENERATION_FILE
from assistant.errors import CheckpointError, PrerequisiteError, SettingsError
from assistant.files import check_can_be_folder, check_writable, make_folder, named_errors, write_atomic
from assistant.model.checkpoint import INFO_FILE, Checkpoint, save_checkpoint, write_checkpoint
from assistant.model.config import SCORES_FILE
from assistant.model.folder import atomic_folder, in_memory, save_tensors
from assistant.model.gpt import GPT
from assistant.model.lora import ADAPTER_FOLDER, read_adapter, set_adapter
from assistant.model.weights import WEIGHTS_FILE, equals, open_tensors, stored_values
from assistant.settings import FinetuneSettings, Frozen
from assistant.training.events import VALIDATION_FILE
from assistant.training.precision import Picked
from assistant.training.sharding import distribute_like, full_tensor

METRICS_FILE, PLOT_FILE = "metrics.jsonl", "loss.png"
STATE_FILE, OPTIMIZER_FILE, REFERENCE_FILE = "state.json", "optimizer.safetensors", "reference.safetensors"
LOCK_FILE = ".lock"
KILLED_EARLY = {METRICS_FILE, VALIDATION_FILE, "best"}
"""What a run may leave if it is killed before its first save."""


class RunState(Frozen):
    """A run after step `step`. The batches and the schedule follow from the settings and the step."""

    step: int
    settings: FinetuneSettings
    base_model: str
    base_path: str | None = None
    base_digest: str | None = None
    """Path and weights of the base model, as in `ModelInfo`. None in a state of an older version."""
    conversation_rows: int = 0
    history_length: int = 0
    """Both as in `ModelInfo`."""
    processes: int = 1
    shards: bool = False
    precision: Picked | None = None
    """dtype of the products that `auto` picked when the run began. None in a state of an older version."""
    data_files: tuple[str, ...]
    data_fingerprint: str
    split_method: str
    split_seed: int
    split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    best_step: int | None
    best_validation_loss: float | None
    first_validation_loss: float | None
    best_share: float | None = None
    """Share of exact or ended answers, or accuracy, if the best weights are chosen by it."""
    validations_since_best: int = 0
    seconds: float
    schedule_start: int = 0
    """Step after which the learning rate's schedule began: 0, or the end of the run before it got more steps."""
    finished: bool = False
    """Whether the run has reached its end. Its state was kept so that it can get more steps."""


def check_same_run(now: RunState, before: RunState, path: Path) -> None:
    """Raise SettingsError unless the run would continue exactly as it began."""
    for name in ("data_fingerprint", "split_method", "split_seed", "split_fractions"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise SettingsError(
                f"{path}: expected to resume with the same data and split, got another {name.replace('_', ' ')} "
                f"({str(new)[:12]} instead of {str(old)[:12]}). Give the same data, or choose another --output."
            )
    if now.processes != before.processes:
        raise SettingsError(
            f"{path}: expected to resume with the same number of processes, {before.processes}, got {now.processes}. "
            f"Start {before.processes}, or choose another --output."
        )
    if now.shards != before.shards:
        raise SettingsError(
            f"{path}: expected to resume {'with' if before.shards else 'without'} --shard, as the run began. "
            f"Use the option as before, or choose another --output."
        )
    for name in type(now.settings).model_fields:
        old, new = getattr(before.settings, name), getattr(now.settings, name)
        if old != new:
            raise SettingsError(
                f"{path}: expected to resume with {name.replace('_', '-')} {old}, got {new}. "
                f"Use the option as before, or choose another --output."
            )


def with_more_steps(before: RunState, settings: FinetuneSettings) -> RunState:
    """The state to resume from: a finished run with other `epochs` or `max_steps` begins a schedule of its own.

    Any other state stays as it is.
    """
    length = {name: getattr(settings, name) for name in ("epochs", "max_steps")}
    wanted = before.settings.model_copy(update=length)
    if not before.finished or wanted == before.settings:
        return before
    return before.model_copy(
        update={"settings": wanted, "schedule_start": before.step, "finished": False, "validations_since_best": 0}
    )


class RunFolder:
    """Reads and writes the folder of one run. Nothing in it changes before `begin`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @property
    def last(self) -> Path:
        """The model folder of the newest weights."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The model folder of the best weights so far; at the end its files move up into the run's folder."""
        return self.path / "best"

    @property
    def has_model(self) -> bool:
        """Whether the folder is already a model folder."""
        return (self.path / CONFIG_FILE).exists()

    def check_free(self, *, overwrite: bool, resume: bool) -> None:
        """Raise SettingsError if a new run would replace something that the user may want to keep.

        With `resume`, the remains of a run that was killed before its first save may be replaced.
        """
        check_can_be_folder(self.path)
        check_writable(self.path)
        names = (
            {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
            if self.path.exists()
            else set()
        )
        for folder in (self.last, self.best):
            if folder.exists() and not (folder / INFO_FILE).exists():
                raise SettingsError(f"{folder}: expected a model of an earlier run, got something else. Move it away.")
        if overwrite or not names or (resume and names <= KILLED_EARLY):
            return
        if (self.last / "training" / STATE_FILE).exists():
            raise SettingsError(
                f"{self.path}: expected a new folder, got a run that can be resumed. "
                f"Continue it with --resume, start again with --overwrite, or choose another --output."
            )
        raise SettingsError(
            f"{self.path}: expected a new or empty folder, got one with {', '.join(sorted(names)[:5])} in it. "
            f"Replace its model with --overwrite, or choose another --output."
        )

    def lock(self) -> None:
        """Make this process the only one that writes here. The folder must exist; a second call does nothing.

        Raises:
            PrerequisiteError: another process is writing to the folder.
        """
        if self._lock is not None:
            return
        check_writable(self.path)
        file = (self.path / LOCK_FILE).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise PrerequisiteError(
                f"{self.path}: expected no other run in this folder, got one that is still running. "
                f"Wait until it has ended, or choose another --output."
            ) from error
        self._lock = file

    def unlock(self) -> None:
        """Let other processes write again."""
        if self._lock is not None:
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def begin(self) -> None:
        """Start a new run: delete the state and the records of an earlier one.

        Its weights stay until there are better ones: those of `last` and `best` until the first save of each, and
        those of the folder itself until the end. So a kill at any time leaves some weights.
        """
        make_folder(self.path)
        self.lock()
        self.recover()
        self.end()
        for name in (METRICS_FILE, VALIDATION_FILE, PLOT_FILE):
            (self.path / name).unlink(missing_ok=True)

    def recover(self) -> None:
        """Clean up after a run that was killed while it was saving."""
        if not self.path.is_dir():
            return
        self.lock()
        for folder in (self.last, self.best):
            for remains in sorted(self.path.glob(f".{folder.name}.*")):
                replaced = remains / folder.name  # the earlier folder, moved aside
                if replaced.is_dir() and not folder.exists():
                    replaced.replace(folder)
                shutil.rmtree(remains, ignore_errors=True)
        if (self.last / INFO_FILE).exists() and not (self.last / "training" / STATE_FILE).exists():
            shutil.rmtree(self.last / "training", ignore_errors=True)

    def resume(self, step: int) -> None:
        """Prepare to continue after `step`: drop later records, which will be written again."""
        for name in (METRICS_FILE, VALIDATION_FILE):
            path = self.path / name
            kept = [record for record in read_records(path) if record["step"] <= step]
            write_atomic(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def record(self, name: str, value: dict[str, Any]) -> None:
        """Append one line to a record file."""
        path = self.path / name
        with named_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")

    # --- weights ---------------------------------------------------------------------------------------------------

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Save these weights as the best so far."""
        with named_errors(self.best):
            save_checkpoint(checkpoint, self.best)

    def save_last(
        self,
        checkpoint: Checkpoint,
        state: RunState,
        *,
        optimizer_state: Mapping[str, torch.Tensor],
        reference_logprobs: Mapping[str, torch.Tensor],
    ) -> None:
        """Save these weights as the newest, with what a run needs to resume from here.

        `optimizer_state` is what `optimizer_tensors` returned. `reference_logprobs` was computed with the starting
        weights, and cannot be computed again once they have changed.
        """
        with named_errors(self.last), atomic_folder(self.last) as folder:
            write_checkpoint(checkpoint, folder)
            training = folder / "training"
            training.mkdir()
            save_tensors(in_memory(optimizer_state), training / OPTIMIZER_FILE)
            if reference_logprobs:
                save_tensors(in_memory(reference_logprobs), training / REFERENCE_FILE)
            (training / STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def publish(self, *, use_last: bool) -> None:
        """Turn the run's folder into a model folder of the best weights, or of the last if nothing was validated.

        A resumed run that found nothing better leaves what it published before.
        """
        if use_last:
            with named_errors(self.best), atomic_folder(self.best) as folder:
                shutil.copytree(self.last, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training"))
        if (self.best / CONFIG_FILE).exists():
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            # This run may have no adapter, and its base no such files of a tokenizer.
            shutil.rmtree(self.path / ADAPTER_FOLDER, ignore_errors=True)
            # The scores are those of the weights before, and a classifier generates nothing.
            for name in (*EXTRA_TOKENIZER_FILES, SCORES_FILE, GENERATION_FILE):
                (self.path / name).unlink(missing_ok=True)
            for path in sorted(self.best.iterdir(), key=lambda path: path.name == CONFIG_FILE):
                path.replace(self.path / path.name)
        if self.best.exists():  # an earlier process moved its files and was killed before this
            self.best.rmdir()

    def end(self) -> None:
        """Mark the run as finished, and delete its state: it can no longer be resumed."""
        # Delete the state first: a run without it is finished, even if this process is killed before the rest is gone.
        (self.last / "training" / STATE_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.last / "training", ignore_errors=True)

    def keep(self, state: RunState) -> None:
        """Mark the run as finished, and keep its state: it can be given more steps."""
        finished = state.model_copy(update={"finished": True})
        write_atomic(self.last / "training" / STATE_FILE, finished.model_dump_json(indent=2) + "\n")

    # --- resuming --------------------------------------------------------------------------------------------------

    def read_state(self) -> RunState | None:
        """The saved state, or None if nothing was saved yet.

        Raises:
            CheckpointError: the state is damaged.
        """
        path = self.last / "training" / STATE_FILE
        if not path.exists():
            return None
        try:
            return RunState.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise CheckpointError(
                f"{path}: expected the state of a run, got a file that cannot be used ({error}). "
                f"Start again with --overwrite."
            ) from error

    def read_reference_logprobs(self) -> dict[str, torch.Tensor]:
        """The `reference_logprobs` that `save_last` saved; empty if there were none.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.last / "training" / REFERENCE_FILE
        try:
            return load_file(path) if path.exists() else {}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: expected the log-probabilities of the run's start, got {error!r}. "
                f"Start again with --overwrite."
            ) from error

    def restore_adapter(self, base: Checkpoint) -> None:
        """Load the adapter that was saved with `last` into a base model with new adapters.

        Raises:
            CheckpointError: the adapter cannot be read.
            SettingsError: merged, it does not give the weights of `last`, so the base model is different.
        """
        set_adapter(base.model, read_adapter(self.last / ADAPTER_FOLDER))
        last = open_tensors(self.last / WEIGHTS_FILE, prefix="")
        values = stored_values(base.model, base.stored)
        if not all(equals(last, name, make()) for name, (_, make) in values.items()):
            raise SettingsError(
                f"{self.path}: expected the model that the run began with, got other weights. "
                f"Give the same --model, or choose another --output."
            )

    def restore_optimizers(self, trained: GPT, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Load the state that was saved with `last` into new optimizers."""
        path = self.last / "training" / OPTIMIZER_FILE
        try:
            tensors = load_file(path)
            for optimizer, name, parameter in _updated_by(trained, optimizers):
                for key, value in optimizer.state[parameter].items():
                    optimizer.state[parameter][key] = distribute_like(tensors[f"{key}.{name}"], like=value)
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{path}: expected the optimizer's state, got {error!r}. Start again with --overwrite."
            ) from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record file. A last line that was cut off while it was written is skipped."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def optimizer_tensors(
    trained: GPT, optimizers: Sequence[torch.optim.Optimizer], *, are_kept: bool = True
) -> dict[str, torch.Tensor]:
    """The optimizer state of every weight, on the CPU, named `kind.weight`.

    For a sharded model all processes must call it; only those with `are_kept` get the tensors.
    """
    tensors = {}
    for optimizer, name, parameter in _updated_by(trained, optimizers):
        for key, value in optimizer.state[parameter].items():
            complete = full_tensor(value.detach())
            if are_kept:
                tensors[f"{key}.{name}"] = complete.cpu().contiguous()
    return tensors


def _updated_by(
    trained: GPT, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[torch.optim.Optimizer, str, torch.nn.Parameter]]:
    """Every trained weight, with its optimizer and its name."""
    names = {parameter: name for name, parameter in trained.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, names[parameter], parameter
