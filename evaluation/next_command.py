"""A command that is worth typing next, as reports and checks propose it."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_JUDGE = "llama3.1"
N_LABELS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A command line, and in a few words what it is good for."""

    command: str
    purpose: str
