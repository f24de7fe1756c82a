"""A forecast from a few real steps: how long a run takes, how much memory it needs, how large a micro-batch may be."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assistant.model.checkpoint import save_checkpoint
from assistant.training.trainer import Trainer, Window
from assistant.training.validation import ANSWER_TOKENS, answer_rows

MEASURED_STEPS = 6
"""Steps that are timed, with lengths spread over those of an epoch."""
SAVED_STATES = 3
"""Tensors saved per weight so that a run can resume: the weight and AdamW's two moments."""
USABLE_MEMORY = 0.9
"""Share of the free memory that a forecast counts on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run is expected to need."""

    steps: int
    validations: int
    seconds: float
    """Duration of the whole run, with validations and saves."""
    peak_bytes: int
    """Peak memory of the process, or of the GPU if there is one."""
    free_bytes: int | None
    """Memory that this process can still get; None if unknown."""
    batch_size: int
    largest_batch_size: int | None
    """How many of the longest rows fit into one micro-batch; None if unknown."""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values, for scripts."""
        return asdict(self)


def forecast(trainer: Trainer, *, save_seconds: float, folder: Path) -> Forecast:
    """Do a few steps and forecast the run. Changes the trainer's weights, and leaves nothing in `folder`.

    `save_seconds` is the time between two saves; `folder` exists, on the disk that the run will write to.
    """
    windows = [window for _, window in trainer.windows(0)]
    preparation = _timed(trainer.compute_reference) + _timed(trainer.prepare)
    longest = max(windows, key=lambda window: _size(trainer, window))
    longest_row = max(longest[0], key=lambda index: trainer.train.rows[index].n_tokens)
    trainer.train_step(1, [[longest_row]])
    peak_of_one_row = _peak_bytes(trainer.device)
    trainer.train_step(1, longest)
    peak_of_window = _peak_bytes(trainer.device)
    # After the two peaks, because the check may need more memory than the steps.
    preparation += _timed(lambda: trainer.check_fast_path(windows[0]))
    sizes = np.array([_size(trainer, window) for window in windows])
    steps = _seconds_of_steps(trainer, windows, sizes)
    validations = sum(trainer.validation_is_due(step) for step in range(1, len(windows) + 1)) + 1
    per_validation = _seconds_of_validation(trainer)
    per_save = _timed(lambda: _save(trainer, folder))
    saves = validations + SAVED_STATES * (1 + steps / max(save_seconds, per_save))
    free = _free_bytes(trainer.device)
    rows = len(longest[0])
    per_row = (peak_of_window - peak_of_one_row) / (rows - 1) if rows > 1 else 0.0
    return Forecast(
        steps=len(windows),
        validations=validations if trainer.validation.rows else 0,
        seconds=preparation + steps + validations * per_validation + saves * per_save,
        peak_bytes=_peak_bytes(trainer.device),  # the check, answers or saves may need more than the steps
        free_bytes=free,
        batch_size=trainer.settings.batch_size,
        largest_batch_size=rows + int(USABLE_MEMORY * free / per_row) if free is not None and per_row > 0 else None,
    )


def _size(trainer: Trainer, window: Window) -> int:
    """Positions of a window, with padding."""
    lengths = [[trainer.train.rows[index].n_tokens for index in batch] for batch in window]
    return sum(len(batch) * max(batch) for batch in lengths)


def _seconds_of_steps(trainer: Trainer, windows: list[Window], sizes: np.ndarray) -> float:
    """Seconds of all steps, interpolated between a few measured ones whose sizes are spread over all sizes."""
    in_order = np.argsort(sizes, kind="stable")
    last = len(windows) - 1
    chosen = [int(in_order[n * last // (MEASURED_STEPS - 1)]) for n in range(MEASURED_STEPS)]
    measured = np.array([trainer.train_step(1, windows[index]).seconds for index in chosen])
    # Interpolation, not a fitted line: the longest rows also have the most targets, and would tilt the line.
    known = np.unique(sizes[chosen])
    return float(np.interp(sizes, known, [measured[sizes[chosen] == size].mean() for size in known]).sum())


def _seconds_of_validation(trainer: Trainer) -> float:
    """Seconds of one validation. Assumes answers as long as the references: models soon learn that length."""
    rows, settings = trainer.validation.rows, trainer.settings
    if not rows:
        return 0.0
    loss = _timed(lambda: trainer.evaluate(rows))
    count = settings.validation_answers
    answers = _timed(lambda: answer_rows(trainer.checkpoint, rows, count=count, n_samples=0)) if count else 0.0
    longest = max(len(row.input_ids) - row.prompt_length for row in rows)
    return loss + answers * min(1.0, longest / ANSWER_TOKENS)


def _save(trainer: Trainer, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        save_checkpoint(trainer.checkpoint, Path(temporary) / "model")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return sizes.get("MemAvailable")
