"""Finds the held-out rows of a model: the test rows of its data, or the rows of files that the person names.

`find_held_out` reads and splits the data. Call it in a thread: it takes a third of a second for 6,000 rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.dataset.examples import Example, row_ids
from assistant.dataset.instructions import read_dataset
from assistant.dataset.sources import STANDARD_INPUT, find_files
from assistant.dataset.trained_prompts import prompt_hash
from assistant.errors import AssistantError
from assistant.escape import one_line
from assistant.files import shown_path
from assistant.model.config import ModelInfo
from assistant.model.trained_data import is_own_data, split_as_trained, trained_prompts
from assistant.shipped import ROWS, shipped

MAX_PLACES = 8
"""Places where a model's data are looked for, if there are files of the right names."""
MAX_BYTES = 1 << 29
"""Data that are larger are read only if the person names them."""
NAME_DATA = "Name the data: --data FILE"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """The rows of some files."""

    examples: tuple[Example, ...]
    name: str


def find_held_out(folder: Path, info: ModelInfo | None, data: Sequence[Path] = ()) -> HeldOut:
    """Find the rows of `data` that the model in `folder` was not trained on, or without `data` its own test rows.

    `info` is None for a base model. If `data` are the rows that the model's training run split, the test part is held
    out. Rows without a reference, and plain text, are left out. Never raises: a fault is the result's problem.
    """
    try:
        return _find(folder, info, data)
    except (AssistantError, OSError) as error:
        return HeldOut(problem=one_line(str(error)))


def _find(folder: Path, info: ModelInfo | None, data: Sequence[Path]) -> HeldOut:
    if not data:
        own = _own_data(folder, info)
        return own if isinstance(own, HeldOut) else _test_part(folder, info, own)
    if any(path == STANDARD_INPUT for path in data):
        return HeldOut(problem="--data: expected files, got standard input, which the chat needs. Name a file.")
    given = _read(data)
    if is_own_data(info, given.examples):
        return _test_part(folder, info, given)
    own = _own_data(folder, info)
    found = _held_out(folder, info, given, given.examples, "rows")
    if isinstance(own, HeldOut):
        return found
    split = split_as_trained(info, own.examples)
    return replace(found, train=split.train, tests=split.test)


def _test_part(folder: Path, info: ModelInfo | None, data: _Data) -> HeldOut:
    split = split_as_trained(info, data.examples)
    if not split.test:
        return HeldOut(problem=f"The split of {data.name} has no test rows. {NAME_DATA}", train=split.train)
    return replace(_held_out(folder, info, data, split.test, "test rows"), train=split.train, tests=split.test)


def _held_out(folder: Path, info: ModelInfo | None, data: _Data, part: Sequence[Example], what: str) -> HeldOut:
    """Leave out the rows of a part that cannot be asked, and those that the model was trained on."""
    rows = [HeldOutRow(id=id_, example=example) for id_, example in zip(row_ids(part), part, strict=True)]
    usable = [row for row in rows if not row.example.is_reference_free and not row.example.is_text]
    trained = trained_prompts(folder, info, data.examples)
    held_out = [row for row in usable if trained is None or prompt_hash(row.example) not in trained]
    if held_out:
        return HeldOut(rows=tuple(held_out))
    why = "the model was trained on all of them" if usable else "none has an instruction and a reference"
    return HeldOut(problem=f"None of the {len(rows)} {what} of {data.name} is held out: {why}.")


# --- the model's own data -----------------------------------------------------------------------------------------


def _own_data(folder: Path, info: ModelInfo | None) -> _Data | HeldOut:
    """Read the rows that the model's training run split, where they are found and did not change."""
    if info is None:
        return HeldOut(problem=f"A base model has no test rows. {NAME_DATA}")
    names = one_line(", ".join(info.data_files)) or "the data"
    problem = f"{names}: not found, so the test rows are not known."
    for paths in _places(folder, info.data_files):
        try:
            data = _read(paths)
        except (AssistantError, OSError) as error:
            problem = one_line(str(error))
            continue
        if is_own_data(info, data.examples):
            return data
        problem = f"{data.name} changed since the training, so the test rows are not known."
    return HeldOut(problem=f"{problem} {NAME_DATA}")


def _places(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, ...]]:
    """Yield the paths where files of these names are: as written, at the model folder and above it, or shipped."""
    if not names or str(STANDARD_INPUT) in names:
        return
    place = folder.absolute()
    candidates = [tuple(root / name for name in names) for root in (Path(), place, *place.parents)]
    if all(Path(name).name in ROWS for name in names):
        candidates.append(tuple(shipped(Path(name).name) for name in names))
    seen: set[tuple[str, ...]] = set()
    for paths in candidates:
        # os.path: pathlib raises for names with NUL and for folders that may not be entered.
        if not all(os.path.isfile(path) or os.path.isdir(path) for path in paths):  # noqa: PTH112, PTH113
            continue
        real = tuple(os.path.realpath(path) for path in paths)
        if real not in seen and _size(paths) <= MAX_BYTES:
            seen.add(real)
            yield paths
        if len(seen) == MAX_PLACES:
            return


def _size(paths: Sequence[Path]) -> int:
    """Return the bytes of the files, or 0 if they cannot be looked at: reading them gives the reason."""
    try:
        return sum(path.stat().st_size for path in find_files(paths).paths)
    except (AssistantError, OSError):
        return 0


def _read(paths: Sequence[Path]) -> _Data:
    examples = read_dataset(*paths, skip_bad=True).examples
    name = one_line(", ".join(shown_path(_from_here(path)) for path in paths))
    return _Data(examples=tuple(examples), name=name)


def _from_here(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
