"""A folder of PEFT with a LoRA adapter, merged into its base model.

This module reads adapters that other programs trained. `lora` has our own adapters, which are merged already when a
model folder is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.errors import CheckpointError
from assistant.model.gpt import GPT, model_of, stored_names, stored_views
from assistant.model.lora import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from assistant.model.weights import EMBEDDING, HEAD, TensorFile, convert_layout, open_tensors

ADAPTER_BIN_FILE = "adapter_model.bin"
_NAME = re.compile(
    r"^base_model\.model\.(?P<layer>.+?)(?:\.(?P<matrix>lora_A|lora_B)(?:\.default)?)?\.(?P<kind>weight|bias)$"
)
_WRAPPERS = (".base_layer", ".modules_to_save.default", ".modules_to_save", ".original_module")


@dataclass(frozen=True)
class PeftAdapter:
    """The settings and the tensors of an adapter's folder, before they meet the base model."""

    folder: Path
    base_model: str
    config: Mapping[str, Any]
    file: TensorFile
    matrices: dict[str, dict[str, str]] = field(default_factory=dict)
    """For every adapted layer, the stored names of its `lora_A` and `lora_B`."""
    replaced: dict[str, str] = field(default_factory=dict)
    """Weights and biases that were trained as a whole, and their stored names."""


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own."""
    return (folder / ADAPTER_CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def read_peft_adapter(folder: Path) -> PeftAdapter:
    """Read what an adapter changes, without its base model.

    Raises:
        CheckpointError: a file is missing or damaged, or it is not a plain LoRA adapter.
    """
    path = folder / ADAPTER_CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, base_model = config["peft_type"], config.get("base_model_name_or_path") or ""
        _scale(config, "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError, re.error) as error:
        raise CheckpointError(
            f"{path}: expected the settings of a LoRA adapter, got {error!r}. Is the folder complete?"
        ) from error
    if kind != "LORA" or config.get("use_dora"):
        raise CheckpointError(
            f"{path}: expected a LoRA adapter, got {'DoRA' if kind == 'LORA' else str(kind)[:40]}. "
            f"Merge it with PEFT's merge_and_unload(), and save the merged model."
        )
    if config.get("task_type") == "SEQ_CLS":
        raise CheckpointError(
            f"{path}: expected an adapter of a language model, got one of a classifier, with a head of its own. "
            f"Use the classifier's model folder, or merge it with PEFT's merge_and_unload() and save the merged model."
        )
    weights = next((folder / n for n in (ADAPTER_WEIGHTS_FILE, ADAPTER_BIN_FILE) if (folder / n).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{folder}: expected an adapter, got no {ADAPTER_WEIGHTS_FILE}. Is the folder complete?")
    adapter = PeftAdapter(folder, str(base_model), config, open_tensors(weights))
    adapter.file.names = {name: name for name in adapter.file.stored_names}
    for name in adapter.file.names:
        _sort(adapter, name)
    return adapter


def _sort(adapter: PeftAdapter, name: str) -> None:
    match = _NAME.match(name)
    if match is None:
        raise CheckpointError(
            f"{adapter.file.path}: expected LoRA matrices and whole weights, got {name!r}. "
            f"Merge the adapter with PEFT's merge_and_unload(), and save the merged model."
        )
    layer = match["layer"]
    for wrapper in _WRAPPERS:
        layer = layer.replace(wrapper, "")
    if match["matrix"]:
        adapter.matrices.setdefault(layer, {})[match["matrix"]] = name
    else:
        adapter.replaced[f"{layer}.{match['kind']}"] = name


def _scale(config: Mapping[str, Any], layer: str) -> float:
    """The factor of a layer's update. Patterns name layers that have a rank or an alpha of their own."""
    rank, alpha = float(config["r"]), float(config["lora_alpha"])
    for pattern, value in (config.get("rank_pattern") or {}).items():
        rank = float(value) if re.match(rf"(.*\.)?({pattern})$", layer) else rank
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        alpha = float(value) if re.match(rf"(.*\.)?({pattern})$", layer) else alpha
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def merge_adapter(model: GPT, adapter: PeftAdapter) -> GPT:
    """Return the base model with the adapter merged, as PEFT's `merge_and_unload` does. `model` may change.

    Raises:
        CheckpointError: the adapter's tensors do not fit the model.
    """
    ((embedding, _),) = stored_names(EMBEDDING, model.config)
    if model.config.tie_word_embeddings and HEAD in adapter.replaced and embedding not in adapter.replaced:
        model.untie()
    config, state = model.config, dict(model.state_dict())
    views = {stored: (name, view) for name in state for stored, view in stored_views(name, state[name], config)}
    with torch.no_grad():
        for layer, names in adapter.matrices.items():
            _add_update(adapter, state, views, layer, names)
        for name, stored in adapter.replaced.items():
            _replace(adapter, state, views, name, stored)
    if config.tie_word_embeddings and not torch.equal(state[HEAD], state[EMBEDDING]):
        if HEAD in adapter.replaced or "lm_head" in adapter.matrices:
            config = config.model_copy(update={"tie_word_embeddings": False})
        else:
            state[HEAD] = state[EMBEDDING]
    config = config.model_copy(update={"vocab_size": len(state[EMBEDDING])})
    if state[HEAD].shape != state[EMBEDDING].shape:
        raise _misfit(adapter, HEAD, tuple(state[EMBEDDING].shape), tuple(state[HEAD].shape))
    return model_of(config, state)


Views = Mapping[str, tuple[str, Tensor]]


def _add_update(
    adapter: PeftAdapter, state: dict[str, Tensor], views: Views, layer: str, names: Mapping[str, str]
) -> None:
    _, weight = views.get(f"{layer}.weight", ("", None))
    shapes = {matrix: adapter.file.shape(name) for matrix, name in names.items()}
    first, second = shapes.get("lora_A", ()), shapes.get("lora_B", ())
    if weight is None or len(first) != 2 or second != (len(weight), first[0]) or first[1] != weight.shape[1]:
        raise _misfit(adapter, layer, None if weight is None else tuple(weight.shape), (second, first))
    down, up = (_read(adapter, names[matrix]) for matrix in ("lora_A", "lora_B"))
    is_shared = layer == "lm_head" and weight is state[EMBEDDING]
    updated = (up @ down).mul_(_scale(adapter.config, layer)).add_(weight)
    if not is_shared and weight is not None:
        weight.copy_(updated)
    else:
        state[f"{layer}.weight"] = updated


def _replace(adapter: PeftAdapter, state: dict[str, Tensor], views: Views, name: str, stored: str) -> None:
    value = convert_layout(name, _read(adapter, stored))
    ours, view = views.get(name, ("", None))
    first = 1 if ours in (EMBEDDING, HEAD) else 0  # these may have grown
    if view is None or value.shape[first:] != view.shape[first:]:
        raise _misfit(adapter, name, None if view is None else tuple(view.shape), tuple(value.shape))
    if first:
        state[ours] = value.contiguous()
    else:
        view.copy_(value)


def _read(adapter: PeftAdapter, stored: str) -> Tensor:
    return torch.cat([chunk.float() for _, chunk in adapter.file.chunks(stored)])


def _misfit(adapter: PeftAdapter, name: str, expected: object, actual: object) -> CheckpointError:
    return CheckpointError(
        f"{adapter.file.path}: expected {name} of shape {expected or 'none'} as in the base model, got {actual}. "
        f"Does the adapter belong to {adapter.base_model!r}?"
    )
