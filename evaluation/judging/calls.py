"""What a judge asks and what a server answers: a question, its complete answer, or a `CallFailure` with its `Reason`.

Every client (`ollama_client`, `openai_client`) keeps the protocol `JudgeClient`. Failures that concern every row at a
server (no such model, no access) are errors of `assistant.errors`. This module does not know how a server is reached.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from assistant.errors import JudgeError, PrerequisiteError
from assistant.escape import encodable
from assistant.settings import Frozen
from evaluation.judging.judgement import JudgeSettings, Reason, full_name

MAX_MESSAGE_LENGTH = 500
"""Longest part of a server's message that is kept, in characters. It can be an error page."""

BUSY_RETRIES = 3
"""How often a question is asked again that the server was too busy for."""

sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
"""The pause between tries. Tests replace it."""

_CONTEXT = re.compile(r"context (?:length|size|window)|exceed_context_size", re.IGNORECASE)


class CallFailure(Exception):
    """A call gave no complete answer.

    Attributes:
        reason: Why the row has no score.
        retries: How often a failure of this kind is asked again, later in the run.
        context: The judge's context that the server names, in tokens. Only of a row that is too long.
    """

    def __init__(self, reason: Reason, detail: str, *, retries: int = 0, context: int | None = None) -> None:
        super().__init__(encodable(detail))
        self.reason: Reason = reason
        self.retries = retries
        self.context = context

    @property
    def is_silence(self) -> bool:
        """Whether the server gave no answer, or was too busy for one."""
        return self.reason in {"unreachable", "timeout"} or self.retries >= BUSY_RETRIES


class TokenLogprobs(NamedTuple):
    """A generated token, its log-probability, and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class CompleteAnswer(Frozen):
    """An answer that ended as it must. The token counts are the server's; None if it did not send them."""

    content: str
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question to a judge, as it is sent.

    Args:
        messages: Pairs of role and text.
        schema: The JSON schema of the answer. None for free text.
        seed: Seed of the sampling.
        num_predict: Longest answer, in tokens.
        top_logprobs: How many of the likeliest tokens to report at each place, up to 20.
        may_be_cut: Whether the answer may end at `num_predict`.
    """

    messages: Sequence[tuple[str, str]]
    schema: Mapping[str, Any] | None
    seed: int
    num_predict: int
    top_logprobs: int = 0
    may_be_cut: bool = False

    @property
    def hash(self) -> str:
        """16 hex digits of everything that is sent in this question alone. Equal questions have equal verdicts."""
        texts = [list(self.messages), self.schema, self.seed, self.num_predict, self.top_logprobs]
        return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]


class ServerFacts(NamedTuple):
    """What a server says about itself and the model. A version of "" is not known."""

    version: str
    digest: str


class JudgeClient(Protocol):
    """A connection to one server, for one model. Use it in one event loop, and `close` it at the end."""

    @property
    def url(self) -> str:
        """The server's address."""

    async def connect(self) -> ServerFacts:
        """Ask for the server's version and the model's digest.

        Raises:
            PrerequisiteError: no server answers, or it does not have the model; the message names the command.
            JudgeError: it is another kind of server, or access is refused.
        """

    async def load(self) -> int | None:
        """Load the model, which may take minutes. Returns the context length that it has, if the server reports it.

        Raises:
            PrerequisiteError, JudgeError: as `connect`, or the model cannot be loaded.
        """

    async def is_alive(self) -> bool:
        """Return whether the server answers at all."""

    async def ask(self, question: Question) -> CompleteAnswer:
        """Ask once.

        Raises:
            CallFailure: there is no complete answer.
            PrerequisiteError, JudgeError: a failure that concerns every row.
        """

    async def close(self) -> None:
        """Close all connections."""


# --- errors that both clients share -------------------------------------------------------------------------------


def unreachable(url: str, settings: JudgeSettings) -> PrerequisiteError:
    """Return the error for a server that does not answer."""
    if settings.api == "openai":
        return PrerequisiteError(
            f"judge: expected a server with OpenAI's API at {url}, got no answer. Start it, and check --host."
        )
    return PrerequisiteError(f"judge: expected an Ollama server at {url}, got no answer. Start it: ollama serve")


def missing_model(url: str, settings: JudgeSettings, names: Sequence[str] | None) -> PrerequisiteError:
    """Return the error for a model that the server does not have. `names` is None if its list is not known."""
    listed = f"only {', '.join(names)}" if names else "no models at all"
    actual = "no such model" if names is None else listed
    advice = (
        f"Fetch it: ollama pull {settings.model}"
        if settings.api == "ollama"
        else "Start the server with that model, or name one that it has: --judge NAME"
    )
    return PrerequisiteError(f"judge: expected the model {settings.model!r} at {url}, got {actual}. {advice}")


def refused(url: str, status: int, message: str) -> JudgeError:
    """Return the error for a server that refuses access."""
    return JudgeError(f"judge: expected access to {url}, got HTTP {status}: {message or 'no reason given'}.")


def cannot_load(url: str, settings: JudgeSettings, failure: CallFailure) -> JudgeError:
    """Return the error for a model that cannot be loaded."""
    advice = f"Try it by hand: ollama run {settings.model}" if settings.api == "ollama" else "See the server's log."
    return JudgeError(f"judge: expected {url} to load {settings.model!r}, got: {failure}. {advice}")


def on_one_line(message: object) -> str:
    """Return a server's message on one line, cut to `MAX_MESSAGE_LENGTH` characters."""
    return " ".join(encodable(str(message)).split())[:MAX_MESSAGE_LENGTH]


def quoted(data: bytes | str) -> str:
    """Return the beginning of what a server sent, as an error shows it."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    return repr(text if len(text) <= 80 else text[:79] + "…")


def too_long(message: str) -> CallFailure | None:
    """Return the failure of a prompt that does not fit, if this is what a server's message says.

    Ollama sends llama-server's error as JSON inside its own text; the numbers in it are used.
    """
    if not _CONTEXT.search(message):
        return None
    numbers: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        nested = json.loads(message)
        if isinstance(nested, dict) and isinstance(nested.get("error"), dict):
            numbers = nested["error"]
    return too_long_by(numbers) or CallFailure("too_long", on_one_line(message))


def too_long_by(error: Mapping[str, Any]) -> CallFailure | None:
    """Return the failure of a prompt that does not fit, from the numbers of llama-server's error object."""
    needed, context = error.get("n_prompt_tokens"), error.get("n_ctx")
    if type(needed) is not int or type(context) is not int:
        return None
    return CallFailure("too_long", f"{needed} tokens; the judge's context has {context}", context=context)


def has_name(model: str, names: Sequence[object]) -> bool:
    """Return whether one of the names means the model. A missing tag means `:latest`."""
    return full_name(model) in {full_name(name) for name in names if isinstance(name, str) and name}
