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
from torch import Tensor

from assistant.errors import CheckpointError

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Names of dtypes in a safetensors file."""
_ROWS = 2048
"""Rows of a tensor that are converted at once."""


Values = Mapping[str, tuple[Sequence[int], Callable[[], Tensor]]]
"""Tensors that need not exist together: the shape of each, and a function that makes it."""


def in_memory(tensors: Mapping[str, Tensor]) -> Values:
    """Tensors that exist already, for `save_tensors`."""
    return {name: (tensor.shape, tensor.detach) for name, tensor in tensors.items()}


def save_tensors(values: Values, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a safetensors file, one tensor after another.

    The library's `save_file` writes the same bytes, but only from tensors that are all in memory, in this dtype.

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
            for _, (shape, make) in sorted(values.items()):
                for rows in torch.split(make().reshape(shape or (1,)), _ROWS):
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
                with path.open("rb") as file:
                    os.fsync(file.fileno())
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
