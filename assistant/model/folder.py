"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from assistant.errors import CheckpointError

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Names of dtypes in a safetensors file."""
_ROWS = 2048
"""Rows of a tensor that are converted at once."""


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the permissions of the umask. The library itself lets only the owner read it.

    Raises:
        CheckpointError: the file cannot be written, for example because the disk is full.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # the library raises this for an OSError
        raise CheckpointError(f"{path}: expected room to write the weights, got {error}. Free some space.") from error
    path.chmod(0o666 & ~_umask())


def write_tensors(
    values: Mapping[str, tuple[Sequence[int], Callable[[], Tensor]]], path: Path, dtype: torch.dtype
) -> None:
    """Write a safetensors file of tensors that are made one at a time, from their shapes and functions.

    Raises:
        CheckpointError: the file cannot be written, for example because the disk is full.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, _) in sorted(values.items()):
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, (_, make) in sorted(values.items()):
                for rows in make().split(_ROWS):
                    file.write(rows.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)
    except OSError as error:
        raise CheckpointError(f"{path}: expected room to write the weights, got {error}. Free some space.") from error


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end of the block. An exception in the block removes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(replaced / folder.name)
            temporary.replace(folder)
            shutil.rmtree(replaced)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that people can read."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
