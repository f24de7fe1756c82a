"""What the double remembers: the requests of its journal, and the installed models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.ollama_double.wire import JsonObject


@dataclass
class RecordedRequest:
    """One request of the journal. Times are those of time.monotonic()."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    arrived: float
    started: float | None = None
    """When the model started on it (chat and generate only)."""
    finished: float | None = None
    status: int | None = None
    """None if no part of a response was sent."""
    aborted: bool = False
    """Whether the client disconnected or the server was stopped."""


@dataclass
class InstalledModel:
    """An installed model."""

    name: str
    digest: str
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = 131072
    family: str = "llama"
    template: str = "{{ .Prompt }}"
    system: str = ""
    parameters: JsonObject = field(default_factory=dict)

    @property
    def details(self) -> JsonObject:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M",
        }

    @property
    def size(self) -> int:
        return 4_000_000_000 + int(self.digest[:8], 16)
