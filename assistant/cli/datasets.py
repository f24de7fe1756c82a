"""Reads the data files of a command, and reports on stderr what of them is not used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.cli.console import note
from assistant.settings import DataSettings

if TYPE_CHECKING:
    from assistant.dataset.instructions import Dataset


def read_data(
    paths: Sequence[Path], settings: DataSettings, *, keep_others: bool = False, quiet: bool = False
) -> Dataset:
    """Read instruction files and note what is left out. Raises what `read_dataset` raises."""
    from assistant.dataset.instructions import read_dataset

    dataset = read_dataset(*paths, columns=settings.columns, skip_bad=settings.skip_bad, keep_others=keep_others)
    if not quiet:
        for sentence in dataset.notes:
            note(f"note: {sentence}")
    return dataset
