"""Where the local Ollama server is, and whether it answers. Talks plain HTTP; the judge uses Ollama's own client."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from assistant.errors import SettingsError

DEFAULT_PORT = 11434
HOST_VARIABLE = "OLLAMA_HOST"


@dataclass(frozen=True, kw_only=True, slots=True)
class OllamaStatus:
    """What a server said of itself."""

    host: str
    version: str | None
    """None where nothing answers."""
    models: tuple[str, ...] = ()


def find_host(given: str | None = None) -> str:
    """The server's URL: the one given, else that of OLLAMA_HOST, else this machine's.

    Reads what the server's own variable may hold: no scheme, quotes, spaces, and the wildcard addresses a server
    listens on, which a client cannot call.

    Raises:
        SettingsError: it is no address; the sentence says whether an option or the variable held it.
    """
    variable = os.environ.get(HOST_VARIABLE, "")
    where = "--host" if given else HOST_VARIABLE
    text = (given or variable).strip().strip("\"'").strip()
    if not text:
        return f"http://127.0.0.1:{DEFAULT_PORT}"
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port, parts = None, None, urlsplit("")
    if not name or parts.scheme not in {"http", "https"} or " " in name:
        raise SettingsError(f"{where}: expected an address such as http://127.0.0.1:{DEFAULT_PORT}, got {text!r}.")
    if name in {"0.0.0.0", "::"}:
        name = "127.0.0.1"
    if port is None:
        port = {"http": 80, "https": 443}[parts.scheme] if has_scheme else DEFAULT_PORT
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Whether a URL names this machine, so that no proxy may stand between."""
    name = urlsplit(host).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def look(host: str, *, timeout: float = 2.0) -> OllamaStatus:
    """Ask a server for its version and its models. Never raises because nothing answers."""
    opener = build_opener(ProxyHandler({})) if is_loopback(host) else build_opener()

    def get(path: str) -> Any:
        with opener.open(host + path, timeout=timeout) as response:
            return json.load(response)

    try:
        version = str(get("/api/version")["version"])
        models = tuple(sorted(str(model["name"]) for model in get("/api/tags")["models"]))
    except (URLError, OSError, ValueError, KeyError, TypeError):
        return OllamaStatus(host=host, version=None)
    return OllamaStatus(host=host, version=version, models=models)
