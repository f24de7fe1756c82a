"""What is known about a judge and what it said: the values that pass between judge, ledger and report."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, get_args

from pydantic import Field

from assistant.settings import Frozen
from evaluation.rubric import MAX_SCORE

Reason = Literal[
    "no_response",
    "not_judged",
    "unparsable",
    "too_long",
    "truncated",
    "incomplete",
    "server_error",
    "timeout",
    "unreachable",
]
"""Why a row has no score: the model gave no response; the judge was not asked yet; its answer is no verdict; the row
does not fit its context; the server cut the prompt; the answer did not end properly; the server failed; it was silent
for too long; it did not answer at all."""

REASONS: tuple[Reason, ...] = get_args(Reason)
TRANSIENT: frozenset[Reason] = frozenset({"incomplete", "server_error", "timeout", "unreachable"})
"""Reasons that may be gone at the next run, which asks again."""

LEAST_CONTEXT = 512
"""Tokens; no model that could judge has a shorter context."""


class JudgeSettings(Frozen):
    """Which judge is asked, where, and how. Everything that may change a score is in `options`."""

    model: Annotated[str, Field(min_length=1)]
    url: str
    num_ctx: Annotated[int, Field(ge=LEAST_CONTEXT)] = 4096
    """Tokens of prompt and verdict together; Ollama's own default depends on the graphics memory."""
    num_predict: Annotated[int, Field(ge=16)] = 512
    seed: int = 123
    keep_alive: str = "10m"
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 300.0
    """The longest wait for the next piece of an answer. The first comes after the model is loaded."""
    deadline_s: float = 900.0
    """The longest time for one whole answer."""

    @property
    def options(self) -> dict[str, int | float]:
        """What is sent as `options` with every call."""
        return {"temperature": 0, "seed": self.seed, "num_ctx": self.num_ctx, "num_predict": self.num_predict}


class JudgeIdentity(Frozen):
    """Everything that two scores must share to be comparable."""

    model: str
    digest: str
    server_version: str
    client_version: str
    options: dict[str, int | float]
    rubric: str

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all of it. The model's digest stands for its name."""
        values = self.model_dump(exclude={"model"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Attempt(Frozen):
    """One question to the judge and what came of it: a score, or a reason."""

    score: Annotated[int, Field(ge=0, le=MAX_SCORE)] | None = None
    analysis: str | None = None
    unscored: Reason | None = None
    detail: str | None = None
    """The server's or the parser's words."""
    final: bool = True
    """False where another attempt follows, or where the next run should ask again."""
    content: str | None = None
    """What the judge wrote, letter by letter."""
    seed: int | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    seconds: float = 0.0
