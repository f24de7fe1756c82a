"""The weights of a model folder, read tensor by tensor into float32 or bfloat16, and what a model's folder will hold.

Accepted are safetensors files and PyTorch's `.bin` files, whole or in shards with an index. Names may have the prefixes
of `torch.compile` and `DataParallel`, or lack `transformer.`, as the first releases of GPT-2 do.

A pickle is only read by torch's `weights_only` unpickler, which builds tensors and plain containers and calls nothing
else. Files are mapped into memory and mapped again from time to time: the parts that were read leave memory then.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from assistant.errors import CheckpointError
from assistant.model.config import ClassifierConfig, LlamaConfig, ModelConfig
from assistant.model.gpt import GPT, build_model, stored_names
from assistant.model.lora import LoraLinear, adapted_layers

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
BIN_FILE, BIN_INDEX_FILE = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHTS_FILES = (WEIGHTS_FILE, INDEX_FILE, BIN_FILE, BIN_INDEX_FILE)
"""In the order in which transformers looks for them."""
HEAD, EMBEDDING, POSITIONS = "lm_head.weight", "transformer.wte.weight", "transformer.wpe.weight"
SCORE, SCORE_BIAS = "score.weight", "score.bias"

# GPT-2's Conv1D stores its matrices as (in, out), torch's Linear as (out, in).
TRANSPOSED_WEIGHTS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Causal masks and frequencies, which old checkpoints store as buffers.
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")
"""What `torch.compile` and `DataParallel` put before the names of tensors."""
_CHUNK = 2**18
"""Numbers that are copied at once."""
_LEAST_MAPPED, _MAPPED_SHARE = 2**22, 16
"""A file is mapped again after this many bytes, or after this part of it if that is more."""


def convert_layout(name: str, value: Tensor) -> Tensor:
    """Convert between the file's layout and torch's, in either direction."""
    return value.t() if name.endswith(TRANSPOSED_WEIGHTS) else value


def stored_values(model: GPT, files: Mapping[str, TensorFile]) -> dict[str, tuple[torch.Size, Callable[[], Tensor]]]:
    """The tensors of `model.safetensors`: their shapes, and functions that make them, so that one at a time exists.

    LoRA is merged. A tied head is not stored. What the model holds rounded is read from `files`, of `read_weights`. The
    functions raise CheckpointError if a file is gone, or another.
    """
    layers = adapted_layers(model)
    found: dict[str, tuple[torch.Size, Callable[[], Tensor]]] = {}
    for ours, value in model.state_dict().items():
        name, start = ours.replace(".base.", "."), 0
        if ".lora_" in name or (name == HEAD and model.config.tie_word_embeddings):
            continue
        layer = layers.get(name.removesuffix(".weight"))
        for part, count in stored_names(name, model.config):
            rows = slice(start, start + count if count > 0 else None)
            start += count
            own = convert_layout(part, value[rows].detach())
            file = files.get(part) if value.dtype is torch.bfloat16 else None
            found[part] = own.shape, partial(_stored_value, part, own, file, layer, rows)
    return found


def _stored_value(name: str, own: Tensor, file: TensorFile | None, layer: LoraLinear | None, rows: slice) -> Tensor:
    value = own
    if file is not None:
        value = convert_layout(name, _read_tensor(file, name, tuple(own.shape), torch.float32))
        file.close()
    return value if layer is None else value + convert_layout(name, layer.update(rows)).to(value.device)


def full_name(name: str, prefix: str = "transformer.") -> str | None:
    """The full name of a stored tensor, without wrappers' prefixes. None for a buffer that is computed.

    `prefix` is what the family's names begin with. Some files leave it out.
    """
    name = WRAPPERS.sub("", name)
    if name.endswith(_BUFFERS):
        return None
    return name if name.startswith((prefix, "lm_head.", "score.")) else f"{prefix}{name}"


@dataclass
class TensorFile:
    """A file of tensors, mapped into memory. A tensor is read from the disk when it is copied."""

    path: Path
    _open: Callable[[Path], dict[str, Tensor]]
    names: dict[str, str] = field(default_factory=dict)
    """Full names, and the names in the file."""
    _views: dict[str, Tensor] | None = None
    _n_read: int = 0
    _stamp: tuple[int, int] | None = None

    @property
    def stored_names(self) -> list[str]:
        """The names in the file."""
        return list(map(str, self._mapped()))

    def close(self) -> None:
        """Let the parts that were read leave memory. The file is opened again when it is read again."""
        self._views, self._n_read = None, 0

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._tensor(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor's numbers."""
        return self._tensor(name).dtype

    def chunks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows of a tensor, some at a time, each with the index of its first row. A scalar is one row."""
        shape = self.shape(name)
        n_rows, width = (shape[0], max(1, self._tensor(name)[:1].numel())) if shape and shape[0] else (1, 1)
        step = max(1, _CHUNK // width)
        for start in range(0, n_rows, step):
            tensor = self._tensor(name)
            chunk = tensor[start : start + step] if shape else tensor[None]
            yield start, chunk
            self._n_read += chunk.numel() * chunk.element_size()
            del tensor, chunk
            if self._n_read > max(_LEAST_MAPPED, self.path.stat().st_size // _MAPPED_SHARE):
                self.close()

    def _tensor(self, name: str) -> Tensor:
        return self._mapped()[self.names[name]]

    def _mapped(self) -> dict[str, Tensor]:
        if self._views is None:
            stat = self.path.stat() if self.path.is_file() else None
            stamp = stat and (stat.st_size, stat.st_mtime_ns)
            if self._stamp not in (None, stamp):
                raise CheckpointError(
                    f"{self.path}: expected the weights that were opened before, got "
                    f"{'others' if stamp else 'no such file'}. Put the model's folder back as it was."
                )
            self._stamp, self._views = stamp, self._open(self.path)
        return self._views


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            views: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected safetensors, got a file that cannot be read ({error}). Download or copy it again."
        ) from error
    return views


def load_pickle(path: Path) -> Any:
    """Read a file of `torch.save` with torch's restricted unpickler, mapped into memory if its format allows that.

    Raises:
        CheckpointError: the file is damaged, or holds something other than tensors and plain containers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual pickles, which are refused below
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:  # the format before torch 1.6 cannot be mapped
                if "mmap" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected a file of tensors, got a pickle with other objects in it, or a damaged file. "
            f"Nothing of it was run. Save a state dict of tensors, or use safetensors."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path}: expected a file of torch.save, got a file that cannot be read ({repr(error)[:200]}). "
            f"Download or copy it again."
        ) from error


def _open_bin(path: Path) -> dict[str, Tensor]:
    state = load_pickle(path)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict of tensors, got {type(state).__name__}.")
    return dict(state)


def open_tensors(path: Path, prefix: str = "transformer.") -> TensorFile:
    """Open one file of tensors: safetensors, or of `torch.save` if its name ends differently.

    `prefix` is that of `full_name`.

    Raises:
        CheckpointError: the file cannot be read.
    """
    file = TensorFile(path, _open_safetensors if path.name.endswith(".safetensors") else _open_bin)
    file.names = {name: stored for stored in file.stored_names if (name := full_name(stored, prefix)) is not None}
    return file


def find_weights(folder: Path) -> Path | None:
    """The file with a folder's weights, or their index. None if there is neither."""
    return next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)


def _open_weights(path: Path, config: ModelConfig) -> dict[str, TensorFile]:
    """Every tensor's full name, and the file that holds it."""
    prefix = "model." if isinstance(config, LlamaConfig) else "transformer."
    if not path.name.endswith(".index.json"):
        file = open_tensors(path, prefix)
        return dict.fromkeys(file.names, file)
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(shard) for shard in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected the index of a model in several files, got {error!r}. Download or copy it again."
        ) from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{path}: expected file names without a folder, got {outside[0]!r}.")
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path}: expected its {len(names)} files, got {_list_names('no', missing)}. Is the download complete?"
        )
    files = [open_tensors(path.with_name(name), prefix) for name in names]
    return {name: file for file in files for name in file.names}


def read_weights(
    path: Path, config: ModelConfig, *, narrow: bool = False
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, TensorFile]]:
    """Read a state dict for `GPT` in float32, from a file of weights or from an index of several.

    As in transformers, a head that differs from the embedding counts even where the config ties them, and a missing
    embedding is the head. With `narrow` the matrices are in bfloat16, to compute with them and not to train them. An
    embedding is so only if that rounds nothing, because the blocks read it in float32.

    Returns the config, with `tie_word_embeddings` and `score_bias` as the weights are, the state, and for the tensors
    that may be rounded the files that hold them.

    Raises:
        CheckpointError: a file is damaged, or names, shapes or numbers are not those of the config's model.
    """
    files = _open_weights(path, config)
    if isinstance(config, ClassifierConfig):
        config = config.model_copy(update={"score_bias": SCORE_BIAS in files})
    is_tied = config.tie_word_embeddings
    ((embedding, _),) = stored_names(EMBEDDING, config)
    if is_tied and HEAD in files and embedding not in files:
        files[embedding] = files.pop(HEAD)
        files[embedding].names[embedding] = files[embedding].names[HEAD]
    with torch.device("meta"):
        model = build_model(config)
        expected = {name: tuple(shape) for name, (shape, _) in stored_values(model, {}).items()}
    if is_tied and HEAD in files:
        expected[HEAD] = expected[embedding]
    _check_names(path, expected, files)
    rounded = {name: file for name, file in files.items() if file.dtype(name) is not torch.bfloat16}

    def read(ours: str, name: str) -> Tensor:
        is_matrix = len(expected[name]) == 2 and ours not in (POSITIONS, SCORE)
        is_narrow = narrow and is_matrix and (ours != EMBEDDING or name not in rounded)
        return _read_tensor(files[name], name, expected[name], torch.bfloat16 if is_narrow else torch.float32)

    state: dict[str, Tensor] = {}
    for name in model.state_dict():
        if name != HEAD or not is_tied:
            parts = [read(name, part) for part, _ in stored_names(name, config)]
            state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    if is_tied and HEAD in files and not equals(files[HEAD], HEAD, state[EMBEDDING]):
        state[HEAD] = read(HEAD, HEAD)
        config = config.model_copy(update={"tie_word_embeddings": False})
    elif is_tied:
        state[HEAD] = state[EMBEDDING]
    for file in files.values():
        file.close()
    return config, state, rounded


def equals(file: TensorFile, name: str, tensor: Tensor) -> bool:
    """Whether a tensor in the file's layout has the numbers of the one there."""
    chunks = file.chunks(name)
    return all(torch.equal(chunk.float(), tensor[start : start + len(chunk)].cpu().float()) for start, chunk in chunks)


def _read_tensor(file: TensorFile, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in torch's layout."""
    out = convert_layout(name, torch.empty(convert_layout(name, torch.empty(shape, device="meta")).shape, dtype=dtype))
    for start, chunk in file.chunks(name):
        values = chunk.float()
        lowest, highest = torch.aminmax(values)
        if not (torch.isfinite(lowest) and torch.isfinite(highest)):
            raise CheckpointError(
                f"{file.path}: expected finite numbers, got NaN or infinity in {name}. Train it again."
            )
        out[start : start + len(chunk)] = values
    return convert_layout(name, out)


def _check_names(path: Path, expected: dict[str, tuple[int, ...]], files: dict[str, TensorFile]) -> None:
    """Raise CheckpointError unless the names and shapes are as `expected` and all tensors hold floats."""
    missing, extra = sorted(expected.keys() - files.keys()), sorted(files.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path}: expected the {len(expected)} tensors of config.json's model, got {_list_names('no', missing)}"
            f"{' and ' if missing and extra else ''}{_list_names('also', extra)}. "
            f"Do config.json and the weights belong together?"
        )
    for name, shape in expected.items():
        if files[name].shape(name) != shape:
            raise CheckpointError(
                f"{path}: expected {name} of shape {shape}, got {files[name].shape(name)}. "
                f"Do config.json and the weights belong together?"
            )
        if not files[name].dtype(name).is_floating_point:
            raise CheckpointError(
                f"{path}: expected {name} to hold floating-point numbers, got {files[name].dtype(name)}."
            )


def _list_names(word: str, names: list[str]) -> str:
    """The word and the first three names, or an empty text if there are no names."""
    if not names:
        return ""
    return f"{word} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
