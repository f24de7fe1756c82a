"""Where the local Ollama server is, and whether it answers. Talks plain HTTP; the judge uses Ollama's own client."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import ProxyHandler, build_opener

from assistant.errors import SettingsError

DEFAULT_PORT = 11434
HOST_VARIABLE = "OLLAMA_HOST"
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server listens on is no address to connect to


@dataclass(frozen=True, kw_only=True, slots=True)
class OllamaStatus:
    """What a server said of itself."""

    host: str
    version: str | None
    """None where nothing answers."""
    models: tuple[str, ...] = ()


def find_host(given: str | None = None) -> str:
    """The server's base URL: the one given, else that of OLLAMA_HOST, else this machine's.

    Reads what the server's own variable may hold: no scheme, quotes, spaces, and the wildcard addresses a server
    listens on, which a client cannot call. The `ollama` package reads the variable too, while it is imported, and
    crashes on one that it cannot read: call this first.

    Raises:
        SettingsError: it is no address; the sentence says whether an option or the variable held it.
    """
    if given is not None:
        return _url(given, "--host")
    return _url(os.environ.get(HOST_VARIABLE, ""), HOST_VARIABLE)


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine, so that no proxy may stand between."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _url(value: str, where: str) -> str:
    cleaned = value.strip().strip("\"'").strip()
    if not cleaned:
        return f"http://127.0.0.1:{DEFAULT_PORT}"
    has_scheme = "://" in cleaned
    if not has_scheme and _is_ipv6(cleaned):
        cleaned = f"[{cleaned}]"
    try:
        parts = urlsplit(cleaned if has_scheme else f"http://{cleaned}")
        port = parts.port
    except ValueError as error:
        raise _refused(where, value) from error
    if parts.scheme not in {"http", "https"} or not _is_plain(parts) or port == 0:
        raise _refused(where, value)
    name = parts.hostname or "127.0.0.1"
    name = _LOOPBACK_OF.get(name, name)
    if port is None:
        port = {"http": 80, "https": 443}[parts.scheme] if has_scheme else DEFAULT_PORT
    shown = f"[{name}]" if ":" in name else name
    path = parts.path.strip("/")
    return f"{parts.scheme}://{shown}:{port}" + (f"/{path}" if path else "")


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


def _is_plain(parts: SplitResult) -> bool:
    """A host name or address, perhaps a port and a path; no user, query or fragment."""
    address = parts.netloc
    return (
        not (parts.query or parts.fragment or "@" in address)
        and re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]+)?", address) is not None
        and re.fullmatch(r"[A-Za-z0-9._~/-]*", parts.path) is not None
    )


def _refused(where: str, value: str) -> SettingsError:
    return SettingsError(
        f"{where}: expected an address such as http://127.0.0.1:{DEFAULT_PORT}, got {value!r}. "
        f"Correct it, or leave it out for this machine."
    )


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
