"""A test double of an Ollama server: real HTTP on loopback, scripted answers, a journal of requests.

It follows Ollama v0.30 and later as far as a judge needs it. What the models say is scripted:

    with OllamaDouble(models=("llama3.1:latest",)) as double:
        double.enqueue(busy(), verdict(4))              # for the next chat/generate requests, in order
        double.default = lambda body: verdict(3)        # for all the others
        ollama.Client(host=double.url).chat("llama3.1", [{"role": "user", "content": "Score this."}])
        assert [body["options"] for body in double.chat()] == ...

Requests that fail validation and requests that only load the model (no messages, or an empty prompt) take
nothing from the queue; the latter have a queue of their own, `enqueue_load`.

By hand: python -m tests.support.ollama_double --port 11434 --model llama3.1
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import ipaddress
import json
import re
import select
import socket
import socketserver
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from itertools import cycle
from typing import Any, ClassVar, Literal, TypeAlias

from tests.support.ollama_templates import CHATML, TemplateError, parse, render_chat

JsonObject: TypeAlias = dict[str, Any]
Behaviour: TypeAlias = "Answer | Failure | StreamError | NoDone | Cut | Hang | Stream"
Scripted: TypeAlias = "Behaviour | Callable[[JsonObject], Behaviour]"

VERSION = "0.32.15"
JSON_TYPE = "application/json; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
TEXT_TYPE = "text/plain; charset=utf-8"
HTML_TYPE = "text/html"
DEFAULT_NUM_CTX = 4096
POLL_SECONDS = 0.01
EARLY_ANSWER_BYTES = 256 * 1024  # Go's server reads at most so much of a body nobody asked for

RUNNER_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
RUNNER_OPTIONS = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "draft_num_predict",
)
INTEGER_OPTIONS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
)
FLOAT_OPTIONS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
OPTION_TYPES: dict[str, str] = {
    **dict.fromkeys(INTEGER_OPTIONS, "integer"),
    **dict.fromkeys(FLOAT_OPTIONS, "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}


# What goes over the wire ------------------------------------------------------------------------------------


def go_json(value: Any) -> bytes:
    """Encode as Go's encoding/json does: compact, UTF-8, and `<>&` escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace")


def go_quote(text: str) -> str:
    """Quote as Go's %q does (near enough for the texts used here)."""
    return json.dumps(text, ensure_ascii=False)


def rfc3339(nanoseconds: int | None = None) -> str:
    """A UTC time with nine decimals; the last is never 0, because Go would drop it and change the length."""
    ns = (time.time_ns() if nanoseconds is None else nanoseconds) | 1
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def full_name(name: str) -> str:
    """The name with its tag: `llama3.1` means `llama3.1:latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def nanoseconds(seconds: float) -> int:
    """Durations on the wire are whole nanoseconds."""
    return round(seconds * 1e9)


@dataclass
class _Reply:
    """One HTTP response: bytes to send and seconds to pause, in order."""

    steps: list[bytes | float]
    status: int = 200
    content_type: str = JSON_TYPE
    chunked: bool = False
    ending: Literal["complete", "close", "reset"] = "complete"
    length: int | None = None  # the announced Content-Length when it is not that of the bytes sent

    @property
    def body(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))


def _whole(value: Any, status: int = 200, pause: float = 0.0) -> _Reply:
    return _Reply([pause, go_json(value)], status)


def _error(status: int, text: str) -> _Reply:
    return _whole({"error": text}, status)


def _lines(values: Iterable[Any], pause: float = 0.0, between: float = 0.0) -> _Reply:
    steps: list[bytes | float] = [pause]
    for number, value in enumerate(values):
        if number and between:
            steps.append(between)
        steps.append(go_json(value) + b"\n")
    return _Reply(steps, content_type=NDJSON_TYPE, chunked=True)


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass(frozen=True)
class _Call:
    """A valid chat or generate request, as the behaviours see it."""

    body: JsonObject
    chat: bool
    model: str
    stream: bool
    num_ctx: int
    prompt: str
    alphabetical: bool
    load_seconds: float = 0.0  # what loading the model has just cost

    def line(self, content: str, *, thinking: str = "", done: bool = False, **extra: Any) -> JsonObject:
        """One response object; what is empty in `extra` is left out (omitempty)."""
        line: JsonObject = {"model": self.model, "created_at": rfc3339()}
        if self.chat:
            line["message"] = {"role": "assistant", "content": content}
            if thinking:
                line["message"]["thinking"] = thinking
        else:
            line["response"] = content
            if thinking:
                line["thinking"] = thinking
        line["done"] = done
        line.update((key, value) for key, value in extra.items() if value)
        return line

    def content_lines(self, content: str, chunk: int = 8) -> list[JsonObject]:
        return [self.line(piece) for piece in _pieces(content, chunk)]


# Behaviours -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """A complete answer, streamed in pieces of `chunk` characters or sent as one object.

    `load_seconds` is waited first and reported as `load_duration`; `delay` is the wait for the first byte and
    `between` the wait before each further line. Log-probabilities (see `token`) are sent only if the request
    asks for them. `prompt_cut` reports the prompt as cut by the rendered path: `num_ctx`/2 + 2 tokens (so is a
    prompt of more than `num_ctx` tokens by the estimate of four bytes each). `split_bytes` puts the boundaries
    of the HTTP chunks anywhere, also inside UTF-8 characters. A count of 0 is left out, as Go does.
    """

    at_model: ClassVar[bool] = True
    content: str
    logprobs: Sequence[Mapping[str, Any]] | None = None
    thinking: str = ""
    done_reason: str = "stop"
    chunk: int = 8
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    delay: float = 0.0
    between: float = 0.0
    load_seconds: float = 0.0
    prompt_cut: bool = False
    split_bytes: bool = False

    def reply(self, call: _Call) -> _Reply:
        content = _alphabetical(self.content) if call.alphabetical else self.content
        pieces = _pieces(content, self.chunk)
        logprobs = self._logprobs(call.body)
        if logprobs and "".join(entry["token"] for entry in logprobs) == content:
            pairs = [(entry["token"], [entry]) for entry in logprobs]
        else:
            pairs = [(piece, [] if number else logprobs) for number, piece in enumerate(pieces)]
        thoughts = _pieces(self.thinking, self.chunk)
        last: JsonObject = {"done_reason": self.done_reason, **self._metrics(call, len(thoughts) + len(pairs))}
        pause = self.load_seconds + self.delay
        if not call.stream:
            line = call.line(content, thinking=self.thinking, done=True, logprobs=logprobs, **last)
            return _whole(line, pause=pause)
        lines = [call.line("", thinking=thought) for thought in thoughts]
        lines += [call.line(piece, logprobs=entries) for piece, entries in pairs]
        reply = _lines([*lines, call.line("", done=True, **last)], pause, self.between)
        if self.split_bytes:
            reply.steps = [small for step in reply.steps for small in _split(step)]
        return reply

    def _metrics(self, call: _Call, chunks: int) -> dict[str, int]:
        estimate = len(call.prompt.encode("utf-8", "replace")) // 4 + 8
        prompt = estimate if self.prompt_eval_count is None else self.prompt_eval_count
        if self.prompt_cut or (self.prompt_eval_count is None and estimate > call.num_ctx):
            prompt = call.num_ctx // 2 + 2
        tokens = chunks + 1 if self.eval_count is None else self.eval_count
        load = nanoseconds(call.load_seconds + self.load_seconds) + 2_000_000
        waits = nanoseconds(self.delay + self.between * chunks) + 500_000
        return {
            "total_duration": load + waits + prompt * 100_000 + tokens * 1_000_000,
            "load_duration": load,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": prompt * 100_000,
            "eval_count": tokens,
            "eval_duration": tokens * 1_000_000,
        }

    def _logprobs(self, body: JsonObject) -> list[JsonObject]:
        if not self.logprobs or not body.get("logprobs"):
            return []
        entries = [dict(entry) for entry in self.logprobs]
        for entry in entries:
            entry.setdefault("bytes", list(entry["token"].encode()))
            top = list(entry.pop("top_logprobs", ()))[: body.get("top_logprobs") or 0]
            if top:
                entry["top_logprobs"] = top
        return entries


@dataclass(frozen=True)
class Truncated(Answer):
    """An answer stopped by num_predict: `done_reason` "length". Give it the cut text."""

    done_reason: str = "length"


@dataclass(frozen=True)
class Failure:
    """An HTTP error (or any other) response in place of an answer, sent without waiting for the model.

    A text becomes `{"error": text}`, a dict or a list is the JSON body as it is; bytes, and a text with a
    `content_type` that is not JSON, are the body itself.
    """

    at_model: ClassVar[bool] = False
    status: int
    error: str | bytes | dict[str, Any] | list[Any]
    content_type: str = JSON_TYPE
    delay: float = 0.0

    def reply(self, _: _Call) -> _Reply:
        if isinstance(self.error, bytes):
            body = self.error
        elif isinstance(self.error, str) and not self.content_type.startswith("application/json"):
            body = self.error.encode()
        else:
            body = go_json({"error": self.error} if isinstance(self.error, str) else self.error)
        return _Reply([self.delay, body], self.status, self.content_type)


@dataclass(frozen=True)
class StreamError:
    """An error after some content: HTTP 200, lines with `after`, then an error line.

    With nothing written before it (empty `after`, or `stream` false) it is an ordinary `status` + JSON.
    """

    at_model: ClassVar[bool] = True
    after: str
    error: str = f"an error was encountered while running the model: {RUNNER_DIED}"
    status: int = 500

    def reply(self, call: _Call) -> _Reply:
        if not self.after or not call.stream:
            return _error(self.status, self.error)
        return _lines([*call.content_lines(self.after), {"error": self.error}])


@dataclass(frozen=True)
class NoDone:
    """A stream that ends cleanly without `done: true`; with `stream` false, HTTP 200 with `done: false`."""

    at_model: ClassVar[bool] = True
    content: str

    def reply(self, call: _Call) -> _Reply:
        return _lines(call.content_lines(self.content)) if call.stream else _whole(call.line(self.content))


@dataclass(frozen=True)
class Cut:
    """The answer, but the TCP connection is closed after `at` bytes of the body (NDJSON or one object).

    `at` 0 sends the headers only and a negative `at` not even those; beyond the end only the mark that ends the
    chunked stream is missing. `reset` closes with RST in place of FIN.
    """

    at_model: ClassVar[bool] = True
    content: str
    at: int = 200
    reset: bool = False

    def reply(self, call: _Call) -> _Reply:
        reply = Answer(self.content).reply(call)
        body = reply.body
        reply.length = len(body) + (self.at >= len(body))
        reply.steps = [] if self.at < 0 else [body[: self.at]]
        reply.ending = "reset" if self.reset else "close"
        return reply


@dataclass(frozen=True)
class Hang:
    """Silence for so many seconds, then the connection is closed. In a stream, `after` is sent before.

    It ends early when the client goes away or the server stops.
    """

    at_model: ClassVar[bool] = True
    seconds: float
    after: str = ""

    def reply(self, call: _Call) -> _Reply:
        reply = _lines(call.content_lines(self.after) if call.stream else ())
        reply.steps.append(self.seconds)
        reply.ending = "close"
        return reply


@dataclass(frozen=True, init=False)
class Stream:
    """These NDJSON lines and nothing else; text and bytes are sent as they are, anything else as JSON."""

    at_model: ClassVar[bool] = True
    lines: tuple[Any, ...]

    def __init__(self, *lines: Any) -> None:
        object.__setattr__(self, "lines", lines)

    def reply(self, _: _Call) -> _Reply:
        raw = [line.encode() if isinstance(line, str) else line for line in self.lines]
        steps: list[bytes | float] = [(r if isinstance(r, bytes) else go_json(r)) + b"\n" for r in raw]
        return _Reply(steps, content_type=NDJSON_TYPE, chunked=True)


def verdict(score: int, analysis: str = "The answer is compared with the reference.", **answer: Any) -> Answer:
    """A judge's structured answer: a JSON object with the keys "analysis" and "score", in this order."""
    return Answer(json.dumps({"analysis": analysis, "score": score}, ensure_ascii=False), **answer)


def hashed_verdict(body: JsonObject) -> Answer:
    """A score that depends on the prompt alone, 0-5 or what the requested schema allows for "score"."""
    prompt = _prompt(body)
    number = int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:4])
    schema = body["format"] if isinstance(body.get("format"), dict) else {}
    rule = schema.get("properties", {}).get("score", {})
    low, high = rule.get("minimum", 0), rule.get("maximum", 5)
    choices = rule.get("enum") or range(int(low), int(high) + 1)
    return verdict(choices[number % len(choices)], "A verdict derived from a hash of the prompt.")


def token(text: str, logprob: float, top: Mapping[str, float] | None = None) -> JsonObject:
    """One entry of `Answer.logprobs`; `top` maps the alternatives to their log-probabilities."""
    entry: JsonObject = {"token": text, "logprob": logprob}
    if top:
        entry["top_logprobs"] = [
            {"token": other, "logprob": value, "bytes": list(other.encode())} for other, value in top.items()
        ]
    return entry


def busy() -> Failure:
    """503: the scheduler's queue is full (with the two spaces of the original)."""
    return Failure(503, "server busy, please try again.  maximum pending requests exceeded")


def missing_model(name: str) -> Failure:
    """404: the model is not installed."""
    return Failure(404, f"model '{name}' not found")


def runner_died() -> Failure:
    """500: the model's process ended."""
    return Failure(500, RUNNER_DIED)


def load_failed(reason: str = "exit status 2") -> Failure:
    """500: the model could not be loaded."""
    return Failure(500, f"llama-server process has terminated: {reason}")


def too_long_nested(n_prompt: int, n_ctx: int) -> Failure:
    """400 of the native chat path: llama-server's JSON error as a text inside Ollama's JSON error."""
    inner = {
        "code": 400,
        "message": f"request ({n_prompt} tokens) exceeds the available context size ({n_ctx} tokens), "
        "try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": n_prompt,
        "n_ctx": n_ctx,
    }
    return Failure(400, go_json({"error": inner}).decode())


def too_long() -> Failure:
    """400 of the Go-template path, when the request says that the context must not be shifted."""
    return Failure(
        400,
        "the prompt is longer than the context length currently available to the model; shorten the prompt, "
        "adjust the context length in settings, or use a model with a longer context length",
    )


def unauthorized() -> Failure:
    """401: a cloud model, and nobody is signed in."""
    return Failure(401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=x&key=y"})


def blank(status: int = 403) -> Failure:
    """An empty body; 403 is what a foreign Host header gets."""
    return Failure(status, b"", TEXT_TYPE)


def html(status: int = 502, text: str = "Bad Gateway") -> Failure:
    """The error page of some proxy."""
    return Failure(status, f"<html><body><h1>{status} {text}</h1></body></html>", HTML_TYPE)


def _alphabetical(content: str) -> str:
    try:
        value = json.loads(content)
    except ValueError:
        return content
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else content


def _split(step: bytes | float) -> Iterator[bytes | float]:
    if not isinstance(step, bytes):
        yield step
        return
    sizes = cycle((1, 2, 3, 1, 5, 7))
    while step:
        size = next(sizes)
        yield step[:size]
        step = step[size:]


def _prompt(body: JsonObject) -> str:
    if "messages" not in body:
        return f"{body.get('system') or ''}{body.get('prompt') or ''}"
    return "\n".join(str(message.get("content") or "") for message in body["messages"] or ())


# Validation -------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The request is answered with an error at once."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.reply = _error(status, text)


_GO_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _parse(raw: bytes, kind: str, fields: Mapping[str, type]) -> JsonObject:
    """The JSON body, or the 400 that Go's decoder would cause."""
    if not raw.strip():
        raise _Refused(400, "missing request body")
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        rest = raw.decode("utf-8", "replace")[position : position + 1]
        text = f"invalid character '{rest}' looking for beginning of value" if rest else "unexpected EOF"
        raise _Refused(400, text) from None
    if not isinstance(body, dict):
        name = _GO_KINDS.get(type(body), "null")
        raise _Refused(400, f"json: cannot unmarshal {name} into Go value of type api.{kind}")
    for key, wanted in fields.items():
        value = body.get(key)
        if value is not None and type(value) is not wanted:
            name = _GO_KINDS[type(value)]
            raise _Refused(400, f"json: cannot unmarshal {name} into Go struct field {kind}.{key}")
    return body


def _keep_alive(value: Any) -> float:
    """Seconds; infinity for a negative value."""
    if value is None:
        return 300.0
    if isinstance(value, str):
        number = r"[0-9]*\.?[0-9]+|[0-9]+\."
        if value.lstrip("+-") == "0":
            return 0.0
        if re.fullmatch(rf"[-+]?({number})", value):
            raise _Refused(400, f"time: missing unit in duration {go_quote(value)}")
        if not re.fullmatch(rf"[-+]?(({number})(ns|us|µs|ms|s|m|h))+", value):
            raise _Refused(400, f"time: invalid duration {go_quote(value)}")
        parts = re.findall(rf"({number})(ns|us|µs|ms|s|m|h)", value)
        value = sum(float(amount) * _UNITS[unit] for amount, unit in parts) * (-1 if value[0] == "-" else 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused(400, f"Unsupported type: '{_GO_KINDS.get(type(value), 'nil')}'")
    return float("inf") if value < 0 else float(value)


def _check_think(think: Any) -> None:
    levels = '"high", "medium", "low", "max", true, or false'
    if isinstance(think, str) and think not in ("low", "medium", "high", "max"):
        raise _Refused(400, f"invalid think value: {go_quote(think)} (must be {levels})")
    if not (think is None or isinstance(think, bool | str)):
        raise _Refused(400, f"think must be a boolean or string ({levels})")


def _check_options(options: Mapping[str, Any]) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "integer": (int, float),
        "float32": (int, float),
        "boolean": (bool,),
        "array": (list,),
    }
    for key, value in options.items():
        kind = OPTION_TYPES.get(key)
        if kind is None or value is None:  # an unknown option is ignored
            continue
        if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise _Refused(500, f"option {go_quote(key)} must be of type {kind}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise _Refused(500, f"option {go_quote(key)} must be of an array of strings")


def _check_format(raw: Any) -> None:
    if raw in (None, "", "json") or isinstance(raw, dict):
        return
    quoted = go_quote(json.dumps(raw, ensure_ascii=False))
    raise _Refused(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


# The server -------------------------------------------------------------------------------------------------


@dataclass
class RecordedRequest:
    """One request of the journal; the times are of time.monotonic()."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    started: float
    begun: float | None = None  # when the model took it up (chat and generate only)
    finished: float | None = None
    status: int | None = None  # None: no response was begun
    aborted: bool = False  # the client went away, or the server was stopped


@dataclass
class InstalledModel:
    """What the double knows about a model."""

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


@dataclass
class _Loaded:
    options: tuple[Any, ...]
    num_ctx: int
    expires: float


class _Gate:
    """The model's slots: requests run in the order of their arrival, `width` at a time."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._tickets: deque[object] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self.most = 0

    @contextlib.contextmanager
    def slot(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a slot and hold it; `check` raises when the wait has become pointless."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        try:
            with self._changed:
                while self._tickets.index(ticket) >= self._width:
                    self._changed.wait(POLL_SECONDS)
                    check()
                self._running += 1
                self.most = max(self.most, self._running)
            try:
                yield
            finally:
                with self._changed:
                    self._running -= 1
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()


class _Abandoned(Exception):
    """The client went away, or the server is being stopped."""


class OllamaDouble:
    """An Ollama server on loopback: `with OllamaDouble(models=("llama3.1:latest",)) as double: double.url`.

    `models` may map the names to their capabilities; `registry` names what can be pulled besides. `default` is
    used when nothing is enqueued: a behaviour, or a function of the request's body that returns one. Every cold
    load costs `load_seconds`, also one caused by changed runner options; `loads` lists them. `alphabetical_keys`
    re-orders the keys of structured answers as the native chat path does. `requests` is the journal,
    `max_in_flight` the most chat and generate requests that were ever unanswered at once, waiting ones included.
    """

    def __init__(
        self,
        models: Sequence[str] | Mapping[str, Sequence[str]] = ("llama3.1:latest",),
        *,
        port: int = 0,
        default: Scripted | None = None,
        registry: Sequence[str] = (),
        load_seconds: float = 0.0,
        num_parallel: int = 1,
        alphabetical_keys: bool = False,
    ) -> None:
        self.default: Scripted = Answer("OK") if default is None else default
        self.requests: list[RecordedRequest] = []
        self.max_in_flight = 0
        self.loads: list[str] = []
        self.errors: list[str] = []
        self.models: dict[str, InstalledModel] = {}
        self.blobs: dict[str, bytes] = {}
        self.registry = {full_name(name) for name in registry}
        self.load_seconds = load_seconds
        self.num_parallel = num_parallel
        self.alphabetical_keys = alphabetical_keys
        self.lock = threading.Lock()
        self._port = port
        self._queue: deque[Scripted] = deque()
        self._load_queue: deque[Scripted] = deque()
        self._in_flight: dict[int, socket.socket] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._gates: dict[str, _Gate] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        for name in models:
            self.install(name, *(models[name] if isinstance(models, Mapping) else ()))

    # For tests

    @property
    def url(self) -> str:
        """The base URL; the port stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def max_running(self) -> int:
        """The most requests that any one model executed at once."""
        return max((gate.most for gate in self._gates.values()), default=0)

    def chat(self) -> list[JsonObject]:
        """The bodies of POST /api/chat in order, loads (`messages` empty) included."""
        chats = [request for request in list(self.requests) if request.path == "/api/chat"]
        return [request.body for request in chats if isinstance(request.body, dict)]

    def enqueue(self, *behaviours: Scripted) -> None:
        """Use these for the next valid chat and generate requests, in order of arrival."""
        with self.lock:
            self._queue.extend(behaviours)

    def enqueue_load(self, *behaviours: Scripted) -> None:
        """Use these for the next requests that only load (or unload) a model."""
        with self.lock:
            self._load_queue.extend(behaviours)

    @property
    def pending(self) -> int:
        """How many enqueued behaviours are not used yet."""
        return len(self._queue) + len(self._load_queue)

    def install(self, name: str, *capabilities: str, digest: str | None = None, **known: Any) -> InstalledModel:
        """Add or replace a model; its digest is derived from its name unless given."""
        name = full_name(name)
        digest = digest or hashlib.sha256(name.encode()).hexdigest()
        model = InstalledModel(name, digest, capabilities or ("completion",), **known)
        self.models[name] = model
        return model

    def remove(self, name: str) -> None:
        """Remove a model, as `ollama rm` does."""
        del self.models[full_name(name)]
        self._loaded.pop(full_name(name), None)

    def __enter__(self) -> OllamaDouble:
        self.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        self.stop()
        if self.errors:
            text = "the double failed: " + "; ".join(self.errors)
            if error is None:
                raise AssertionError(text)
            error.add_note(text)

    def start(self) -> None:
        """Listen, on the same port as before. Script and journal go on; no model is loaded."""
        if self._server is not None and not self._server.stopping.is_set():
            return
        self._loaded.clear()
        self._server = server = _Server(("127.0.0.1", self._port), self)
        self._port = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, args=(POLL_SECONDS / 2,), name="double", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse new connections, cut the open ones and wait for every thread; allowed inside a behaviour."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        if not server.stopping.is_set():
            server.stopping.set()
            server.shutdown()
            server.server_close()
            thread.join()
        if not server.cut_all(timeout=5.0):
            self.errors.append("a thread of the double did not end")

    # For the handler

    def arrive(self, request: RecordedRequest, connection: socket.socket) -> None:
        """Journal a request, and count it while it is in flight if it is for a model."""
        with self.lock:
            self.requests.append(request)
            if request.method == "POST" and request.path in ("/api/chat", "/api/generate"):
                self._in_flight[id(request)] = connection
                alive = sum(not _hung_up(other) for other in self._in_flight.values())
                self.max_in_flight = max(self.max_in_flight, alive)

    def leave(self, request: RecordedRequest) -> None:
        """The request is finished: called just before its last byte, lest the client be faster."""
        with self.lock:
            self._in_flight.pop(id(request), None)
            if request.finished is None:
                request.finished = time.monotonic()

    def next_behaviour(self, body: JsonObject, *, load: bool) -> Behaviour | None:
        """The behaviour for a request, None for an ordinary load."""
        with self.lock:
            queue = self._load_queue if load else self._queue
            scripted = queue.popleft() if queue else None if load else self.default
        return scripted(body) if callable(scripted) else scripted

    def gate(self, name: str) -> _Gate:
        with self.lock:
            return self._gates.setdefault(name, _Gate(self.num_parallel))

    def load(self, name: str, options: Mapping[str, Any], num_ctx: int, keep_alive: float) -> float:
        """Load the model unless it is loaded with the same runner options; the seconds this costs."""
        runner = tuple(options.get(key) for key in RUNNER_OPTIONS)
        now = time.monotonic()
        with self.lock:
            loaded = self._loaded.get(name)
            warm = loaded is not None and loaded.options == runner and loaded.expires > now
            self._loaded[name] = _Loaded(runner, num_ctx, now + keep_alive)
            if not warm:
                self.loads.append(name)
        return 0.0 if warm else self.load_seconds

    def unload(self, name: str) -> None:
        with self.lock:
            self._loaded.pop(name, None)

    def running(self) -> list[JsonObject]:
        """The entries of /api/ps."""
        now = time.monotonic()
        with self.lock:
            loaded = [(name, entry) for name, entry in self._loaded.items() if entry.expires > now]
        return [
            {
                "name": name,
                "model": name,
                "size": model.size,
                "digest": model.digest,
                "details": model.details,
                "expires_at": rfc3339(time.time_ns() + nanoseconds(min(entry.expires - now, 9e9))),
                "size_vram": model.size,
                "context_length": entry.num_ctx,
            }
            for name, entry in loaded
            if (model := self.models.get(name)) is not None
        ]


def _hung_up(connection: socket.socket) -> bool:
    """Whether the peer has closed its side (nothing else may be reading the socket meanwhile)."""
    try:
        if not select.select([connection], [], [], 0)[0]:
            return False
        return connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


class _Server(socketserver.TCPServer):
    """Accepts connections, each with a thread of its own that `cut_all` can end."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], double: OllamaDouble) -> None:
        self.double = double
        self.stopping = threading.Event()
        self.resets: set[socket.socket] = set()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._run, args=(request, client_address), daemon=True)
        thread.start()
        with self._lock:
            self._open = {known: open_ for known, open_ in self._open.items() if known.is_alive()}
            self._open[thread] = request

    def _run(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client is gone
        except Exception as error:  # noqa: BLE001 - told at the end of the test
            self.double.errors.append(repr(error))
        finally:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        if request in self.resets:
            self.resets.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def cut_all(self, timeout: float) -> bool:
        """Cut the open connections and join their threads; whether all have ended."""
        with self._lock:
            threads = [thread for thread in self._open if thread is not threading.current_thread()]
            for connection in self._open.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def setup(self) -> None:
        super().setup()
        self.double = self.server.double

    # Input

    def _serve(self) -> None:
        self.path = self.path.partition("?")[0]
        self.body_read = self.lingering = False
        self.request_record = record = RecordedRequest(
            self.command, self.path, dict(self.headers.items()), None, time.monotonic()
        )
        is_blob = self.path.startswith("/api/blobs/")
        raw = b"" if is_blob else self._read_body()
        if raw:
            with contextlib.suppress(ValueError):
                record.body = json.loads(raw)
        self.double.arrive(record, self.connection)
        try:
            self._check()
            self._send_or_run(raw)
        except (_Abandoned, OSError):
            record.aborted = True
            self.close_connection = True
        finally:
            self.double.leave(record)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _serve

    def _read_body(self) -> bytes:
        self.body_read = True
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    # Output

    def _check(self) -> None:
        if self.server.stopping.is_set() or _hung_up(self.connection):
            raise _Abandoned

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.server.stopping.wait(min(left, POLL_SECONDS))
            self._check()

    def _send(self, reply: _Reply, last: Callable[[], None] = lambda: None) -> None:
        """Send the reply; `last` is called just before the last byte."""
        steps = [*reply.steps]
        if reply.ending == "complete" and not any(isinstance(step, bytes) for step in steps):
            steps.append(b"")
        head = self._head(reply)
        final = max((index for index, step in enumerate(steps) if isinstance(step, bytes)), default=None)
        for index, step in enumerate(steps):
            if not isinstance(step, bytes):
                self._pause(step)
                continue
            at_end = reply.ending == "complete" and index == final
            data = _chunk(step, last=at_end) if reply.chunked else step
            if at_end:
                last()
                self.double.leave(self.request_record)
            self.request_record.status = reply.status
            self.wfile.write(head + (b"" if self.command == "HEAD" else data))
            head = b""
        if reply.ending != "complete":
            last()
            self.double.leave(self.request_record)
            self.close_connection = True
        if reply.ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.resets.add(self.connection)

    def _head(self, reply: _Reply) -> bytes:
        length = len(reply.body) if reply.length is None else reply.length
        reason = self.responses.get(reply.status, ("",))[0]
        lines = [f"HTTP/1.1 {reply.status} {reason}", f"Date: {formatdate(usegmt=True)}"]
        if reply.content_type:
            lines.append(f"Content-Type: {reply.content_type}")
        lines.append("Transfer-Encoding: chunked" if reply.chunked else f"Content-Length: {length}")
        if self.close_connection:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    # Routes

    def _send_or_run(self, raw: bytes) -> None:
        try:
            reply = self._route(raw)
        except _Refused as refused:
            reply = refused.reply
        if reply is not None:
            self._send(reply)
        if self.lingering:  # as Go does, lest the reset overtake the response
            self.connection.shutdown(socket.SHUT_WR)
            self.server.stopping.wait(0.1)

    def _route(self, raw: bytes) -> _Reply | None:
        if not _allowed_host(self.headers.get("Host", "")):
            return _Reply([b""], 403, "")
        routes: dict[str, dict[str, Callable[[bytes], _Reply | None]]] = {
            "/": {"GET": self._root},
            "/api/version": {"GET": lambda _: _whole({"version": VERSION})},
            "/api/tags": {"GET": self._tags},
            "/api/ps": {"GET": lambda _: _whole({"models": self.double.running()})},
            "/api/show": {"POST": self._show},
            "/api/chat": {"POST": self._chat},
            "/api/generate": {"POST": self._generate},
            "/api/pull": {"POST": self._pull},
            "/api/create": {"POST": self._create},
            "/api/delete": {"DELETE": self._delete},
        }
        if re.fullmatch(r"/api/blobs/[^/]+", self.path):
            verbs: dict[str, Callable[[bytes], _Reply | None]] = {
                "HEAD": self._has_blob,
                "POST": self._put_blob,
            }
        else:
            verbs = routes.get(self.path, {})
            if "GET" in verbs and self.path != "/api/ps":
                verbs = {**verbs, "HEAD": verbs["GET"]}
        if self.command not in verbs:
            if not self.body_read:
                self.close_connection = True
            if verbs:
                return _Reply([b"405 method not allowed"], 405, "text/plain")
            return _Reply([b"404 page not found"], 404, "text/plain")
        return verbs[self.command](raw)

    def _root(self, _: bytes) -> _Reply:
        return _Reply([b"Ollama is running"], content_type=TEXT_TYPE)

    def _tags(self, _: bytes) -> _Reply:
        models = [
            {
                "name": model.name,
                "model": model.name,
                "modified_at": "2026-08-21T10:00:00.123456789Z",
                "size": model.size,
                "digest": model.digest,
                "details": model.details,
                "capabilities": list(model.capabilities),
            }
            for model in list(self.double.models.values())
        ]
        return _whole({"models": models})

    def _show(self, raw: bytes) -> _Reply:
        body = _parse(raw, "ShowRequest", {"model": str, "name": str})
        name = body.get("model") or body.get("name")
        if not name:
            raise _Refused(400, "model is required")
        model = self.double.models.get(full_name(name))
        if model is None:
            raise _Refused(404, f"model '{full_name(name)}' not found")
        parameters = "\n".join(f"{key:<30} {json.dumps(value)}" for key, value in model.parameters.items())
        shown = {
            "modelfile": f"FROM {model.name}\n",
            "parameters": parameters,
            "template": model.template,
            "system": model.system,
        }
        return _whole(
            {
                **{key: value for key, value in shown.items() if value},
                "details": model.details,
                "model_info": {
                    "general.architecture": model.family,
                    f"{model.family}.context_length": model.context_length,
                },
                "capabilities": list(model.capabilities),
                "modified_at": "2026-08-21T10:00:00.123456789Z",
            }
        )

    def _delete(self, raw: bytes) -> _Reply:
        body = _parse(raw, "DeleteRequest", {"model": str, "name": str})
        name = body.get("model") or body.get("name") or ""
        if full_name(name) not in self.double.models:
            raise _Refused(404, f"model '{name}' not found")
        self.double.remove(name)
        return _Reply([b""], content_type="")

    # Chat and generate

    def _chat(self, raw: bytes) -> None:
        fields = {"model": str, "messages": list, "stream": bool, "options": dict, "logprobs": bool}
        body = _parse(raw, "ChatRequest", {**fields, "top_logprobs": int})
        if not all(isinstance(message, dict) for message in body.get("messages") or ()):
            raise _Refused(400, "json: cannot unmarshal string into Go struct field ChatRequest.messages")
        self._complete(body, chat=True)

    def _generate(self, raw: bytes) -> None:
        fields = {"model": str, "prompt": str, "system": str, "stream": bool, "options": dict, "raw": bool}
        body = _parse(raw, "GenerateRequest", {**fields, "logprobs": bool, "top_logprobs": int})
        self._complete(body, chat=False)

    def _complete(self, body: JsonObject, *, chat: bool) -> None:
        """Validate in the order of the original, then let the scripted behaviour answer."""
        keep_alive = _keep_alive(body.get("keep_alive"))
        _check_think(body.get("think"))
        if not 0 <= (body.get("top_logprobs") or 0) <= 20:
            raise _Refused(400, "top_logprobs must be between 0 and 20")
        sent_name: str = body.get("model") or ""
        if not sent_name and chat:
            raise _Refused(400, "model is required")
        name = full_name(sent_name)
        model = self.double.models.get(name)
        if model is None:
            raise _Refused(404, f"model '{sent_name}' not found")
        if body.get("raw") and any(body.get(key) for key in ("template", "system", "context")):
            raise _Refused(400, "raw mode does not support template, system, or context")
        load = not (body.get("messages") if chat else body.get("prompt"))
        if not load or keep_alive:
            self._check_capabilities(model, sent_name, body, chat=chat)
        options = {**model.parameters, **(body.get("options") or {})}
        _check_options(options)
        if not load:
            _check_format(body.get("format"))
        call = _Call(
            body=body,
            chat=chat,
            model=sent_name,
            stream=body.get("stream") is not False,
            num_ctx=min(int(options.get("num_ctx") or DEFAULT_NUM_CTX), model.context_length),
            prompt=_prompt(body),
            alphabetical=self.double.alphabetical_keys and isinstance(body.get("format"), dict),
        )
        if body.get("_debug_render_only") and chat and not load:
            info = {"rendered_template": render_chat(model.template or CHATML, body["messages"])}
            line = {"model": sent_name, "created_at": rfc3339(), "message": {"role": "", "content": ""}, "done": False}
            self._send(_whole({**line, "_debug_info": info}))
            return
        behaviour = self.double.next_behaviour(body, load=load)
        if behaviour is not None and not behaviour.at_model:
            self._send(behaviour.reply(call))
            return

        def finish() -> None:
            if keep_alive == 0:
                self.double.unload(name)

        with self.double.gate(name).slot(self._check):
            self.request_record.begun = time.monotonic()
            if load and keep_alive == 0:
                self._send(_whole(call.line("", done=True, done_reason="unload")), finish)
                return
            seconds = self.double.load(name, options, call.num_ctx, keep_alive)
            self._pause(seconds)
            if behaviour is None:
                reply = _whole(call.line("", done=True, done_reason="load"))
            else:
                reply = behaviour.reply(replace(call, load_seconds=seconds))
            self._send(reply, finish)

    def _check_capabilities(self, model: InstalledModel, name: str, body: JsonObject, *, chat: bool) -> None:
        wanted = [("completion", "chat" if chat else "generate")]
        wanted += [("tools", "tools")] if body.get("tools") else []
        wanted += [("thinking", "thinking")] if body.get("think") else []
        for capability, text in wanted:
            if capability not in model.capabilities:
                raise _Refused(400, f"{go_quote(name)} does not support {text}")

    # Pull, blobs, create

    def _progress(self, body: JsonObject, lines: list[JsonObject], error: tuple[int, str] | None = None) -> _Reply:
        """Status lines, then perhaps an error, which has its own status only while nothing is written."""
        if body.get("stream") is False or not lines:
            return _error(*error) if error else _whole(lines[-1])
        return _lines([*lines, {"error": error[1]}] if error else lines)

    def _pull(self, raw: bytes) -> _Reply:
        body = _parse(raw, "PullRequest", {"model": str, "name": str, "stream": bool})
        name = body.get("model") or body.get("name")
        if not name:
            raise _Refused(400, "invalid model name")
        lines: list[JsonObject] = [{"status": "pulling manifest"}]
        name = full_name(name)
        if name not in self.double.models and name not in self.double.registry:
            return self._progress(body, lines, (500, "pull model manifest: file does not exist"))
        model = self.double.models.get(name) or self.double.install(name)
        layer = hashlib.sha256(model.digest.encode()).hexdigest()
        for completed in (0, model.size // 2, model.size):
            line = {"status": f"pulling {layer[:12]}", "digest": f"sha256:{layer}", "total": model.size}
            lines.append({**line, "completed": completed} if completed else line)
        lines += [{"status": text} for text in ("verifying sha256 digest", "writing manifest", "success")]
        return self._progress(body, lines)

    def _blob_digest(self) -> str:
        digest = self.path.rpartition("/")[2]
        if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
            self.close_connection = self.close_connection or not self.body_read
            raise _Refused(400, "invalid digest format")
        return digest

    def _has_blob(self, _: bytes) -> _Reply:
        known = self._blob_digest().replace("-", ":") in self.double.blobs
        return _Reply([b""], 200 if known else 404, "")

    def _put_blob(self, _: bytes) -> _Reply:
        digest = self._blob_digest()
        if digest.replace("-", ":") in self.double.blobs:
            length = self.headers.get("Content-Length")
            if length is not None and int(length) <= EARLY_ANSWER_BYTES:
                self._read_body()
            else:
                self.close_connection = self.lingering = True  # the body is not read
            return _Reply([b""], 200, "")
        data = self._read_body()
        true = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.double.blobs[true] = data
        if true != digest:
            raise _Refused(400, f"digest mismatch, expected {go_quote(digest)}, got {go_quote(true)}")
        return _Reply([b""], 201, "")

    def _create(self, raw: bytes) -> _Reply:
        fields = {
            "model": str,
            "from": str,
            "files": dict,
            "template": str,
            "system": str,
            "parameters": dict,
        }
        body = _parse(raw, "CreateRequest", {**fields, "stream": bool})
        name = body.get("model") or body.get("name") or ""
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*(:[\w.-]+)?", name):
            raise _Refused(400, "invalid model name")
        files: dict[str, str] = body.get("files") or {}
        for path, digest in files.items():
            if path.startswith(("/", "./")) or ".." in path.split("/"):
                raise _Refused(400, "file path must be relative")
            if not digest:
                raise _Refused(400, "invalid digest format")
        lines: list[JsonObject] = []
        known: JsonObject = {}
        capabilities: tuple[str, ...] = ()
        layers: list[str] = []
        if body.get("from"):
            base = self.double.models.get(full_name(body["from"]))
            if base is None:
                lines.append({"status": "pulling manifest"})
                return self._progress(body, lines, (500, "pull model manifest: file does not exist"))
            capabilities = base.capabilities
            known = {"context_length": base.context_length, "family": base.family}
            known |= {"template": base.template, "system": base.system, "parameters": dict(base.parameters)}
            layers.append(f"sha256:{hashlib.sha256(base.digest.encode()).hexdigest()}")
            lines.append({"status": f"using existing layer {layers[0]}"})
        elif files:
            path, digest = next(iter(files.items()))
            data = self.double.blobs.get(digest)
            if path.endswith(".safetensors"):
                lines.append({"status": "converting model"})
                return self._progress(body, lines, (500, 'unsupported architecture "GPT2LMHeadModel"'))
            if not path.endswith(".gguf") and not (data or b"").startswith(b"GGUF"):
                return self._progress(body, lines, (400, "unknown type"))
            lines.append({"status": "parsing GGUF"})
            if data is None:
                missing = f"open /models/blobs/{digest.replace(':', '-')}: no such file or directory"
                return self._progress(body, lines, (500, missing))
            if not data.startswith(b"GGUF"):
                return self._progress(body, lines, (400, "supplied file was not in GGUF format"))
            known = {"context_length": 1024, "family": "gpt2", "template": ""}
            layers.append(f"sha256:{hashlib.sha256(data + b'copy').hexdigest()}")
            step = {"status": "validating GGUF model", "digest": "0000000000000000000", "total": len(data)}
            lines += [{**step, "completed": done} for done in (len(data) // 2, len(data)) if done]
            lines += [{"status": "verifying conversion"}, {"status": f"creating new layer {layers[0]}"}]
        else:
            return self._progress(body, lines, (400, "neither 'from' or 'files' was specified"))
        template = body.get("template") or ""
        try:
            parse(template)
        except TemplateError as error:
            return self._progress(body, lines, (400, f"template error: {error}"))
        for key in ("template", "system", "parameters"):
            if value := body.get(key):
                known[key] = {**known.get(key, {}), **value} if key == "parameters" else value
                layers.append(f"sha256:{hashlib.sha256(go_json(known[key])).hexdigest()}")
                lines.append({"status": f"creating new layer {layers[-1]}"})
        lines += [{"status": "writing manifest"}, {"status": "success"}]
        manifest = hashlib.sha256(" ".join(layers).encode()).hexdigest()
        self.double.install(name, *capabilities, digest=manifest, **known)
        return self._progress(body, lines)


def _chunk(data: bytes, *, last: bool) -> bytes:
    framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return framed + b"0\r\n\r\n" if last else framed


def _allowed_host(header: str) -> bool:
    """A server on loopback refuses host names that could be someone else's (DNS rebinding)."""
    host = header.rsplit(":", 1)[0] if re.search(r":\d+$", header) else header
    host = host.strip("[]").lower()
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve hashed verdicts until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.ollama_double", description=main.__doc__)
    parser.add_argument("--port", type=int, default=11434, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--model", action="append", help="an installed model; may be repeated (llama3.1)")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="what a cold load costs")
    chosen = parser.parse_args(arguments)
    with OllamaDouble(
        chosen.model or ("llama3.1",),
        port=chosen.port,
        default=hashed_verdict,
        load_seconds=chosen.load_seconds,
    ) as double:
        print(double.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
