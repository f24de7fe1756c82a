"""A test double of the Hugging Face Hub: real HTTP on loopback, with scripted faults and a journal of requests.

It answers what `huggingface_hub` 2.4 asks while a model is pulled:

    GET  /api/models/REPO/revision/REV?blobs=true    the commit and the files, with sizes and hashes
    HEAD /REPO/resolve/COMMIT/FILE                   ETag, X-Repo-Commit; for large files X-Linked-* and a redirect
    GET  /REPO/resolve/COMMIT/FILE, /cdn/...         the bytes, also from a Range on

    with HubDouble() as hub:
        hub.add("openai-community/gpt2", {"config.json": b"{...}", "model.safetensors": b"..."})
        hub.faults["model.safetensors"] = [Cut(1000), Cut(0)]      # for its next GET requests
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".bin")
"""Files that the hub keeps in its large storage: their ETag is a SHA-256, and a redirect leads to them."""


@dataclass(frozen=True)
class Cut:
    """Close the connection after this number of bytes of the body."""

    after: int


@dataclass(frozen=True)
class Send:
    """Send these bytes, not the file's."""

    body: bytes


@dataclass(frozen=True)
class Status:
    """Answer with a status."""

    code: int
    error_code: str = ""


@dataclass(frozen=True)
class Slow:
    """Send the body in pieces, with a pause before each."""

    pause: float
    pieces: int


Fault = Cut | Send | Status | Slow


@dataclass
class Repository:
    """The files of a repository, by commit; and its branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]


def etag(name: str, body: bytes) -> str:
    """The hub's hash of a file: SHA-256 of a large one, git's of any other."""
    if name.endswith(LARGE):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


def use_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what `huggingface_hub` reads from HF_ENDPOINT and HF_HUB_OFFLINE when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))


class HubDouble:
    """The server. `url` is what HF_ENDPOINT takes."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Fault]] = {}
        """Scripted answers to the next GET requests of a file, by its name."""
        self.api_fault: Fault | None = None
        self.head_fault: Status | None = None
        self.wrong_sizes: dict[str, int] = {}
        self.renamed: dict[str, str] = {}
        self.ranges = True
        """Whether Range is honoured."""
        self.journal: list[Request] = []
        double = self

        class Handler(_Handler):
            hub = double

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> HubDouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repository: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Put a commit on a branch. Returns the commit."""
        seed = repr(sorted(files.items())).encode() + branch.encode()
        commit = hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        entry = self.repositories.setdefault(repository, Repository())
        entry.commits[commit], entry.refs[branch] = files, commit
        return commit

    def gets(self, name: str) -> list[Request]:
        """The GET requests for the bytes of a file."""
        return [one for one in self.journal if one.method == "GET" and one.path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: HubDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.journal.append(Request(self.command, path, headers))
        if match := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main", blobs="blobs" in parse_qs(url.query))
        elif match := re.fullmatch(r"/(?:cdn/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], direct=path.startswith("/cdn/"))
        else:
            self._send(404, b"no such page")

    def _info(self, name: str, revision: str, *, blobs: bool) -> None:
        if isinstance(self.hub.api_fault, Status):
            return self._fail(self.hub.api_fault)
        if isinstance(self.hub.api_fault, Send):
            return self._send(200, self.hub.api_fault.body, {"Content-Type": "text/html"})
        if name in self.hub.renamed:
            return self._send(307, b"", {"Location": self.path.replace(name, self.hub.renamed[name])})
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._fail(Status(404, "RepoNotFound"))
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._fail(Status(404, "RevisionNotFound"))
        siblings = [self._sibling(file, body, blobs) for file, body in sorted(repository.commits[commit].items())]
        content = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        return self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _sibling(self, name: str, body: bytes, blobs: bool) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": name}
        if blobs:
            size = self.hub.wrong_sizes.get(name, len(body))
            sibling |= {"size": size, "blobId": etag(name.replace(".safetensors", "").replace(".bin", ""), body)}
            if name.endswith(LARGE):
                sibling["lfs"] = {"sha256": etag(name, body), "size": size, "pointerSize": 134}
        return sibling

    def _file(self, name: str, commit: str, file: str, *, direct: bool) -> None:
        name = self.hub.renamed.get(name, name)
        body = self.hub.repositories[name].commits.get(commit, {}).get(file)
        if self.hub.head_fault is not None and not direct:
            return self._fail(self.hub.head_fault)
        if body is None:
            return self._fail(Status(404, "EntryNotFound"))
        size = self.hub.wrong_sizes.get(file, len(body))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag(file, body)}"', "Accept-Ranges": "bytes"}
        if file.endswith(LARGE) and not direct:
            headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": headers.pop("ETag")}
            address = self.hub.url.replace("127.0.0.1", "localhost")  # another host: the token must not go there
            return self._send(302, b"", headers | {"Location": f"{address}/cdn/{name}/resolve/{commit}/{file}"})
        if self.command == "HEAD":
            return self._send(200, b"", headers | {"Content-Length": str(size)})
        return self._body(file, body, headers)

    def _body(self, file: str, body: bytes, headers: dict[str, str]) -> None:
        queue = self.hub.faults.get(file, [])
        fault = queue.pop(0) if queue else None
        if isinstance(fault, Status):
            return self._fail(fault)
        if isinstance(fault, Send):
            body = fault.body
        start, status = 0, 200
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is not None and self.hub.ranges:
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        if isinstance(fault, Cut):
            self._send(status, rest[: fault.after], headers | {"Content-Length": str(len(rest))})
            self.close_connection = True
            return None
        if isinstance(fault, Slow):
            self._send(status, b"", headers | {"Content-Length": str(len(rest))})
            step = -(-len(rest) // fault.pieces)
            for place in range(0, len(rest), step):
                time.sleep(fault.pause)
                self.wfile.write(rest[place : place + step])
            return None
        return self._send(status, rest, headers)

    def _fail(self, status: Status) -> None:
        headers = {"X-Error-Code": status.error_code} if status.error_code else {}
        self._send(status.code, b"", headers | {"X-Error-Message": "it is so scripted"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
