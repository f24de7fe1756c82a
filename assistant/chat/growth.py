"""How a model learnt: its answers to some validation rows from step to step, read from `validation.jsonl`.

The file is in the folder of every model that was fine-tuned here. Imports no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from assistant.escape import one_line
from assistant.exact_match import is_exact
from assistant.training.events import VALIDATION_FILE

MAX_BYTES = 1 << 26
"""A longer file is read up to here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthStep:
    """The answer to one row after some steps of training."""

    step: int
    """0: before the training."""
    validation_loss: float
    """Mean over all validation rows, in nats per token."""
    response: str
    is_match: bool
    """Whether the response equals the reference, apart from white space at both ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthRow:
    """One validation row, and the answers to it from step to step."""

    instruction: str
    input: str
    reference: str
    steps: tuple[GrowthStep, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """The rows that the model answered during its training, or why there are none."""

    rows: tuple[GrowthRow, ...] = ()
    problem: str = ""
    """Why there are no rows, as a sentence for the screen. Empty if there are rows."""


class _RowKey(NamedTuple):
    instruction: str
    input: str
    reference: str


def read_growth(folder: Path | None) -> Growth:
    """Read the answers that a model gave during its training.

    `folder` is None for a model without one. A line that is torn, of an older version or damaged is left out; of two
    lines with one step, the later counts, because a resumed run writes its steps again. Never raises.
    """
    path = None if folder is None else folder / VALIDATION_FILE
    try:
        lines = [] if path is None else _lines(path)
    except FileNotFoundError:
        problem = f"No {VALIDATION_FILE}: this model was not fine-tuned here, so nothing shows its steps."
        return Growth(problem=problem)
    except OSError as error:
        return Growth(problem=one_line(f"{VALIDATION_FILE}: not readable: {error.strerror or error}."))
    if not lines:
        return Growth(problem="A model without a record of its training has no steps to show.")
    by_step = {record["step"]: record for record in lines}
    answers: dict[_RowKey, dict[int, GrowthStep]] = {}
    for step in sorted(by_step):
        loss = float(by_step[step]["validation_loss"])
        for key, response in _samples(by_step[step]):
            is_match = bool(response.strip()) and is_exact(response, key.reference)
            answer = GrowthStep(step=step, validation_loss=loss, response=response, is_match=is_match)
            answers.setdefault(key, {}).setdefault(step, answer)  # a row may be in one validation twice
    if not answers:
        return Growth(problem=f"{VALIDATION_FILE} has no answers: the run had --validation-answers 0, or is old.")
    rows = tuple(GrowthRow(**key._asdict(), steps=tuple(steps.values())) for key, steps in answers.items())
    return Growth(rows=rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the records that have a step and a finite loss."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES)
    records = []
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_step(record.get("step")) and _is_loss(record.get("validation_loss")):
            records.append(record)
    return records


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_loss(value: object) -> bool:
    """Whether a value is a finite number. An integer may be too large for a float, so `math.isfinite` would raise."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _samples(record: dict[str, Any]) -> Iterator[tuple[_RowKey, str]]:
    """Yield the rows of a validation, with the response. What is damaged is left out."""
    samples = record.get("samples")
    for sample in samples if isinstance(samples, list) else ():
        if not isinstance(sample, dict):
            continue
        texts = [sample.get(name, "") for name in ("instruction", "input", "reference", "response")]
        if all(isinstance(text, str) for text in texts) and texts[0]:
            yield _RowKey(*texts[:3]), texts[3]
