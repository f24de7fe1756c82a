"""LoRA: small trainable matrices beside frozen weights (Hu et al., arXiv 2106.09685), stored in PEFT's format.

A linear layer W of shape (out, in) becomes W + alpha / rank * B A, with A (rank, in) and B (out, rank). B starts at
zero, so the adapted model starts with the outputs of its base model. This module owns the adapted layers and the
adapter's files. It knows nothing about training or the rest of a model folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from assistant.errors import CheckpointError
from assistant.model.gpt import GPT, GPTClassifier, stored_names
from assistant.model.llama import PEFT_MODULES
from assistant.settings import LoraSettings

ADAPTER_FOLDER, ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = (
    "adapter",
    "adapter_config.json",
    "adapter_model.safetensors",
)
HEAD_MODULE = "score"
"""A classifier's head, which is trained as a whole beside the adapters."""
_PEFT_PREFIX = "base_model.model."
"""PEFT's prefix for the names of a model's modules."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """The trained matrices, with the settings and the base model that they belong to."""

    settings: LoraSettings
    tensors: dict[str, Tensor]
    """`transformer.h.0.attn.c_attn.lora_A` (rank, in), `...lora_B` (out, rank), and so on, float32, under the names of
    the layers in a file. Layers that are one here and several there have equal matrices A."""
    base_model: str
    """Name of the model that was adapted."""
    whole: dict[str, Tensor] = field(default_factory=dict)
    """Weights that were trained as a whole, by their names: `score.weight` of a classifier, and its bias."""


class LoraLinear(nn.Module):
    """A frozen linear layer with its two trainable matrices."""

    def __init__(self, base: nn.Linear, settings: LoraSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scale = base, settings.scale
        # PEFT and torch's Linear initialise like this: uniform between -1 / sqrt(in) and 1 / sqrt(in).
        uniform = torch.rand(settings.rank, base.in_features, generator=generator) * 2 - 1
        device = base.weight.device
        self.lora_A = nn.Parameter((uniform / math.sqrt(base.in_features)).to(device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, settings.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        out: Tensor = self.base(x)
        update = F.linear(F.linear(x.to(out.dtype), self.lora_A.to(out.dtype)), self.lora_B.to(out.dtype))
        return out + update * self.scale

    def update(self, rows: slice = slice(None)) -> Tensor:
        """What a plain weight (out, in) lacks for the same outputs: scale * B A, or some rows of it, in float32."""
        return (self.lora_B.detach()[rows] @ self.lora_A.detach()) * self.scale


def add_adapters(model: GPT, settings: LoraSettings, *, seed: int) -> None:
    """Freeze every weight of `model` and replace the layers that `settings` names by LoraLinear layers, in place."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.transformer.h:
        for name in settings.modules:
            base = block.get_submodule(name)
            assert isinstance(base, nn.Linear)
            block.set_submodule(name, LoraLinear(base, settings, generator))


def adapted_layers(model: GPT) -> dict[str, LoraLinear]:
    """The LoraLinear layers of a model, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def take_adapter(model: GPT, settings: LoraSettings, *, base_model: str) -> Adapter:
    """Copy the current matrices of `model` to an adapter on the CPU."""
    tensors = {}
    for name, layer in adapted_layers(model).items():
        parts = _parts(name, model)
        counts = [rows for _, rows in parts] if len(parts) > 1 else len(layer.lora_B)
        for (part, _), rows in zip(parts, layer.lora_B.detach().split(counts), strict=True):  # type: ignore[no-untyped-call]
            tensors[f"{part}.lora_A"] = layer.lora_A.detach().cpu().clone()
            tensors[f"{part}.lora_B"] = rows.cpu().clone()
    whole = {name: value.detach().cpu().clone() for name, value in _head_weights(model).items()}
    return Adapter(settings=settings, tensors=tensors, base_model=base_model, whole=whole)


def _parts(layer: str, model: GPT) -> list[tuple[str, int]]:
    """What a layer is in a file: one layer or several, and the rows of each."""
    return [(name.removesuffix(".weight"), rows) for name, rows in stored_names(f"{layer}.weight", model.config)]


def _head_weights(model: GPT) -> dict[str, Tensor]:
    """The weights of a classifier's head, by their names. The head of a language model is never trained with LoRA."""
    if not isinstance(model, GPTClassifier):
        return {}
    return {f"{HEAD_MODULE}.{name}": value for name, value in model.score.named_parameters()}


def set_adapter(model: GPT, adapter: Adapter) -> None:
    """Copy the matrices of `adapter` into the LoraLinear layers of `model`.

    Raises:
        CheckpointError: the adapter has other matrices, or matrices of other shapes.
    """
    current = take_adapter(model, adapter.settings, base_model="")
    expected = {name: tuple(value.shape) for name, value in (current.tensors | current.whole).items()}
    given = {name: tuple(value.shape) for name, value in (adapter.tensors | adapter.whole).items()}
    if expected != given:
        name = min(expected.items() ^ given.items())[0]
        raise CheckpointError(
            f"adapter: expected {name} of shape {expected.get(name, 'none')}, got {given.get(name, 'none')}. "
            f"Does it belong to this model, with the same --lora options?"
        )
    with torch.no_grad():
        for name, layer in adapted_layers(model).items():
            parts = [part for part, _ in _parts(name, model)]
            layer.lora_A.copy_(adapter.tensors[f"{parts[0]}.lora_A"])
            layer.lora_B.copy_(torch.cat([adapter.tensors[f"{part}.lora_B"] for part in parts]))
        for name, weight in _head_weights(model).items():
            weight.copy_(adapter.whole[name])


# --- files --------------------------------------------------------------------------------------------------------


def adapter_config(adapter: Adapter) -> dict[str, object]:
    """The content of `adapter_config.json`, for PEFT.

    `fan_in_fan_out` says that GPT-2's matrices are stored as (in, out) in Hugging Face's layout.
    """
    is_gpt2 = all(name.startswith("transformer.") for name in adapter.tensors)
    modules = adapter.settings.modules
    targets = list(modules) if is_gpt2 else [part for module in modules for part in PEFT_MODULES[module]]
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if adapter.whole else "CAUSAL_LM",
        "modules_to_save": [HEAD_MODULE] if adapter.whole else None,
        "base_model_name_or_path": adapter.base_model,
        "r": adapter.settings.rank,
        "lora_alpha": adapter.settings.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "fan_in_fan_out": is_gpt2,
        "bias": "none",
        "inference_mode": True,
    }


def adapter_weights(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of `adapter_model.safetensors`, under PEFT's names."""
    matrices = {f"{name}.weight": value for name, value in adapter.tensors.items()}
    return {f"{_PEFT_PREFIX}{name}": value.contiguous() for name, value in (matrices | adapter.whole).items()}


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter from its folder.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
        stored_tensors = load_file(folder / ADAPTER_WEIGHTS_FILE)
        ours = {part: module for module, parts in PEFT_MODULES.items() for part in parts}
        modules = tuple(dict.fromkeys(ours.get(name, name) for name in config["target_modules"]))
        settings = LoraSettings(rank=config["r"], alpha=config["lora_alpha"], modules=modules)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: expected a LoRA adapter, got {error!r}. Is the folder complete?") from error
    named = {name.removeprefix(_PEFT_PREFIX): value for name, value in stored_tensors.items()}
    return Adapter(
        settings=settings,
        tensors={name.removesuffix(".weight"): value for name, value in named.items() if ".lora_" in name},
        base_model=config.get("base_model_name_or_path", ""),
        whole={name: value for name, value in named.items() if ".lora_" not in name},
    )
