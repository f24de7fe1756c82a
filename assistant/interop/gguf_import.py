"""A GGUF file, as llama.cpp and Ollama run it, as a model: its weights in float32, its config and its tokenizer.

What a file packs into few bits is unpacked by the package `gguf`. Nothing of it is trained again, so a model that was
packed into four bits stays as good as those.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from assistant.dataset.own_template import own_template, read_chat_template
from assistant.dataset.tokenizer import read_tokenizer
from assistant.errors import CheckpointError
from assistant.files import shown_path
from assistant.interop.gguf_tensors import FREQUENCIES, gguf_names, turned_rows
from assistant.interop.gguf_tokenizer import tokenizer_files
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import FAMILIES, GPTConfig, LlamaConfig, ModelConfig
from assistant.model.gpt import GPT, model_of, stored_names
from assistant.model.llama import frequency_shares
from assistant.model.weights import HEAD

LLAMA3_FACTORS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Those of Llama 3.1 and 3.2. A GGUF has only the frequencies that follow from them."""


def import_gguf(path: Path) -> tuple[Checkpoint, bool]:
    """Read a model of GPT-2 or of the Llama family as a base model. Return it, and whether its chat template is known.

    An unknown chat template is lost: the model gets the default template, as a model without one does.

    Raises:
        CheckpointError: the file is not whole, or its model, its packing or its tokenizer is not supported.
    """
    from assistant.interop.gguf_reader import BoundedReader  # the package gguf takes long to import

    where = shown_path(path)
    if not path.is_file():
        found = "a folder, which commands open as it is" if path.is_dir() else "no such file"
        raise CheckpointError(f"{where}: expected a GGUF file, got {found}. Check the path.")
    try:
        reader = BoundedReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError, RecursionError) as error:
        found = "arrays inside arrays without end" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(
            f"{where}: expected a whole GGUF file, got {found}. Copy it again, or use another model."
        ) from error
    family = str(metadata.get("general.architecture"))[:40]
    if family not in FAMILIES:
        raise CheckpointError(
            f"{where}: expected a model of the families {', '.join(FAMILIES)}, got {family!r}. Use another model."
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(family, metadata, tensors, where)
    state = _state(config, tensors, where)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in tokenizer_files(metadata, where).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        try:
            tokenizer = read_tokenizer(folder)
        except CheckpointError as error:  # a person does not know the temporary folder
            raise CheckpointError(str(error).replace(folder, where)) from error
        template = own_template(Path(folder), tokenizer)
        chat_template = read_chat_template(Path(folder))
    ours = (template.chat_template(), template.chat_template(tokenizer.bos_token))
    is_known = template.markers or chat_template in ("", *ours)
    checkpoint = Checkpoint(
        model=model_of(config, state),
        tokenizer=tokenizer,
        template=template,
        info=None,
        name=path.stem,
    )
    return checkpoint, bool(is_known)


def _config(family: str, metadata: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> ModelConfig:
    def get(name: str, default: Any = None) -> Any:
        return metadata.get(f"{family}.{name}", default)

    try:
        width, vocab_size = map(int, tensors["token_embd.weight"].shape)
        is_tied = "output.weight" not in tensors
        common = {"model_type": family, "vocab_size": vocab_size, "tie_word_embeddings": is_tied}
        if family == "gpt2":
            names = {"n_positions": "context_length", "n_layer": "block_count", "n_head": "attention.head_count"}
            names |= {"n_inner": "feed_forward_length", "layer_norm_epsilon": "attention.layer_norm_epsilon"}
            given = common | {"n_embd": width} | {ours: get(name) for ours, name in names.items()}
            return GPTConfig.model_validate(given)
        names = {
            "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
            "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
            "max_position_embeddings": "context_length", "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        }  # fmt: skip
        given = common | {"hidden_size": width} | {ours: get(name) for ours, name in names.items()}
        given["head_dim"] = get("attention.key_length", width // get("attention.head_count"))
        given["attention_bias"] = family == "llama" and "blk.0.attn_q.bias" in tensors
        divisors = torch.tensor(tensors[FREQUENCIES].data) if FREQUENCIES in tensors else None
        config = LlamaConfig.model_validate(given | _rope(get, divisors))
        if divisors is not None and not torch.allclose(
            divisors * frequency_shares(config.rope, config.heads.size), torch.ones_like(divisors), rtol=1e-3
        ):
            raise ValueError("frequencies that are scaled in another way than Llama 3's")
        return config
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            fault = error.errors()[0]
            reason = f"{'.'.join(map(str, fault['loc']))} {fault['input']!r}: {fault['msg']}"
        raise CheckpointError(
            f"{where}: expected the settings of a {family} that this project can run, got {reason[:200]}."
        ) from error


def _rope(get: Any, divisors: Tensor | None) -> dict[str, Any]:
    """The fields of rotary positions, as transformers 4 names them."""
    kind, fields = get("rope.scaling.type", "none"), {"rope_theta": get("rope.freq_base", 10_000.0)}
    if divisors is not None:
        scaling = {"rope_type": "llama3", "factor": divisors.max().item(), **LLAMA3_FACTORS}
        return fields | {"rope_scaling": scaling}
    if kind not in ("none", "linear"):
        raise ValueError(f"rotary positions that are scaled as {kind!r}")
    return fields if kind == "none" else fields | {"rope_scaling": {"type": kind, "factor": get("rope.scaling.factor")}}


def _state(config: ModelConfig, tensors: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    name_of = gguf_names(config)
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in GPT(config).state_dict().items()}
    if config.tie_word_embeddings:
        del expected[HEAD]
    wanted = {name: [name_of(part) for part, _ in stored_names(name, config)] for name in expected}
    named = {part for parts in wanted.values() for part in parts}
    odd = sorted(named ^ (tensors.keys() - {FREQUENCIES}))
    if odd:
        kind = "no" if odd[0] in named else "also"
        raise CheckpointError(f"{where}: expected the {len(named)} tensors of its settings, got {kind} {odd[0]}.")
    state = {
        name: torch.cat([_unpacked(tensors[part], config, where) for part in parts]) for name, parts in wanted.items()
    }
    wrong = next((name for name, shape in expected.items() if tuple(state[name].shape) != shape), None)
    if wrong is not None:
        raise CheckpointError(
            f"{where}: expected {wrong} of shape {expected[wrong]}, got {tuple(state[wrong].shape)}. Is it damaged?"
        )
    return state


def _unpacked(tensor: Any, config: ModelConfig, where: str) -> Tensor:
    """A tensor in float32. llama.cpp has the rows of a Llama's queries and keys in another order."""
    from gguf.quants import dequantize

    try:
        with np.errstate(all="ignore"):
            value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected {tensor.name} in a packing that the package gguf reads, got "
            f"{tensor.tensor_type.name}. Use a file with another quantization."
        ) from error
    if not value.isfinite().all():
        raise CheckpointError(f"{where}: expected {tensor.name} to be finite, got inf or NaN. Copy the file again.")
    value = value.view(*(int(size) for size in reversed(tensor.shape)))
    return turned_rows(tensor.name, value, config, back=True)
