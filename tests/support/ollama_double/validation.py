"""Validation of requests, with the errors that Ollama's Go code gives."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from typing import Any

from tests.support.ollama_double.wire import JsonObject, error_reply, go_json, go_quote

INTEGER_OPTIONS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
)
FLOAT_OPTIONS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
OPTION_TYPES: dict[str, str] = {
    **dict.fromkeys(INTEGER_OPTIONS, "integer"),
    **dict.fromkeys(FLOAT_OPTIONS, "float32"),
    "use_mmap": "boolean",
    "stop": "array",
}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int, float),
    "float32": (int, float),
    "boolean": (bool,),
    "array": (list,),
}
_GO_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_SCHEMA_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refused(Exception):
    """The request gets an error at once."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.reply = error_reply(status, text)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def parse_body(raw: bytes, kind: str, fields: Mapping[str, type]) -> JsonObject:
    """Parse a JSON body, or refuse it with the 400 of Go's decoder. `kind` is the name of the Go type."""
    if not raw.strip():
        raise Refused(400, "missing request body")
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
    except ValueError as error:
        position = getattr(error, "pos", 0)
        rest = raw.decode("utf-8", "replace")[position : position + 1]
        place = "object key string" if "property name" in str(error) else "value"
        text = f"invalid character '{rest}' looking for beginning of {place}" if rest else "unexpected EOF"
        raise Refused(400, text) from None
    if not isinstance(body, dict):
        name = _GO_KINDS.get(type(body), "null")
        raise Refused(400, f"json: cannot unmarshal {name} into Go value of type api.{kind}")
    for key, expected_type in fields.items():
        value = body.get(key)
        if value is not None and type(value) is not expected_type:
            name = _GO_KINDS[type(value)]
            raise Refused(400, f"json: cannot unmarshal {name} into Go struct field {kind}.{key}")
    return body


def parse_keep_alive(value: Any) -> float:
    """Return the seconds of `keep_alive`. A negative value means infinity."""
    if value is None:
        return 300.0
    if isinstance(value, str):
        number = r"[0-9]*\.?[0-9]+|[0-9]+\."
        if value.lstrip("+-") == "0":
            return 0.0
        if re.fullmatch(rf"[-+]?({number})", value):
            raise Refused(400, f"time: missing unit in duration {go_quote(value)}")
        if not re.fullmatch(rf"[-+]?(({number})(ns|us|µs|ms|s|m|h))+", value):
            raise Refused(400, f"time: invalid duration {go_quote(value)}")
        parts = re.findall(rf"({number})(ns|us|µs|ms|s|m|h)", value)
        sign = -1 if value[0] == "-" else 1
        value = sum(float(amount) * _DURATION_UNITS[unit] for amount, unit in parts) * sign
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(400, f"Unsupported type: '{_GO_KINDS.get(type(value), 'nil')}'")
    return float("inf") if value < 0 else float(value)


def check_think(think: Any) -> None:
    """Refuse an invalid `think`."""
    levels = '"high", "medium", "low", "max", true, or false'
    if isinstance(think, str) and think not in ("low", "medium", "high", "max"):
        raise Refused(400, f"invalid think value: {go_quote(think)} (must be {levels})")
    if not (think is None or isinstance(think, bool | str)):
        raise Refused(400, f"think must be a boolean or string ({levels})")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of a wrong type. Unknown options are ignored."""
    for key, value in options.items():
        kind = OPTION_TYPES.get(key)
        if kind is None or value is None:
            continue
        if not isinstance(value, _PYTHON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
            raise Refused(500, f"option {go_quote(key)} must be of type {kind}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise Refused(500, f"option {go_quote(key)} must be of an array of strings")


def check_format(value: Any, *, is_old: bool) -> None:
    """Refuse a `format` that is neither "json" nor a schema object. `is_old` means a version before 0.30."""
    if isinstance(value, dict) and value.get("type", "object") not in _SCHEMA_TYPES:
        if is_old:
            raise Refused(500, "invalid JSON schema in format")
        reason = f"JSON schema conversion failed:\nUnrecognized schema: {json.dumps(value, separators=(',', ':'))}"
        inner = {"code": 400, "message": f"Field 'json_schema': \"json_schema\": {reason}"}
        raise Refused(400, go_json({"error": inner | {"type": "invalid_request_error"}}).decode())
    if value in (None, "", "json") or isinstance(value, dict):
        return
    quoted = go_quote(json.dumps(value, ensure_ascii=False))
    raise Refused(500, f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


def allowed_host(header: str) -> bool:
    """Return whether a server on loopback accepts a Host header. It refuses foreign names (DNS rebinding)."""
    host = header.rsplit(":", 1)[0] if re.search(r":\d+$", header) else header
    host = host.strip("[]").lower()
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified
