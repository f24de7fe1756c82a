"""GGUF files, which llama.cpp and Ollama run.

A file is written beside its destination, read back, compared with the model, and only then renamed.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from assistant.dataset.tokenizer import byte_characters
from assistant.errors import ExportError
from assistant.files import shown_path
from assistant.interop.gguf_tensors import gguf_tensors
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import GPTConfig

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFValue, GGUFWriter
    from numpy.typing import NDArray

Quantization = Literal["f32", "f16", "bf16", "q8_0"]

Q8_BLOCK = 32
"""Weights of a q8_0 block. A block shares one float16 scale."""
MAX_FLOAT16 = 65504.0
SPARE_BYTES = 16 * 2**20
"""Room for the vocabulary and the metadata, in bytes, in the check for free space."""


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A GGUF file that was written and checked."""

    path: Path
    quantization: Quantization
    n_bytes: int
    n_tensors: int
    n_tokens: int
    largest_error: float
    """Largest absolute difference between a weight and its value in the file. 0 for f32."""
    notes: tuple[str, ...] = ()
    """Where llama.cpp computes something else than this project, one sentence each."""


def export_gguf(checkpoint: Checkpoint, path: Path, quantization: Quantization = "f16") -> GgufFile:
    """Write a model, its tokenizer and its chat template as one GGUF file, and check the file.

    Matrices get the type that `quantization` names. Biases, LayerNorms and the position embedding stay float32, as
    llama.cpp writes them. With q8_0, a matrix whose rows are not a multiple of 32 becomes float16. The file at `path`
    is replaced.

    Raises:
        ExportError: the model cannot be stored like this, the disk is full, or the file does not hold the model.
    """
    import gguf
    from gguf.quants import quant_shape_to_byte_shape

    tensors = dict(gguf_tensors(checkpoint.model))
    types = {name: _tensor_type(name, value, quantization) for name, value in tensors.items()}
    shapes = {name: quant_shape_to_byte_shape(tuple(value.shape), types[name]) for name, value in tensors.items()}
    _check_range(tensors, types)
    with _temporary(path, sum(map(math.prod, shapes.values()))) as temporary:
        writer = gguf.GGUFWriter(temporary, checkpoint.config.model_type)
        try:
            _add_metadata(writer, checkpoint, quantization)
            _add_vocabulary(writer, checkpoint)
            _write(writer, tensors, types, shapes)
        finally:
            writer.close()
        largest_error = _check(temporary, writer.kv_data[0], tensors, types)
    return GgufFile(
        path=path,
        quantization=quantization,
        n_bytes=path.stat().st_size,
        n_tensors=len(tensors),
        n_tokens=checkpoint.config.vocab_size,
        largest_error=largest_error,
        notes=_notes(checkpoint, types, quantization),
    )


# --- what is written ----------------------------------------------------------------------------------------------


def _tensor_type(name: str, value: torch.Tensor, quantization: Quantization) -> GGMLQuantizationType:
    from gguf import GGMLQuantizationType as Type

    if value.dim() < 2 or name.startswith("position_embd"):
        return Type.F32
    is_odd = quantization == "q8_0" and value.shape[-1] % Q8_BLOCK
    return Type.F16 if is_odd else Type[quantization.upper()]


def _check_range(tensors: dict[str, torch.Tensor], types: dict[str, GGMLQuantizationType]) -> None:
    """Raise ExportError if a weight is too large for float16, which q8_0 uses for its scales."""
    for name, value in tensors.items():
        limit = {"F16": MAX_FLOAT16, "Q8_0": 127 * MAX_FLOAT16}.get(types[name].name)
        if limit is not None and (largest := value.abs().max().item()) > limit:
            raise ExportError(
                f"{name}: expected weights of at most {limit:g} for {types[name].name.lower()}, got {largest:g}. "
                f"Export with --quantization bf16 or f32."
            )


def _add_metadata(writer: GGUFWriter, checkpoint: Checkpoint, quantization: Quantization) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    config = checkpoint.config
    writer.add_type("model")
    writer.add_name(os.fsencode(checkpoint.name).decode("utf-8", errors="replace"))  # a folder's may be no UTF-8
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_head_count(config.heads.n_head)
    if isinstance(config, GPTConfig):
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.heads.n_kv_head)
        writer.add_key_length(config.heads.size)
        writer.add_value_length(config.heads.size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(config.heads.size)
        writer.add_rope_freq_base(config.rope.theta)
        if config.rope.linear:
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(config.rope.factor)
    writer.add_file_type(LlamaFileType[f"{'ALL' if quantization == 'f32' else 'MOSTLY'}_{quantization.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_vocabulary(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """Add the tokens in the order of their ids, an entry for every id of the model, and the merges."""
    from gguf import TokenType

    tokenizer = checkpoint.tokenizer
    characters = {byte: character for character, byte in byte_characters().items()}
    specials = {tokenizer.encoding.encode_single_token(token): token for token in tokenizer.encoding.special_tokens_set}
    matched = {token.content for token in tokenizer.added.tokens if not token.special}
    tokens, types = [], []
    for token_id in range(checkpoint.config.vocab_size):
        if token_id in specials:
            tokens.append(specials[token_id])
            types.append(int(TokenType.USER_DEFINED if specials[token_id] in matched else TokenType.CONTROL))
        elif spelled := tokenizer.token_bytes(token_id):
            tokens.append("".join(characters[byte] for byte in spelled))
            types.append(int(TokenType.NORMAL))
        else:
            tokens.append(f"[PAD{token_id}]")
            types.append(int(TokenType.UNUSED))
    lines = tokenizer.merges_txt.split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.added.pipeline.split)  # without it, llama.cpp splits texts in another way
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges := [line.rstrip("\r") for line in lines if line.strip()]:  # an empty list has no type in GGUF
        writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(tokenizer.bos_id is not None)
    writer.add_add_eos_token(False)
    writer.add_chat_template(checkpoint.template.chat_template())


def _write(
    writer: GGUFWriter,
    tensors: dict[str, torch.Tensor],
    types: dict[str, GGMLQuantizationType],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Write all of the file. One tensor at a time is converted, so memory grows by one tensor."""
    for name, shape in shapes.items():
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, value in tensors.items():
        writer.write_tensor_data(_encode(value, types[name]))
    writer.flush()


def _encode(value: torch.Tensor, kind: GGMLQuantizationType) -> NDArray[Any]:
    from gguf.quants import quantize

    array = np.ascontiguousarray(quantize(value.numpy(), kind))
    return array if sys.byteorder == "little" else array.byteswap()  # the writer swaps back; GGUF is little-endian


def _notes(
    checkpoint: Checkpoint, types: dict[str, GGMLQuantizationType], quantization: Quantization
) -> tuple[str, ...]:
    notes = []
    config = checkpoint.config
    if isinstance(config, GPTConfig) and config.activation_function == "gelu":
        notes.append("llama.cpp approximates GELU by tanh; this model uses the exact GELU, so logits differ slightly.")
    n_wide = sum(kind.name == "F16" for kind in types.values()) if quantization == "q8_0" else 0
    if n_wide:
        notes.append(f"{n_wide} matrices are f16: q8_0 needs rows of a multiple of {Q8_BLOCK} weights.")
    return tuple(notes)


# --- the file -----------------------------------------------------------------------------------------------------


@contextmanager
def _temporary(path: Path, n_bytes: int) -> Iterator[Path]:
    """Yield the name of a file beside `path` that replaces `path` at the end. An error removes it.

    Raises:
        ExportError: the file cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    where = shown_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < n_bytes + SPARE_BYTES:
            raise ExportError(
                f"{where}: expected {(n_bytes + SPARE_BYTES) / 1e6:.0f} MB of free space, got {free / 1e6:.0f} MB. "
                f"Free some space, or name another disk."
            )
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # numpy reports a full disk as an OSError without a number.
        reason = error.strerror or str(error)
        raise ExportError(
            f"{where}: expected to write the file, got: {reason}. Free some space, or name another path."
        ) from error
    finally:
        with suppress(OSError):  # for example, the parent is a file
            temporary.unlink()


def _check(
    path: Path,
    metadata: Mapping[str, GGUFValue],
    tensors: dict[str, torch.Tensor],
    types: dict[str, GGMLQuantizationType],
) -> float:
    """Compare a written file with what was to be written. Return the largest difference of a weight.

    Raises:
        ExportError: the file holds something else.
    """
    from assistant.interop.gguf_reader import BoundedReader

    try:
        reader = BoundedReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise _damaged(path, f"a file that cannot be read ({error})") from error
    for key, expected in metadata.items():
        value, field = expected.value, reader.get_field(key)
        if field is None or field.contents() != (np.float32(value) if isinstance(value, float) else value):
            raise _damaged(path, f"another {key}")
    found = {tensor.name: tensor for tensor in reader.tensors}
    if found.keys() != tensors.keys():
        raise _damaged(path, f"{len(found)} tensors, not {len(tensors)}")
    largest = 0.0
    for name, value in tensors.items():
        if found[name].tensor_type != types[name]:
            raise _damaged(path, f"{name} as {found[name].tensor_type.name}")
        largest = max(largest, _difference(path, name, value, found[name].data, types[name]))
    return largest


def _difference(path: Path, name: str, value: torch.Tensor, stored: NDArray[Any], kind: GGMLQuantizationType) -> float:
    """The largest difference between a tensor and its stored form. Raise ExportError if it is not due to rounding."""
    from gguf.quants import dequantize

    array = value.numpy()
    read = dequantize(np.ascontiguousarray(stored), kind).astype(np.float32, copy=False)
    if read.shape != array.shape:
        raise _damaged(path, f"{name} of shape {read.shape}")
    if kind.name == "Q8_0":
        blocks = (-1, Q8_BLOCK)
        errors = np.abs(read - array).reshape(blocks).max(axis=1)
        steps = np.abs(array).reshape(blocks).max(axis=1) / 127
        # Half a step, plus 127 steps times the rounding of the scale to float16 (2^-11, or 2^-25 near zero).
        is_right = bool((errors <= steps * (0.5 + 127 * 2**-11) * 1.01 + 127 * 2**-25).all())
    else:
        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        rounded = value.to(dtypes[kind.name]).to(torch.float32).numpy()
        is_right = bool(np.array_equal(read.view(np.uint32), rounded.view(np.uint32)))
    if not is_right:
        raise _damaged(path, f"other weights in {name}")
    return float(np.abs(read - array).max(initial=0.0))


def _damaged(path: Path, found: str) -> ExportError:
    return ExportError(
        f"{shown_path(path.parent)}: expected to read back the model that was written, got {found}. "
        f"Is the disk sound? Export it again."
    )
