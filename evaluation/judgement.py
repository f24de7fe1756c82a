"""The values that judge, ledger and report exchange: a judge's settings and identity, and its attempts at a row.

Does not know how a judge is asked or where the values are stored.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, get_args

from pydantic import Field

from assistant.settings import Frozen
from evaluation.rubric import MAX_SCORE

Reason = Literal[
    "no_response",
    "response_too_long",
    "no_reference",
    "check_timeout",
    "not_judged",
    "unparsable",
    "too_long",
    "truncated",
    "incomplete",
    "server_error",
    "timeout",
    "unreachable",
]
"""Why a row has no score:

- `no_response`: the model gave no response
- `response_too_long`: the response was too long to keep
- `no_reference`: the row has nothing to compare a response with, and no rubric
- `check_timeout`: a regular expression of the row's check took too long
- `not_judged`: the judge was not asked yet
- `unparsable`: the judge's answer is not a valid verdict
- `too_long`: the row does not fit into the judge's context
- `truncated`: the server cut the prompt
- `incomplete`: the judge's answer did not end properly
- `server_error`: the server reported an error
- `timeout`: the server was silent for too long, or the answer took too long
- `unreachable`: the server did not answer at all
"""

REASONS: tuple[Reason, ...] = get_args(Reason)
WITHOUT_JUDGE: frozenset[Reason] = frozenset({"no_response", "response_too_long", "no_reference", "check_timeout"})
"""Reasons that are known before a judge is asked. No judge can give these rows a score."""
TRANSIENT: frozenset[Reason] = frozenset({"incomplete", "server_error", "timeout", "unreachable"})
"""Reasons that may not occur again. The next run asks again for these rows."""

MIN_CONTEXT = 512
"""Smallest context of a judge, in tokens. No model that can judge has a shorter one."""


class JudgeSettings(Frozen):
    """Which judge to ask, where, and how. `options` contains every setting that can change a score."""

    model: Annotated[str, Field(min_length=1)]
    url: str
    num_ctx: Annotated[int, Field(ge=MIN_CONTEXT)] = 4096
    """Tokens of prompt and verdict together. Always sent, because Ollama's own default depends on the GPU's memory."""
    num_predict: Annotated[int, Field(ge=16)] = 512
    seed: int = 123
    keep_alive: str = "10m"
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 300.0
    """Longest wait for the next part of an answer. Before the first part, the server may load the model."""
    deadline_s: float = 900.0
    """Longest time for a whole answer."""

    @property
    def options(self) -> dict[str, int | float]:
        """The `options` of every call."""
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
        """16 hex digits of all fields except the model's name. The digest identifies the model."""
        values = self.model_dump(exclude={"model"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


class Attempt(Frozen):
    """One question to the judge and its outcome: a score, or the reason why there is none."""

    score: Annotated[int, Field(ge=0, le=MAX_SCORE)] | None = None
    analysis: str | None = None
    unscored: Reason | None = None
    detail: str | None = None
    """The message of the server or of the parser."""
    final: bool = True
    """False if another attempt follows, or if the next run should ask again."""
    content: str | None = None
    """The judge's answer, word for word."""
    seed: int | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    seconds: float = 0.0
