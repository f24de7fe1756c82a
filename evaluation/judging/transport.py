"""One HTTP call to a judge's server, with limits that hold for whatever arrives.

- Three limits in time: to the first byte, between bytes, and for the whole answer. They hold inside a line, too.
- Three limits in size: of a line, of an answer, and of its number of lines. Each line becomes an object, and those of
  an answer full of short lines would take sixty times its bytes.
- Redirects are not followed: the question would go to a server that nobody has named.

Every fault is a `CallFailure`. This module does not know what is asked, and reads no JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from assistant.errors import JudgeError
from assistant.ollama_server import is_loopback
from evaluation.judging.calls import CallFailure, on_one_line
from evaluation.judging.judgement import JudgeSettings

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_LINE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 8 << 20
MAX_LINES = 1 << 14
"""A server sends one or two lines a token, and a verdict has some hundred tokens."""
MAX_ERROR_BYTES = 1 << 16
"""Of an error page, no more than this is read."""
GET_TIMEOUT_S = 30.0
"""Longest time for an answer that needs no model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one call. Times are in seconds."""

    first_byte_s: float
    silence_s: float
    total_s: float
    line_bytes: int = MAX_LINE_BYTES
    answer_bytes: int = MAX_ANSWER_BYTES
    lines: int = MAX_LINES


def chat_limits(settings: JudgeSettings) -> Limits:
    """Return the limits of a question."""
    return Limits(
        first_byte_s=settings.first_byte_timeout_s, silence_s=settings.silence_timeout_s, total_s=settings.deadline_s
    )


def load_limits(settings: JudgeSettings) -> Limits:
    """Return the limits of a load."""
    return Limits(
        first_byte_s=settings.load_timeout_s, silence_s=settings.load_timeout_s, total_s=settings.load_timeout_s
    )


SHORT = Limits(first_byte_s=GET_TIMEOUT_S, silence_s=GET_TIMEOUT_S, total_s=GET_TIMEOUT_S)
"""Limits of a call that needs no model."""


class Transport:
    """Connections to one server. Use it in one event loop, and `close` it at the end."""

    def __init__(self, url: str, *, connect_timeout_s: float = 5.0) -> None:
        import httpx

        self.url = url
        self._client: httpx.AsyncClient = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=connect_timeout_s),
            # httpx would use a proxy from the environment even for this machine.
            trust_env=not is_loopback(url),
            verify=_tls_context(),
            # A compressed body could grow past every limit while it is unpacked.
            headers={"Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def call(self, method: str, path: str, limits: Limits, *, body: Any = None) -> AsyncIterator[Incoming]:
        """Send a request and yield the answer that arrives. A `body` is sent as JSON.

        Raises:
            CallFailure: no server answers, or not in time.
            JudgeError: the server sends the request on to another address.
        """
        import httpx

        start = asyncio.get_running_loop().time()
        request = self._client.build_request(method, self.url + path, json=body)
        due = start + min(limits.first_byte_s, limits.total_s)
        try:
            async with asyncio.timeout_at(due):
                response = await self._client.send(request, stream=True)
        except TimeoutError as error:
            raise _no_first_byte(limits) from error
        except httpx.TransportError as error:
            raise CallFailure("unreachable", str(error) or type(error).__name__, retries=1) from error
        except httpx.HTTPError as error:
            raise CallFailure("server_error", f"the server's answer is not HTTP: {error}") from error
        try:
            if response.has_redirect_location:
                raise self._redirected(response)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise CallFailure("server_error", "the server's answer is compressed, which nobody asked for")
            yield Incoming(response, limits, start)
        finally:
            await response.aclose()

    def _redirected(self, response: httpx.Response) -> JudgeError:
        target = on_one_line(urljoin(self.url, response.headers["Location"]))
        return JudgeError(
            f"judge: expected an answer from {self.url}, got HTTP {response.status_code} to {target}. "
            f"If you trust that server, name it: --host"
        )


class Incoming:
    """An answer while it arrives."""

    def __init__(self, response: httpx.Response, limits: Limits, start: float) -> None:
        self.status = response.status_code
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._chunks = response.aiter_raw()
        self._limits = limits
        self._end = start + limits.total_s
        self._due = start + limits.first_byte_s
        self._received = 0
        self._buffer = bytearray()
        self._searched = 0
        self._n_lines = 0
        self._ended = False

    @property
    def started(self) -> bool:
        """Whether a part of the body has arrived."""
        return self._received > 0

    async def next_line(self) -> bytes | None:
        """Return the next line without its end, or None after the last one.

        Raises:
            CallFailure: a limit is reached, or the connection breaks.
        """
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                self._n_lines += 1
                if self._n_lines > self._limits.lines:
                    raise CallFailure("server_error", f"an answer of more than {self._limits.lines} lines")
                return line
            self._searched = len(self._buffer)
            if self._searched > self._limits.line_bytes:
                raise CallFailure("server_error", f"a line of more than {self._limits.line_bytes} bytes")
            chunk = None if self._ended else await self._next_chunk()
            if chunk is None:
                self._ended = True
                line, self._buffer, self._searched = bytes(self._buffer), bytearray(), 0
                return line or None
            self._buffer += chunk

    async def read(self) -> bytes:
        """Return the whole body. Of an error, only the first `MAX_ERROR_BYTES`.

        Raises:
            CallFailure: a limit is reached, or the connection breaks.
        """
        while (chunk := await self._next_chunk()) is not None:
            self._buffer += chunk
            if self.status >= 400 and len(self._buffer) > MAX_ERROR_BYTES:
                break
        return bytes(self._buffer)

    async def _next_chunk(self) -> bytes | None:
        import httpx

        limit = min(self._due, self._end)
        try:
            async with asyncio.timeout_at(limit):
                chunk = await anext(self._chunks, None)
        except TimeoutError as error:
            raise self._late() from error
        except httpx.HTTPError as error:
            message = str(error) or type(error).__name__
            if not self.started:
                raise CallFailure("unreachable", message, retries=1) from error
            raise CallFailure("incomplete", f"the connection broke: {message}", retries=1) from error
        if chunk is None:
            return None
        self._received += len(chunk)
        if self._received > self._limits.answer_bytes:
            raise CallFailure("server_error", f"an answer of more than {self._limits.answer_bytes} bytes")
        self._due = asyncio.get_running_loop().time() + self._limits.silence_s
        return chunk

    def _late(self) -> CallFailure:
        if self._end <= self._due:
            return CallFailure("timeout", f"no end of the answer after {self._limits.total_s:g} s", retries=1)
        if not self.started:
            return _no_first_byte(self._limits)
        return CallFailure("timeout", f"silent for {self._limits.silence_s:g} s", retries=1)


def _no_first_byte(limits: Limits) -> CallFailure:
    seconds = min(limits.first_byte_s, limits.total_s)
    return CallFailure("timeout", f"no first byte after {seconds:g} s", retries=1)


@cache
def _tls_context() -> ssl.SSLContext:
    """Return one context for all clients: reading the certificates takes longer than everything else here."""
    import httpx

    return httpx.create_ssl_context()
