"""The HTTP server of the double: connections, requests, responses, chat and generate, and blobs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import select
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tests.support.ollama_double import model_routes, v1_routes
from tests.support.ollama_double.behaviours import does_not_fit
from tests.support.ollama_double.records import InstalledModel, RecordedRequest
from tests.support.ollama_double.validation import (
    Refused,
    allowed_host,
    check_format,
    check_options,
    check_think,
    parse_body,
    parse_keep_alive,
)
from tests.support.ollama_double.wire import (
    TEXT_TYPE,
    Call,
    HttpReply,
    JsonObject,
    full_name,
    go_quote,
    json_reply,
    prompt_of,
    rfc3339,
)
from tests.support.ollama_templates import CHATML, render_chat

if TYPE_CHECKING:
    from tests.support.ollama_double.double import OllamaDouble

VERSION = "0.32.15"
DEFAULT_NUM_CTX = 4096
POLL_SECONDS = 0.01
MAX_UNWANTED_BYTES = 256 * 1024
"""Go's server reads at most this much of a body that its handler did not read."""


class _Abandoned(Exception):
    """The client disconnected, or the server is being stopped."""


def client_disconnected(connection: socket.socket) -> bool:
    """Return whether the client has closed its side. No other thread may read from the socket meanwhile."""
    try:
        if not select.select([connection], [], [], 0)[0]:
            return False
        return connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


class Server(socketserver.TCPServer):
    """Accepts connections. Each has its own thread, and `cut_all` can end them."""

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
            self._open = {other: open_ for other, open_ in self._open.items() if other.is_alive()}
            self._open[thread] = request

    def _run(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # The client disconnected.
        except Exception as error:  # noqa: BLE001  OllamaDouble raises it at the end of the test
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
        """Cut the open connections and join their threads. Returns whether all threads have ended."""
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

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log."""

    def setup(self) -> None:
        super().setup()
        self.double = self.server.double

    # --- requests -------------------------------------------------------------------------------------------------

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

    # --- responses ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.server.stopping.is_set() or client_disconnected(self.connection):
            raise _Abandoned

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.server.stopping.wait(min(left, POLL_SECONDS))
            self._check()

    def _send(self, reply: HttpReply, before_end: Callable[[], None] = lambda: None) -> None:
        """Send the reply. `before_end` is called just before the last byte."""
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
                before_end()
                self.double.leave(self.request_record)
            self.request_record.status = reply.status
            self.wfile.write(head + (b"" if self.command == "HEAD" else data))
            head = b""
        if reply.ending != "complete":
            before_end()
            self.double.leave(self.request_record)
            self.close_connection = True
        if reply.ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.resets.add(self.connection)

    def _head(self, reply: HttpReply) -> bytes:
        length = len(reply.body) if reply.length is None else reply.length
        reason = self.responses.get(reply.status, ("",))[0]
        lines = [f"HTTP/1.1 {reply.status} {reason}", f"Date: {formatdate(usegmt=True)}"]
        if reply.content_type:
            lines.append(f"Content-Type: {reply.content_type}")
        lines.append("Transfer-Encoding: chunked" if reply.chunked else f"Content-Length: {length}")
        if self.close_connection:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    # --- routes ---------------------------------------------------------------------------------------------------

    def _send_or_run(self, raw: bytes) -> None:
        try:
            reply = self._route(raw)
        except Refused as refused:
            reply = refused.reply
        if reply is not None:
            self._send(reply)
        if self.lingering:  # As Go does, so that the reset does not overtake the response.
            self.connection.shutdown(socket.SHUT_WR)
            self.server.stopping.wait(0.1)

    def _route(self, raw: bytes) -> HttpReply | None:
        if not allowed_host(self.headers.get("Host", "")):
            return HttpReply([b""], 403, "")
        if re.fullmatch(r"/api/blobs/[^/]+", self.path):
            verbs: dict[str, Callable[[bytes], HttpReply | None]] = {"HEAD": self._has_blob, "POST": self._put_blob}
        else:
            verbs = self._routes().get(self.path, {})
            if "GET" in verbs and self.path != "/api/ps":
                verbs = {**verbs, "HEAD": verbs["GET"]}
        if self.command not in verbs:
            if not self.body_read:
                self.close_connection = True
            if verbs:
                return HttpReply([b"405 method not allowed"], 405, "text/plain")
            return HttpReply([b"404 page not found"], 404, "text/plain")
        return verbs[self.command](raw)

    def _routes(self) -> dict[str, dict[str, Callable[[bytes], HttpReply | None]]]:
        return {
            "/": {"GET": lambda _: HttpReply([b"Ollama is running"], content_type=TEXT_TYPE)},
            "/api/version": {"GET": lambda _: json_reply({"version": self.double.version})},
            "/api/tags": {"GET": partial(model_routes.tags, self.double)},
            "/api/ps": {"GET": partial(model_routes.ps, self.double)},
            "/api/show": {"POST": partial(model_routes.show, self.double)},
            "/api/chat": {"POST": self._chat},
            "/api/generate": {"POST": self._generate},
            "/api/pull": {"POST": partial(model_routes.pull, self.double)},
            "/api/create": {"POST": partial(model_routes.create, self.double)},
            "/api/delete": {"DELETE": partial(model_routes.delete, self.double)},
            "/v1/models": {"GET": partial(v1_routes.models, self.double)},
            "/v1/chat/completions": {"POST": partial(v1_routes.chat, self.double)},
            "/api/copy": {"POST": partial(model_routes.copy, self.double)},
            "/api/embed": {"POST": partial(model_routes.embed, self.double)},
        }

    # --- chat and generate ----------------------------------------------------------------------------------------

    def _chat(self, raw: bytes) -> None:
        fields = {"model": str, "messages": list, "stream": bool, "options": dict, "logprobs": bool}
        body = parse_body(raw, "ChatRequest", {**fields, "top_logprobs": int})
        if not all(isinstance(message, dict) for message in body.get("messages") or ()):
            raise Refused(400, "json: cannot unmarshal string into Go struct field ChatRequest.messages")
        self._complete(body, chat=True)

    def _generate(self, raw: bytes) -> None:
        fields = {"model": str, "prompt": str, "system": str, "stream": bool, "options": dict, "raw": bool}
        body = parse_body(raw, "GenerateRequest", {**fields, "logprobs": bool, "top_logprobs": int})
        self._complete(body, chat=False)

    def _complete(self, body: JsonObject, *, chat: bool) -> None:
        """Validate a request in the order of the original, and run it."""
        keep_alive = parse_keep_alive(body.get("keep_alive"))
        check_think(body.get("think"))
        if not 0 <= (body.get("top_logprobs") or 0) <= 20:
            raise Refused(400, "top_logprobs must be between 0 and 20")
        requested_name: str = body.get("model") or ""
        if not requested_name and chat:
            raise Refused(400, "model is required")
        model = self.double.models.get(full_name(requested_name))
        if model is None:
            raise Refused(404, f"model '{requested_name}' not found")
        if body.get("raw") and any(body.get(key) for key in ("template", "system", "context")):
            raise Refused(400, "raw mode does not support template, system, or context")
        load_only = not (body.get("messages") if chat else body.get("prompt"))
        if not load_only or keep_alive:
            self._check_capabilities(model, requested_name, body, chat=chat)
        options = {**model.parameters, **(body.get("options") or {})}
        check_options(options)
        if not load_only:
            check_format(body.get("format"), is_old=self.double.is_old)
        call = Call(
            body=body,
            chat=chat,
            model=requested_name,
            stream=body.get("stream") is not False,
            num_ctx=min(int(options.get("num_ctx") or DEFAULT_NUM_CTX), model.context_length),
            prompt=prompt_of(body),
            alphabetical=self.double.alphabetical_keys and isinstance(body.get("format"), dict),
            is_old=self.double.is_old,
        )
        if not load_only and (reply := does_not_fit(call, is_native=not model.template)) is not None:
            self._send(reply)
            return
        if body.get("_debug_render_only") and chat and not load_only:
            self._send_rendered(call, model)
            return
        self._run(call, options, keep_alive, load_only=load_only)

    def _send_rendered(self, call: Call, model: InstalledModel) -> None:
        """Answer a chat request for the rendered prompt only."""
        prompt = render_chat(model.template or CHATML, call.body["messages"])
        message = {"role": "", "content": ""}
        line = {"model": call.model, "created_at": rfc3339(), "message": message, "done": False}
        self._send(json_reply({**line, "_debug_info": {"rendered_template": prompt}}))

    def _run(self, call: Call, options: JsonObject, keep_alive: float, *, load_only: bool) -> None:
        """Answer a valid request as scripted. A behaviour at the model waits for one of the model's slots first."""
        name = full_name(call.model)
        behaviour = self.double.next_behaviour(call.body, load=load_only)
        if behaviour is not None and not behaviour.at_model:
            self._send(behaviour.reply(call))
            return

        def unload_if_asked() -> None:
            if keep_alive == 0:
                self.double.unload(name)

        with self.double.slots(name).slot(self._check):
            self.request_record.started = time.monotonic()
            if load_only and keep_alive == 0:
                self._send(json_reply(call.line("", done=True, done_reason="unload")), unload_if_asked)
                return
            seconds = self.double.load(name, options, call.num_ctx, keep_alive)
            self._pause(seconds)
            if behaviour is None:
                reply = json_reply(call.line("", done=True, done_reason="load"))
            else:
                reply = behaviour.reply(replace(call, load_seconds=seconds))
            self._send(reply, unload_if_asked)

    def _check_capabilities(self, model: InstalledModel, name: str, body: JsonObject, *, chat: bool) -> None:
        needed = [("completion", "chat" if chat else "generate")]
        needed += [("tools", "tools")] if body.get("tools") else []
        needed += [("thinking", "thinking")] if body.get("think") else []
        for capability, text in needed:
            if capability not in model.capabilities:
                raise Refused(400, f"{go_quote(name)} does not support {text}")

    # --- blobs ----------------------------------------------------------------------------------------------------

    def _blob_digest(self) -> str:
        digest = self.path.rpartition("/")[2]
        if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
            self.close_connection = self.close_connection or not self.body_read
            raise Refused(400, "invalid digest format")
        return digest

    def _has_blob(self, _: bytes) -> HttpReply:
        known = self._blob_digest().replace("-", ":") in self.double.blobs
        return HttpReply([b""], 200, "") if known else HttpReply([b""], 404)

    def _put_blob(self, _: bytes) -> HttpReply:
        digest = self._blob_digest()
        if digest.replace("-", ":") in self.double.blobs:
            length = self.headers.get("Content-Length")
            if length is not None and int(length) <= MAX_UNWANTED_BYTES:
                self._read_body()
            else:
                self.close_connection = self.lingering = True  # Answer without reading the body.
            return HttpReply([b""], 200, "")
        data = self._read_body()
        actual_digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.double.blobs[actual_digest] = data
        if actual_digest != digest:
            raise Refused(400, f"digest mismatch, expected {go_quote(digest)}, got {go_quote(actual_digest)}")
        return HttpReply([b""], 201, "")


def _chunk(data: bytes, *, last: bool) -> bytes:
    framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    return framed + b"0\r\n\r\n" if last else framed
