"""The address of the Ollama server, and a probe of what it offers.

The probe uses plain HTTP, so that this module does not import the `ollama` package. The judge uses that package.
"""

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
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""The wildcard addresses that a server listens on, and the addresses that a client can connect to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OllamaStatus:
    """The version and the models that a server reports."""

    host: str
    version: str | None
    """None if no Ollama server answers."""
    models: tuple[str, ...] = ()


def find_host(host: str | None = None) -> str:
    """Return the server's base URL: from `host`, or else from OLLAMA_HOST, or else this machine's default.

    Accepts everything that the server itself accepts in OLLAMA_HOST: an address without a scheme, quotes, spaces, and
    wildcard addresses, which become loopback addresses. The `ollama` package also reads OLLAMA_HOST, when it is
    imported, and crashes on an invalid value. Call this function before that import.

    Raises:
        SettingsError: the address is invalid. The message names its origin, `--host` or OLLAMA_HOST.
    """
    if host is not None:
        return _parse_host(host, "--host")
    return _parse_host(os.environ.get(HOST_VARIABLE, ""), HOST_VARIABLE)


def is_loopback(url: str) -> bool:
    """Return whether a URL names this machine. Requests to it must bypass proxies."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _parse_host(value: str, origin: str) -> str:
    """Return the base URL of an address in the forms that OLLAMA_HOST allows."""
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
        raise _invalid_host(value, origin) from error
    if parts.scheme not in {"http", "https"} or not _has_only_address(parts) or port == 0:
        raise _invalid_host(value, origin)
    name = parts.hostname or "127.0.0.1"
    name = _LOOPBACK_OF.get(name, name)
    if port is None:
        port = {"http": 80, "https": 443}[parts.scheme] if has_scheme else DEFAULT_PORT
    netloc = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    path = parts.path.strip("/")
    return f"{parts.scheme}://{netloc}" + (f"/{path}" if path else "")


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


def _has_only_address(parts: SplitResult) -> bool:
    """Return whether the URL has a valid host, port and path, and no user, query or fragment."""
    netloc = parts.netloc
    return (
        not (parts.query or parts.fragment or "@" in netloc)
        and re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]+)?", netloc) is not None
        and re.fullmatch(r"[A-Za-z0-9._~/-]*", parts.path) is not None
    )


def _invalid_host(value: str, origin: str) -> SettingsError:
    return SettingsError(
        f"{origin}: expected an address such as http://127.0.0.1:{DEFAULT_PORT}, got {value!r}. "
        f"Correct it, or omit it to use this machine."
    )


def probe_server(host: str, *, timeout: float = 2.0) -> OllamaStatus:
    """Ask a server for its version and its models. `timeout` is in seconds. Does not raise if no server answers."""
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
