"""The push of a GGUF file to a running Ollama server.

A push is four requests: ask whether the server has the file, upload it, create the model, load it once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from assistant.dataset.instructions import Exchange
from assistant.dataset.prompts import Template
from assistant.errors import ExportError, PrerequisiteError, SettingsError
from assistant.escape import one_line
from assistant.interop.modelfile import Parameters, go_template
from assistant.ollama_server import is_loopback

Progress = Callable[[int, int], None]
"""Called with the bytes so far and all bytes."""

CHUNK_BYTES = 2**20
MAX_ERROR_CHARACTERS = 500
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""Seconds without a byte. The server answers after it has hashed the file or loaded the model."""
_PROBE = (
    {"role": "user", "content": 'Say "{{ x }}" & <b>,\n\tplease. '},
    {"role": "assistant", "content": "é 😀"},
    {"role": "user", "content": "Again."},
)
"""A conversation whose rendered text the server returns, with characters that a template could change."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A model that a server has created and loaded."""

    name: str
    host: str
    digest: str
    """SHA-256 of the GGUF file, as `sha256:` and 64 hex digits."""
    uploaded: bool
    """False if the server already had the file."""
    rendered: bool
    """True if the server rendered a conversation exactly as this project does. False if it is too old to tell."""


def push_model(
    gguf: Path,
    *,
    name: str,
    host: str,
    template: Template,
    parameters: Parameters,
    overwrite: bool = False,
    on_progress: Progress = lambda _done, _total: None,
    on_status: Callable[[str], None] = lambda _status: None,
) -> Pushed:
    """Create a model on a running Ollama server, load it once, and compare how it renders a conversation.

    The file is streamed from the disk. If the new model cannot be used, it is deleted from the server again.

    Raises:
        PrerequisiteError: no server answers at `host`.
        SettingsError: the server has a model of this name, and `overwrite` is False; or the name is invalid.
        ExportError: the server refuses or breaks off, cannot load the model, or renders prompts in another way.
    """
    # Reading the certificates takes a quarter of a second, and plain HTTP needs none.
    verify, trust_env = host.startswith("https:"), not is_loopback(host)
    with httpx.Client(base_url=host, timeout=_TIMEOUT, trust_env=trust_env, verify=verify) as http:
        server = _Server(host, http)
        server.check_version()
        is_new = not server.has_model(name)
        if not is_new and not overwrite:
            raise SettingsError(
                f"--name: expected a name that {host} does not have, got {name!r}. "
                f"Choose another name, or replace that model with --overwrite."
            )
        with gguf.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        uploaded = not server.has_blob(digest)
        if uploaded:
            server.upload(gguf, digest, on_progress)
        body = {
            "model": name,
            "files": {"model.gguf": digest},
            "template": go_template(template),
            "parameters": parameters,
        }
        try:
            server.create(body, on_status)
            server.load(name)
            rendered = server.check_rendering(name, template)
        except BaseException:
            if is_new:
                server.delete(name)
            raise
    return Pushed(name=name, host=host, digest=digest, uploaded=uploaded, rendered=rendered)


class _Server:
    """The requests of a push. Each raises AssistantError with what the server said."""

    def __init__(self, host: str, http: httpx.Client) -> None:
        self.host, self._http = host, http

    def check_version(self) -> None:
        """Make sure that this is an Ollama server."""
        answer = self._send("GET", "/api/version")
        if "version" not in self._object(answer, "its version"):
            raise self._unexpected("its version", answer.text)

    def has_model(self, name: str) -> bool:
        answer = self._send("POST", "/api/show", json={"model": name}, accept=(200, 400, 404))
        if answer.status_code == 400:
            raise SettingsError(
                f"--name: expected a model name such as mine or mine:v2, got {name!r}. "
                f"Use letters, digits, dots, hyphens and underscores."
            )
        return answer.status_code == 200

    def has_blob(self, digest: str) -> bool:
        return self._send("HEAD", f"/api/blobs/{digest}", accept=(200, 404)).status_code == 200

    def upload(self, path: Path, digest: str, on_progress: Progress) -> None:
        total = path.stat().st_size

        def chunks() -> Iterator[bytes]:
            done = 0
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
                    done += len(chunk)
                    on_progress(done, total)

        headers = {"Content-Length": str(total), "Content-Type": "application/octet-stream"}
        self._send("POST", f"/api/blobs/{digest}", content=chunks(), headers=headers, accept=(200, 201))

    def create(self, body: Mapping[str, Any], on_status: Callable[[str], None]) -> None:
        with _transport_errors(self.host, "/api/create"), self._http.stream("POST", "/api/create", json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                self._refuse(answer, "/api/create")
            status = None
            for line in answer.iter_lines():
                if not line.strip():
                    continue
                value = _parse(line)
                if not isinstance(value, dict):
                    raise self._unexpected("a status line", line)
                if "error" in value:
                    raise self._refused("/api/create", value["error"])
                status = value.get("status")
                on_status(one_line(str(status)))
        if status != "success":
            raise self._unexpected("the status success at the end", "no more lines" if status is None else str(status))

    def load(self, name: str) -> None:
        """Load the model: `create` accepts a file that no engine can run."""
        answer = self._send("POST", "/api/chat", json={"model": name, "messages": [], "stream": False})
        if self._object(answer, "a loaded model").get("done") is not True:
            raise self._unexpected("a loaded model", answer.text)

    def check_rendering(self, name: str, template: Template) -> bool:
        """Compare a rendered conversation with ours. Return False if the server renders none for clients."""
        request = {"model": name, "messages": list(_PROBE), "stream": False, "options": {"num_predict": 1}}
        answer = self._send("POST", "/api/chat", json=request | {"_debug_render_only": True})
        info = self._object(answer, "a rendered prompt").get("_debug_info")
        rendered = info.get("rendered_template") if isinstance(info, dict) else None
        if rendered is None:
            return False
        user, assistant, last = (message["content"] for message in _PROBE)
        expected = replace(template, trims=False).render(last, history=[Exchange(user, assistant)])
        if rendered != expected:
            raise ExportError(
                f"{self.host}: expected the prompt {expected[-200:]!r}, got {str(rendered)[-200:]!r} from {name}. "
                f"Does the server run with OLLAMA_GO_TEMPLATE=0? Restart it without."
            )
        return True

    def delete(self, name: str) -> None:
        """Delete a model that is of no use. An error here would hide the one that matters."""
        try:
            self._http.request("DELETE", "/api/delete", json={"model": name}, timeout=5.0)
        except httpx.HTTPError:
            return

    def _send(self, method: str, path: str, *, accept: tuple[int, ...] = (200,), **content: Any) -> httpx.Response:
        with _transport_errors(self.host, path):
            answer = self._http.request(method, path, **content)
        if answer.status_code not in accept:
            self._refuse(answer, path)
        return answer

    def _object(self, answer: httpx.Response, what: str) -> dict[str, Any]:
        value = _parse(answer.text)
        if not isinstance(value, dict):
            raise self._unexpected(what, answer.text)
        if "error" in value:
            raise self._refused(answer.request.url.path, value["error"])
        return value

    def _refuse(self, answer: httpx.Response, path: str) -> None:
        value = _parse(answer.text)
        said = value.get("error") if isinstance(value, dict) else None
        raise self._refused(path, said or _short(answer.text) or "nothing", status=answer.status_code)

    def _refused(self, path: str, said: object, *, status: int | None = None) -> ExportError:
        code = f"status {status}: " if status is not None else ""
        return ExportError(
            f"{self.host}{_without_digest(path)}: expected the server to accept it, got {code}{_innermost(said)}. "
            f"{_hint(status, str(said))}"
        )

    def _unexpected(self, what: str, text: str) -> ExportError:
        return ExportError(
            f"{self.host}: expected {what} from an Ollama server, got {_short(text) or 'nothing'}. "
            f"Check the address, or look into the server's log."
        )


@contextmanager
def _transport_errors(host: str, path: str) -> Iterator[None]:
    """Turn httpx's errors into sentences."""
    where = f"{host}{_without_digest(path)}"
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise PrerequisiteError(
            f"{host}: expected an Ollama server, got no connection ({_short(str(error))}). "
            f"Start it with `ollama serve`, or name another address with --host."
        ) from error
    except httpx.TimeoutException as error:
        raise ExportError(
            f"{where}: expected an answer within {_TIMEOUT.read:.0f} s, got none. Look into the server's log."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ExportError(
            f"{where}: expected a whole answer, got a broken connection ({_short(str(error))}). "
            f"Is the server still running, and does its disk have room? Then export again."
        ) from error


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _innermost(said: object) -> str:
    """The message of an error. The engine's own error is JSON inside the server's JSON."""
    inner = _parse(said) if isinstance(said, str) else said
    while isinstance(inner, dict):
        said = inner.get("error", inner.get("message", said))
        inner = said if isinstance(said, dict) else None
    return _short(said if isinstance(said, str) else json.dumps(said)).rstrip(".")


def _short(text: str) -> str:
    return one_line(text[:MAX_ERROR_CHARACTERS])


def _without_digest(path: str) -> str:
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1", path)


def _hint(status: int | None, said: str) -> str:
    if status == 403:
        return "Does the server allow this address? See OLLAMA_HOST and OLLAMA_ORIGINS."
    if "invalid model name" in said:
        return "Choose another --name."
    if "digest mismatch" in said:
        return "The file changed during the upload. Export it again."
    if "no space left" in said:
        return "Free some space on the server's disk."
    if status == 404:
        return "Is it an Ollama server, and a recent one?"
    return "Look into the server's log."
