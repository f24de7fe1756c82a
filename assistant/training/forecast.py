"""A forecast from a few real steps: how long a run takes, what memory it needs, how large a micro-batch may be."""

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

MEASURED = 6
"""Steps that are timed, of lengths spread over those of an epoch."""
STATES = 3
"""What is saved for a weight so that a run can be resumed: itself and AdamW's two means."""
KEPT_FREE = 0.9
"""Share of the free memory that a forecast would use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run is expected to take."""

    steps: int
    validations: int
    seconds: float
    """Of the whole run, with its validations and savings."""
    peak_bytes: int
    """Of the process, or of a GPU's memory where there is one."""
    free_bytes: int | None
    """Memory that nothing uses yet, beside what this process has; None where it cannot be known."""
    batch_size: int
    largest_batch_size: int | None
    """Rows of the longest kind that would fit into one micro-batch; None where that cannot be told."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def forecast(trainer: Trainer, *, save_seconds: float, folder: Path) -> Forecast:
    """Do a few steps and forecast the rest. Changes the trainer's weights, and leaves nothing in `folder`.

    `save_seconds` is the time between two savings, `folder` an existing one on the disk that the run will write to.
    """
    windows = [window for _, window in trainer.windows(0)]
    preparing = _timed(trainer.prepare)
    longest = max(windows, key=lambda window: _size(trainer, window))
    row = max(longest[0], key=lambda index: trainer.train.rows[index].n_tokens)
    trainer.update(1, [[row]])
    alone = _peak_bytes(trainer.device)
    trainer.update(1, longest)
    peak = _peak_bytes(trainer.device)
    preparing += _timed(lambda: trainer.compare_ways(windows[0]))  # here, so as not to hide how much rows need
    sizes = np.array([_size(trainer, window) for window in windows])
    steps = _seconds_of_steps(trainer, windows, sizes)
    validations = sum(trainer.validation_is_due(step) for step in range(1, len(windows) + 1)) + 1
    per_validation = _seconds_of_validation(trainer)
    saving = _timed(lambda: _save(trainer, folder))
    savings = validations + STATES * (1 + steps / max(save_seconds, saving))
    seconds = preparing + steps + validations * per_validation + savings * saving
    free = _free_bytes(trainer.device)
    needed = _peak_bytes(trainer.device)  # comparing, answering or saving may need more than the rows
    rows = len(longest[0])
    per_row = (peak - alone) / (rows - 1) if rows > 1 else 0.0
    return Forecast(
        steps=len(windows),
        validations=validations if trainer.validation.rows else 0,
        seconds=seconds,
        peak_bytes=needed,
        free_bytes=free,
        batch_size=trainer.settings.batch_size,
        largest_batch_size=rows + int(KEPT_FREE * free / per_row) if free is not None and per_row > 0 else None,
    )


def _size(trainer: Trainer, window: Window) -> int:
    """Positions of a window, padding counted."""
    lengths = [[trainer.train.rows[index].n_tokens for index in batch] for batch in window]
    return sum(len(batch) * max(batch) for batch in lengths)


def _seconds_of_steps(trainer: Trainer, windows: list[Window], sizes: np.ndarray) -> float:
    """All steps together, between a few that are done: their positions lie at even shares of all steps'."""
    in_order = np.argsort(sizes, kind="stable")
    chosen = [int(in_order[place * (len(windows) - 1) // (MEASURED - 1)]) for place in range(MEASURED)]
    measured = np.array([trainer.update(1, windows[index]).seconds for index in chosen])
    # Not along a line: the longest rows have most targets too, and would lay all others' too low or too high.
    known = np.unique(sizes[chosen])
    return float(np.interp(sizes, known, [measured[sizes[chosen] == size].mean() for size in known]).sum())


def _seconds_of_validation(trainer: Trainer) -> float:
    """One validation. An answer is reckoned as long as its reference: most models have learnt that soon."""
    rows, settings = trainer.validation.rows, trainer.settings
    if not rows:
        return 0.0
    loss = _timed(lambda: trainer.means(rows))
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
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return found.get("MemAvailable")
