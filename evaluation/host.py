"""Where the judge's server is: `--host`, or `OLLAMA_HOST`, read as Ollama reads it and checked before it is used.

The `ollama` package reads `OLLAMA_HOST` while it is imported and crashes on one that it cannot read, so the value is
made sound here first.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from assistant.errors import SettingsError

DEFAULT_PORT = 11434
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what a server listens on is no address to connect to


def judge_url(host: str | None, environment: Mapping[str, str]) -> str:
    """The server's base URL, `scheme://host:port` and perhaps a path.

    `host` wins over `OLLAMA_HOST` in `environment`; neither means 127.0.0.1:11434.

    Raises:
        SettingsError: the value is no address.
    """
    if host is not None:
        return _url(host, "--host")
    return _url(environment.get("OLLAMA_HOST", ""), "OLLAMA_HOST")


def is_loopback(url: str) -> bool:
    """Whether the server runs on this machine, where no proxy may stand between."""
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
