"""A double of a server with OpenAI's API, as llama.cpp's server b10488 behaves: real HTTP on loopback, and a journal.

    with OpenAIDouble() as double:
        double.enqueue(busy(), verdict(4))        # for the next questions, in order
        double.default = lambda body: verdict(3)  # for all other questions

A behaviour is a list of steps: bytes to send, or seconds to wait. The first bytes hold status line and head.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

Steps: TypeAlias = list[bytes | float]
Scripted: TypeAlias = "Steps | Callable[[dict[str, Any]], Steps]"

JSON_TYPE = "application/json; charset=utf-8"


def reply(body: bytes, status: int = 200, content_type: str = JSON_TYPE) -> Steps:
    """Answer with a body."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def failure(status: int, message: str, kind: str = "server_error", **fields: Any) -> Steps:
    """Answer with an error."""
    error = {"code": status, "message": message, "type": kind, **fields}
    return reply(json.dumps({"error": error}).encode(), status)


def loading() -> Steps:
    """503: the model is being loaded."""
    return failure(503, "Loading model", "unavailable_error")


def too_long(needed: int = 3631, context: int = 2048) -> Steps:
    """400: the prompt does not fit."""
    text = f"request ({needed} tokens) exceeds the available context size ({context} tokens), try increasing it"
    return failure(400, text, "exceed_context_size_error", n_prompt_tokens=needed, n_ctx=context)


def events(*values: Any, done: bool = True) -> Steps:
    """Answer with a stream of events. Bytes are sent unchanged, other values as one event each."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    steps: Steps = [head]
    for value in values:
        steps.append(value if isinstance(value, bytes | float) else b"data: " + json.dumps(value).encode() + b"\n\n")
    return [*steps, b"data: [DONE]\n\n"] if done else steps


def chunk(content: str | None = "", finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return one object of a stream."""
    delta = {} if content == "" else {"content": content}
    return {"choices": [{"finish_reason": finish, "index": 0, "delta": delta, **fields}], "object": "chunk"}


def answer(
    content: str, *, finish: str | None = "stop", prompt_tokens: int = 48, logprobs: Mapping[str, Any] | None = None
) -> Steps:
    """Answer with a text, streamed in pieces of eight characters."""
    extra: dict[str, Any] = {"logprobs": logprobs} if logprobs else {}
    pieces = [chunk(content[start : start + 8], **extra) for start in range(0, len(content), 8)]
    usage = {"choices": [], "usage": {"completion_tokens": len(pieces), "prompt_tokens": prompt_tokens}}
    return events({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}, *pieces,
                  *([chunk("", finish)] if finish else []), usage)  # fmt: skip


def whole(content: str, finish: str = "stop") -> Steps:
    """Answer with one object, as a server does that ignores `stream`."""
    choice = {"finish_reason": finish, "index": 0, "message": {"role": "assistant", "content": content}}
    return reply(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 48, "completion_tokens": 9}}).encode())


def verdict(score: int, analysis: str = "The answer is compared with the reference.", **fields: Any) -> Steps:
    """Answer with a verdict."""
    return answer(json.dumps({"analysis": analysis, "score": score}), **fields)


class OpenAIDouble:
    """A server with OpenAI's API on loopback.

    Args:
        models: Names in its list of models. It answers to any name with the first of them.
        default: The behaviour when nothing is enqueued, or a function of the request's body.
        loading: How many requests of any kind are answered with 503 at first.
        n_ctx: Context length in the list of models. None leaves it out.

    Attributes:
        bodies: The bodies of all questions, without the one that only loads the model.
    """

    def __init__(
        self,
        models: Sequence[str] = ("judge",),
        *,
        default: Scripted | None = None,
        loading: int = 0,
        n_ctx: int | None = 8192,
    ) -> None:
        self.models = list(models)
        self.default: Scripted = default or verdict(3)
        self.loading = loading
        self.n_ctx = n_ctx
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._queue: deque[Scripted] = deque()
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.url = ""

    def enqueue(self, *behaviours: Scripted) -> None:
        """Use these behaviours for the next questions."""
        self._queue.extend(behaviours)

    @property
    def pending(self) -> int:
        """Number of enqueued behaviours that are not used yet."""
        return len(self._queue)

    def __enter__(self) -> OpenAIDouble:
        double = self

        class Handler(_Handler):
            pass

        Handler.double = double
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def steps(self, method: str, path: str, body: Any) -> Steps:
        """Return the answer to a request."""
        with self._lock:
            self.paths.append(path)
            if self.loading > 0:
                self.loading -= 1
                return loading()
            if (method, path) == ("GET", "/v1/models"):
                return reply(
                    json.dumps({"object": "list", "data": [self._entry(name) for name in self.models]}).encode()
                )
            if (method, path) == ("GET", "/props"):
                return reply(b'{"build_info": "b10488-test"}')
            if (method, path) != ("POST", "/v1/chat/completions"):
                return failure(404, "File Not Found", "not_found_error")
            if body.get("max_tokens") == 1 and "logprobs" not in body:
                return answer("Hi", finish="length")
            self.bodies.append(body)
            scripted = self._queue.popleft() if self._queue else self.default
        return scripted(body) if callable(scripted) else scripted

    def _entry(self, name: str) -> dict[str, Any]:
        meta = {} if self.n_ctx is None else {"meta": {"n_ctx": self.n_ctx, "n_ctx_train": 8192}}
        return {"id": name, "aliases": [name], "object": "model", "owned_by": "llamacpp", **meta}


class _Handler(BaseHTTPRequestHandler):
    double: OpenAIDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log."""

    def do_GET(self) -> None:
        self._send(None)

    def do_POST(self) -> None:
        self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, body: Any) -> None:
        steps = self.double.steps(self.command, self.path, body)
        with contextlib.suppress(OSError):
            for step in steps:
                if isinstance(step, bytes):
                    self.wfile.write(step)
                elif self.double.stopping.wait(step):
                    break
            is_framed = bool(steps) and isinstance(steps[0], bytes) and b"Content-Length" in steps[0]
            if not is_framed:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
