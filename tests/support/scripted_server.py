"""A server that sends exactly the bytes that a test scripts, whatever HTTP says about them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"
"""The head of an answer that ends when the connection does."""


class ScriptedServer:
    """Sends the same steps on every connection, then closes it. A step is bytes to send, or seconds to wait.

    Attributes:
        requests: The bytes of every request.
    """

    def __init__(self, steps: Sequence[bytes | float]) -> None:
        self.requests: list[bytes] = []
        self._steps = steps
        self._stopping = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> ScriptedServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(5)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.requests.append(_read_request(connection))
            for step in self._steps:
                if isinstance(step, bytes):
                    connection.sendall(step)
                elif self._stopping.wait(step):
                    return


def _read_request(connection: socket.socket) -> bytes:
    """Read a whole request: a connection that is closed with unread bytes is reset."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]):
        body += connection.recv(65536)
    return head + body


def dripping(text: bytes, seconds: float) -> list[bytes | float]:
    """Return the steps that send one byte at a time, with a pause before each."""
    return [step for byte in text for step in (seconds, bytes([byte]))]
