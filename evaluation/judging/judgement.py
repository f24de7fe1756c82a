"""The values that judge, ledger and report exchange: a judge's settings and identity, and its attempts at a row.

Does not know how a judge is asked or where the values are stored.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from assistant.settings import Frozen, Settings
from evaluation.judging.verdict import POINTS_PER_SCORE

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


Api = Literal["ollama", "openai"]
"""How a judge's server is spoken to: Ollama's own calls, or OpenAI's (llama.cpp's server, LM Studio, vLLM)."""

UNVERIFIED = "unverified"
"""The digest of a model whose server names none, or the same one for every model."""


class ServerSettings(Settings):
    """How a judge's server is spoken to. The docstring under a field is the help text of its option."""

    api: Api = "ollama"
    """API of the server; openai for llama.cpp's server, LM Studio and vLLM."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Questions in flight at each server."""
    num_ctx: Annotated[int, Field(ge=MIN_CONTEXT)] = 4096
    """Context length of the judge, in tokens."""


class JudgeSettings(ServerSettings):
    """Which judge to ask, where, and how. `options` contains every setting that can change a score."""

    # num_ctx is always sent, because Ollama's own default depends on the GPU's memory.
    model: Annotated[str, Field(min_length=1)]
    urls: Annotated[tuple[str, ...], Field(min_length=1)]
    """The servers. Each has the same model; questions are spread over them."""
    num_predict: Annotated[int, Field(ge=16)] = 512
    seed: int = 123
    keep_alive: str = "10m"
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    """Longest wait for the first byte of an answer. The server may have to load the model again before it."""
    silence_timeout_s: float = 300.0
    """Longest wait for the next byte of an answer."""
    deadline_s: float = 900.0
    """Longest time for a whole answer."""
    load_timeout_s: float = 900.0
    """Longest time for the first load of the model."""

    @property
    def options(self) -> dict[str, bool | int | float]:
        """The sampling options of every call: defaults differ between servers and change scores, so all are sent."""
        return {
            "temperature": 0,
            "seed": self.seed,
            "num_ctx": self.num_ctx,
            "num_predict": self.num_predict,
            "repeat_penalty": 1.0,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_k": 40,
            "top_p": 1.0,
            "min_p": 0.0,
        }


class JudgeIdentity(Frozen):
    """What two scores must share to be comparable, and what else is known about the judge."""

    model: str
    digest: str
    """Digest of the model's manifest, or `UNVERIFIED`."""
    server_version: str
    """Does not count in the fingerprint: whether to ask again after an update is a person's choice."""
    client_version: str = ""
    options: dict[str, bool | int | float]
    """What is sent with every question. `num_ctx` does not count: a row that fits gets the same verdict."""
    rubric: str
    api: Api = "ollama"

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what a verdict depends on, besides the question itself."""
        options = {name: value for name, value in self.options.items() if name != "num_ctx"}
        values = {"digest": self.digest, "options": options, "rubric": self.rubric, "api": self.api}
        values["model"] = full_name(self.model)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def full_name(model: str) -> str:
    """Return a model's name with its tag: `llama3.1` means `llama3.1:latest`."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


class Attempt(Frozen):
    """One question to the judge and its outcome: a score, or the reason why there is none."""

    score: Annotated[float, Field(ge=0, le=100)] | None = None
    """On the scale that the judge was asked for: 0 to 5, 0 to 100, or the share of yes."""
    points: Annotated[float, Field(ge=0, le=100)] | None = None
    """The score from 0 to 100. Ledgers of older versions have only a score from 0 to 5."""
    analysis: str | None = None
    doubt: str | None = None
    """A sentence on why this score may mean little."""
    answers: tuple[bool, ...] = ()
    """The judge's answers to the questions of the row's rubric."""
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
    num_ctx: int | None = None
    """The context that the row had to fit into, in tokens. None in ledgers of older versions."""
    server_version: str | None = None
    """Version of the server that was asked. None in ledgers of older versions."""
    question: str | None = None
    """16 hex digits of the question as sent; see `calls.Question`. None in ledgers of older versions."""
    reused: bool = False
    """Whether the verdict was given in another run; `evaluation.judging.verdict_cache` has it."""
    seconds: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _add_points(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("points") is None and isinstance(values.get("score"), int):
            return values | {"points": float(values["score"] * POINTS_PER_SCORE)}
        return values
