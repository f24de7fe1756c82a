"""The double itself: its script, its models, its journal, and its start and stop."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.ollama_double.behaviours import Answer, Behaviour, Scripted
from tests.support.ollama_double.http_server import POLL_SECONDS, VERSION, Server, client_disconnected
from tests.support.ollama_double.records import InstalledModel, RecordedRequest
from tests.support.ollama_double.wire import JsonObject, full_name, nanoseconds, rfc3339

RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options that belong to the loaded model: a change reloads it."""


@dataclass
class _LoadedModel:
    options: tuple[Any, ...]
    num_ctx: int
    expires: float


class _Slots:
    """The slots of one model: requests run in the order of their arrival, at most `n_slots` at once."""

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._tickets: deque[object] = deque()
        self._changed = threading.Condition()
        self._n_running = 0
        self.max_running = 0

    @contextlib.contextmanager
    def slot(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a slot and hold it. `check` is called while waiting, and raises to end the wait."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        try:
            with self._changed:
                while self._tickets.index(ticket) >= self._n_slots:
                    self._changed.wait(POLL_SECONDS)
                    check()
                self._n_running += 1
                self.max_running = max(self.max_running, self._n_running)
            try:
                yield
            finally:
                with self._changed:
                    self._n_running -= 1
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()


class OllamaDouble:
    """An Ollama server on loopback: `with OllamaDouble(models=("llama3.1:latest",)) as double: double.url`.

    Args:
        models: Names of the installed models, or a mapping from names to capabilities.
        port: 0 chooses a free port.
        default: The behaviour when nothing is enqueued, or a function from the request's body to a behaviour.
        registry: Names of the models that can be pulled.
        load_seconds: Duration of a cold load. Changed runner options cause one, too.
        num_parallel: Number of requests that a model runs at once.
        version: The version that the server reports. Before 0.30, it behaves as 0.24 does.
        alphabetical_keys: Whether to sort the keys of structured answers, as the native chat path does.

    Attributes:
        requests: The journal.
        registry_error: Why a model that the registry lacks cannot be pulled.
        loads: The name of the model of every cold load.
        max_in_flight: The largest number of chat and generate requests that were unanswered at once.
        errors: Exceptions in the double's own threads; `__exit__` raises if there are any.
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
        version: str = VERSION,
    ) -> None:
        self.default: Scripted = Answer("OK") if default is None else default
        self.requests: list[RecordedRequest] = []
        self.max_in_flight = 0
        self.loads: list[str] = []
        self.errors: list[str] = []
        self.models: dict[str, InstalledModel] = {}
        self.blobs: dict[str, bytes] = {}
        self.registry = {full_name(name) for name in registry}
        self.registry_error = "file does not exist"
        self.load_seconds = load_seconds
        self.num_parallel = num_parallel
        self.alphabetical_keys = alphabetical_keys
        self.version = version
        self.lock = threading.Lock()
        self._port = port
        self._queue: deque[Scripted] = deque()
        self._load_queue: deque[Scripted] = deque()
        self._in_flight: dict[int, socket.socket] = {}
        self._loaded: dict[str, _LoadedModel] = {}
        self._slots: dict[str, _Slots] = {}
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        for name in models:
            self.install(name, *(models[name] if isinstance(models, Mapping) else ()))

    # --- for tests ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL; the port stays the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_old(self) -> bool:
        """Whether the version is before 0.30, whose engine was built in."""
        return tuple(int(part) for part in self.version.split(".")[:2]) < (0, 30)

    @property
    def max_running(self) -> int:
        """The largest number of requests that one model ran at once."""
        return max((slots.max_running for slots in self._slots.values()), default=0)

    def chat(self) -> list[JsonObject]:
        """Return the bodies of all POST /api/chat in order, including loads (`messages` empty)."""
        chats = [request for request in list(self.requests) if request.path == "/api/chat"]
        return [request.body for request in chats if isinstance(request.body, dict)]

    def enqueue(self, *behaviours: Scripted) -> None:
        """Use these behaviours for the next valid chat and generate requests, in order of arrival."""
        with self.lock:
            self._queue.extend(behaviours)

    def enqueue_load(self, *behaviours: Scripted) -> None:
        """Use these behaviours for the next requests that only load (or unload) a model."""
        with self.lock:
            self._load_queue.extend(behaviours)

    @property
    def pending(self) -> int:
        """Number of enqueued behaviours that are not used yet."""
        return len(self._queue) + len(self._load_queue)

    def install(self, name: str, *capabilities: str, digest: str | None = None, **fields: Any) -> InstalledModel:
        """Add or replace a model. By default its digest is derived from its name."""
        name = full_name(name)
        digest = digest or hashlib.sha256(name.encode()).hexdigest()
        model = InstalledModel(name, digest, capabilities or ("completion",), **fields)
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
        """Listen, after a stop on the same port. Script and journal are kept; no model is loaded."""
        if self._server is not None and not self._server.stopping.is_set():
            return
        self._loaded.clear()
        self._server = server = Server(("127.0.0.1", self._port), self)
        self._port = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, args=(POLL_SECONDS / 2,), name="double", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse new connections, cut the open ones and wait for all threads. A behaviour may call this."""
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

    # --- for the HTTP server --------------------------------------------------------------------------------------

    def arrive(self, request: RecordedRequest, connection: socket.socket) -> None:
        """Add a request to the journal. A chat or generate request is in flight from now on."""
        with self.lock:
            self.requests.append(request)
            if request.method == "POST" and request.path in ("/api/chat", "/api/generate"):
                self._in_flight[id(request)] = connection
                n_connected = sum(not client_disconnected(open_) for open_ in self._in_flight.values())
                self.max_in_flight = max(self.max_in_flight, n_connected)

    def leave(self, request: RecordedRequest) -> None:
        """Mark a request as finished. Called just before its last byte, because the client may react at once."""
        with self.lock:
            self._in_flight.pop(id(request), None)
            if request.finished is None:
                request.finished = time.monotonic()

    def next_behaviour(self, body: JsonObject, *, load: bool) -> Behaviour | None:
        """Return the behaviour for a request, or None for an ordinary load."""
        with self.lock:
            queue = self._load_queue if load else self._queue
            scripted = queue.popleft() if queue else None if load else self.default
        return scripted(body) if callable(scripted) else scripted

    def slots(self, name: str) -> _Slots:
        """Return the slots of a model."""
        with self.lock:
            return self._slots.setdefault(name, _Slots(self.num_parallel))

    def load(self, name: str, options: Mapping[str, Any], num_ctx: int, keep_alive: float) -> float:
        """Load the model unless it is loaded with the same runner options. Returns the seconds that this takes."""
        runner = tuple(options.get(key) for key in RUNNER_OPTIONS)
        now = time.monotonic()
        with self.lock:
            loaded = self._loaded.get(name)
            warm = loaded is not None and loaded.options == runner and loaded.expires > now
            self._loaded[name] = _LoadedModel(runner, num_ctx, now + keep_alive)
            if not warm:
                self.loads.append(name)
        return 0.0 if warm else self.load_seconds

    def unload(self, name: str) -> None:
        """Unload the model if it is loaded."""
        with self.lock:
            self._loaded.pop(name, None)

    def running(self) -> list[JsonObject]:
        """Return the entries of /api/ps."""
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
