"""The models that `assistant pull` knows by a short name, and what they cost. No torch, no network.

`benchmarks/bases.py` measures the costs and writes them to `data/bases.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from assistant.hub_cache import find_pulled
from assistant.shipped import POCKET, shipped

COSTS_FILE = "bases.json"
MODES = ("full", "lora")
"""All weights are trained, or LoRA's matrices beside frozen ones."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model by its short name. `parameters` counts a tied head once; `context` is in tokens."""

    name: str
    parameters: int
    licence: str
    context: int

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.name == POCKET or find_pulled(self.name) is not None

    def row(self, costs: dict[str, Any]) -> tuple[str, ...]:
        """Return cells of a table: name, weights, licence, context, and the cost of each mode. See `read_costs`."""
        shown = (_describe(costs["costs"][self.name][mode]) for mode in MODES)
        return (self.name, f"{self.parameters / 1e6:,.0f} M", self.licence, f"{self.context:,}", *shown)


KNOWN = (
    KnownModel(POCKET, 4_339_200, "Apache-2.0", 512),
    KnownModel("gpt2", 124_439_808, "MIT", 1024),
    KnownModel("gpt2-medium", 354_823_168, "MIT", 1024),
    KnownModel("gpt2-large", 774_030_080, "MIT", 1024),
    KnownModel("gpt2-xl", 1_557_611_200, "MIT", 1024),
    KnownModel("smollm2-135m", 134_515_008, "Apache-2.0", 8192),
    KnownModel("smollm2-360m", 361_821_120, "Apache-2.0", 8192),
    KnownModel("smollm2-1.7b", 1_711_376_384, "Apache-2.0", 8192),
    KnownModel("qwen2.5-0.5b", 494_032_768, "Apache-2.0", 32_768),
    KnownModel("qwen3-0.6b", 596_049_920, "Apache-2.0", 40_960),
    KnownModel("llama-3.2-1b", 1_235_814_400, "Llama 3.2", 131_072),
)
"""Licences are those that the repositories of `hub_cache.KNOWN_MODELS` name, contexts the `n_positions` or
`max_position_embeddings` of their `config.json`, and parameters follow from its shape. pocket's are in its card."""


def read_costs() -> dict[str, Any]:
    """Read what runs cost on one machine, from `bases.json`.

    `costs` has for each name and mode the `gigabytes` of memory, which may be calculated, and the `minutes`, or null
    if none were measured. `rows` and `machine` say of what.
    """
    content: dict[str, Any] = json.loads(shipped(COSTS_FILE).read_text(encoding="utf-8"))
    return content


def _describe(cost: dict[str, Any]) -> str:
    memory = f"{'~' if cost['is_calculated'] else ''}{cost['gigabytes']:.1f} GB"
    return memory if cost["minutes"] is None else f"{memory}, {cost['minutes']:.2g} min"
