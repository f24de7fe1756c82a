"""Behaviours of the double: how it answers one chat or generate request, well or badly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, ClassVar, TypeAlias

from tests.support.ollama_double.wire import (
    HTML_TYPE,
    JSON_TYPE,
    NDJSON_TYPE,
    PLAIN_JSON_TYPE,
    TEXT_TYPE,
    Call,
    HttpReply,
    JsonObject,
    error_reply,
    go_json,
    json_reply,
    nanoseconds,
    ndjson_reply,
    prompt_of,
    text_pieces,
)

Behaviour: TypeAlias = "Answer | Failure | StreamError | NoDone | Cut | Hang | Stream"
"""`at_model` is True if the request waits for the model, and False if the server answers at once."""
Scripted: TypeAlias = "Behaviour | Callable[[JsonObject], Behaviour]"

RUNNER_DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


@dataclass(frozen=True)
class Answer:
    """A complete answer, streamed in pieces of `chunk` characters or sent as one object.

    A count of 0 is left out, as Go does.
    """

    at_model: ClassVar[bool] = True
    content: str
    logprobs: Sequence[Mapping[str, Any]] | None = None
    """Entries made by `token`. Sent only if the request asks for them."""
    thinking: str = ""
    done_reason: str = "stop"
    chunk: int = 8
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    delay: float = 0.0
    """Seconds before the first byte."""
    between: float = 0.0
    """Seconds before each further line."""
    load_seconds: float = 0.0
    """Seconds before `delay`, reported as `load_duration`."""
    prompt_cut: bool = False
    """Report the prompt as cut by the rendered path: `num_ctx`/2 + 2 tokens, and `num_ctx` before 0.30. Without
    `prompt_eval_count`, this also applies to a prompt that is longer than `num_ctx`, estimated at four bytes per
    token."""
    split_bytes: bool = False
    """Put the boundaries of the HTTP chunks anywhere, even inside UTF-8 characters."""

    def reply(self, call: Call) -> HttpReply:
        content = _alphabetical(self.content) if call.alphabetical else self.content
        pieces = text_pieces(content, self.chunk)
        logprobs = self._logprobs(call.body)
        if logprobs and "".join(entry["token"] for entry in logprobs) == content:
            pairs = [(entry["token"], [entry]) for entry in logprobs]
        else:
            pairs = [(piece, [] if number else logprobs) for number, piece in enumerate(pieces)]
        thoughts = text_pieces(self.thinking, self.chunk)
        last: JsonObject = {"done_reason": self.done_reason, **self._metrics(call, len(thoughts) + len(pairs))}
        pause = self.load_seconds + self.delay
        if not call.stream:
            line = call.line(content, thinking=self.thinking, done=True, logprobs=logprobs, **last)
            return json_reply(line, pause=pause)
        lines = [call.line("", thinking=thought) for thought in thoughts]
        lines += [call.line(piece, logprobs=entries) for piece, entries in pairs]
        reply = ndjson_reply([*lines, call.line("", done=True, **last)], pause, self.between)
        if self.split_bytes:
            reply.steps = [part for step in reply.steps for part in _split(step)]
        return reply

    def _metrics(self, call: Call, chunks: int) -> dict[str, int]:
        estimate = len(call.prompt.encode("utf-8", "replace")) // 4 + 8
        prompt = estimate if self.prompt_eval_count is None else self.prompt_eval_count
        if self.prompt_cut or (self.prompt_eval_count is None and estimate > call.num_ctx):
            prompt = call.num_ctx if call.is_old else call.num_ctx // 2 + 2
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
    """An answer that num_predict has cut: `done_reason` is "length". `content` is the cut text."""

    done_reason: str = "length"


@dataclass(frozen=True)
class Failure:
    """An HTTP error (or any other response) instead of an answer. It does not wait for the model.

    A text becomes `{"error": text}`. A dict or a list is the JSON body. Bytes are the raw body, and so is a text whose
    `content_type` is not JSON.
    """

    at_model: ClassVar[bool] = False
    status: int
    error: str | bytes | dict[str, Any] | list[Any]
    content_type: str = JSON_TYPE
    delay: float = 0.0

    def reply(self, _: Call) -> HttpReply:
        if isinstance(self.error, bytes):
            body = self.error
        elif isinstance(self.error, str) and not self.content_type.startswith("application/json"):
            body = self.error.encode()
        else:
            body = go_json({"error": self.error} if isinstance(self.error, str) else self.error)
        return HttpReply([self.delay, body], self.status, self.content_type)


@dataclass(frozen=True)
class StreamError:
    """An error after some content: HTTP 200, lines with `after`, then an error line.

    If nothing was sent before (empty `after`, or `stream` false), it is an ordinary HTTP error with `status`.
    """

    at_model: ClassVar[bool] = True
    after: str
    error: str = f"an error was encountered while running the model: {RUNNER_DIED}"
    status: int = 500

    def reply(self, call: Call) -> HttpReply:
        if not self.after or not call.stream:
            return error_reply(self.status, self.error)
        return ndjson_reply([*call.content_lines(self.after), {"error": self.error}])


@dataclass(frozen=True)
class NoDone:
    """A stream that ends cleanly without `done: true`. With `stream` false: HTTP 200 with `done: false`."""

    at_model: ClassVar[bool] = True
    content: str

    def reply(self, call: Call) -> HttpReply:
        return ndjson_reply(call.content_lines(self.content)) if call.stream else json_reply(call.line(self.content))


@dataclass(frozen=True)
class Cut:
    """An answer whose TCP connection is closed after `at` bytes of the body (NDJSON or one object).

    With `at` 0, only the headers are sent; with a negative `at`, nothing. If `at` is beyond the end, only the end mark
    of the chunked stream is missing. `reset` closes with RST instead of FIN.
    """

    at_model: ClassVar[bool] = True
    content: str
    at: int = 200
    reset: bool = False

    def reply(self, call: Call) -> HttpReply:
        reply = Answer(self.content).reply(call)
        body = reply.body
        reply.length = len(body) + (self.at >= len(body))
        reply.steps = [] if self.at < 0 else [body[: self.at]]
        reply.ending = "reset" if self.reset else "close"
        return reply


@dataclass(frozen=True)
class Hang:
    """Silence for `seconds`, then a closed connection. In a stream, `after` is sent first.

    It ends early if the client disconnects or the server stops.
    """

    at_model: ClassVar[bool] = True
    seconds: float
    after: str = ""

    def reply(self, call: Call) -> HttpReply:
        reply = ndjson_reply(call.content_lines(self.after) if call.stream else ())
        reply.steps.append(self.seconds)
        reply.ending = "close"
        return reply


@dataclass(frozen=True, init=False)
class Stream:
    """Exactly these NDJSON lines. Text and bytes are sent unchanged, other values as JSON."""

    at_model: ClassVar[bool] = True
    lines: tuple[Any, ...]

    def __init__(self, *lines: Any) -> None:
        object.__setattr__(self, "lines", lines)

    def reply(self, _: Call) -> HttpReply:
        encoded = [line.encode() if isinstance(line, str) else line for line in self.lines]
        steps: list[bytes | float] = [(line if isinstance(line, bytes) else go_json(line)) + b"\n" for line in encoded]
        return HttpReply(steps, content_type=NDJSON_TYPE, chunked=True)


def verdict(score: int, analysis: str = "The answer is compared with the reference.", **answer: Any) -> Answer:
    """Return a judge's structured answer: a JSON object with the keys "analysis" and "score", in this order."""
    return Answer(json.dumps({"analysis": analysis, "score": score}, ensure_ascii=False), **answer)


def hashed_verdict(body: JsonObject) -> Answer:
    """Return a verdict that depends only on the prompt: 0 to 5, or a score that the requested schema allows."""
    prompt = prompt_of(body)
    number = int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:4])
    schema = body["format"] if isinstance(body.get("format"), dict) else {}
    rule = schema.get("properties", {}).get("score", {})
    low, high = rule.get("minimum", 0), rule.get("maximum", 5)
    choices = rule.get("enum") or range(int(low), int(high) + 1)
    return verdict(choices[number % len(choices)], "A verdict derived from a hash of the prompt.")


def token(text: str, logprob: float, top: Mapping[str, float] | None = None) -> JsonObject:
    """Return one entry of `Answer.logprobs`. `top` maps alternative tokens to their log-probabilities."""
    entry: JsonObject = {"token": text, "logprob": logprob}
    if top:
        entry["top_logprobs"] = [
            {"token": text, "logprob": logprob, "bytes": list(text.encode())} for text, logprob in top.items()
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
    """400 of the native chat path: llama-server's JSON error as text inside Ollama's JSON error."""
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
    """400 of the Go-template path, if the request forbids shifting the context."""
    return Failure(
        400,
        "the prompt is longer than the context length currently available to the model; shorten the prompt, "
        "adjust the context length in settings, or use a model with a longer context length",
    )


def does_not_fit(call: Call, *, is_native: bool) -> HttpReply | None:
    """Return the error for a prompt that is too long, where it is not cut: asked so, or in the native path."""
    estimate = len(call.prompt.encode("utf-8", "replace")) // 4 + 8
    must_fit = call.body.get("truncate") is False or (call.chat and is_native and not call.is_old)
    if estimate <= call.num_ctx or not must_fit:
        return None
    if call.is_old:
        reply = error_reply(400, "the input length exceeds the context length")
    else:
        reply = too_long_nested(estimate, call.num_ctx).reply(call)
    return replace(reply, content_type=PLAIN_JSON_TYPE) if call.stream else reply


def unauthorized() -> Failure:
    """401: a cloud model without a signed-in user."""
    return Failure(401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=x&key=y"})


def blank(status: int = 403) -> Failure:
    """An empty body. A foreign Host header gets 403."""
    return Failure(status, b"", TEXT_TYPE)


def html(status: int = 502, text: str = "Bad Gateway") -> Failure:
    """The error page of a proxy."""
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
