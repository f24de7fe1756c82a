"""Recorded exchanges of real servers, replayed to a double and compared: what a client relies on must be the same."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import shared_file
from tests.support.ollama_double import Answer, Behaviour, OllamaDouble, StreamError
from tests.support.ollama_double.model_routes import CUT_MARK

GGUF = b"GGUF" + bytes(60)
NO_GGUF = b"this is no gguf file at all"
CUT_GGUF = GGUF + CUT_MARK
SENTENCE = "The cat sat on the mat and looked at the dog. "
SHORTENED = "… (300 such sentences)"
"""How the recordings shorten a prompt of 300 times this sentence."""
UPLOADS = {"<8832832 bytes>": GGUF, "<4416416 bytes>": CUT_GGUF}
RECORDED_DIGESTS = {
    "d95e17cca30784840d09e68b776130b3bdbb6941b3a9e11a36965744fa95f63e": GGUF,
    "80537b605f589dce97f8677aead635bc5a8bb7bacdcd26ef2c884f70aaf74051": CUT_GGUF,
}
"""The uploaded files are not in the recordings, so others take their place."""
DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
GENERATING = ("/api/chat", "/api/generate", "/v1/chat/completions")
DIED = "error was encountered while running"
MODELS = {"smollm2:135m": 8192, "demo": 256, "demo-messages": 256, "native": 256}
"""The models of the recordings that were installed before, and their context lengths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One recorded exchange."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    content_type: str | None
    text: str


def exchanges(name: str) -> list[Exchange]:
    """Read a file of `ollama-transcripts`, or skip the test if it is missing."""
    lines = shared_file(f"ollama-transcripts/{name}").read_text(encoding="utf-8").splitlines()
    return [
        Exchange(
            name=record["name"],
            method=record["request"]["method"],
            path=record["request"]["path"],
            headers=record["request"].get("headers", {}),
            body=record["request"]["body"],
            status=record["status"],
            content_type=record["content_type"],
            text=record["body"],
        )
        for record in map(json.loads, lines)
    ]


def prepare(double: OllamaDouble) -> None:
    """Install the models and the blob that the recorded server had."""
    for name, context in MODELS.items():
        double.install(name, context_length=context, template="" if name == "native" else "{{ .Prompt }}")
    double.blobs[_digest(GGUF)] = GGUF
    host = 'Get "https://registry.ollama.ai/v2/library/nope-nothing/manifests/latest"'
    double.registry_error = f"{host}: dial tcp: lookup registry: no such host"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def scripted(exchange: Exchange) -> Behaviour | None:
    """Return the behaviour that gives a recorded text. What the server decides by itself is left to the double."""
    if (
        exchange.path not in GENERATING
        or not isinstance(exchange.body, dict)
        or exchange.body.get("_debug_render_only")
    ):
        return None
    values = parsed(exchange.text)
    if exchange.status == 500 and DIED in exchange.text:
        return StreamError("", values[-1]["error"])
    if exchange.status != 200 or not (exchange.body.get("messages") or exchange.body.get("prompt")):
        return None
    content = "".join(_content(value) for value in values)
    last = values[-1]
    if "error" in last:
        return StreamError(content, last["error"])
    logprobs = [entry for value in values for entry in value.get("logprobs") or ()]
    choices = [choice for value in values for choice in value.get("choices") or ()]
    for choice in choices:
        logprobs += (choice.get("logprobs") or {}).get("content") or ()
    finish = next((choice["finish_reason"] for choice in reversed(choices) if choice["finish_reason"]), "stop")
    return Answer(
        content,
        logprobs=logprobs or None,
        done_reason=last.get("done_reason", finish),
        prompt_eval_count=None if is_cut(exchange) else last.get("prompt_eval_count"),
        eval_count=last.get("eval_count"),
    )


def is_cut(exchange: Exchange) -> bool:
    """Return whether the prompt was too long."""
    return SHORTENED in str(exchange.body)


def replay(double: OllamaDouble, exchange: Exchange) -> Exchange:
    """Send a recorded request to a double, and return the exchange with the double's answer."""
    address = urlsplit(double.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    body = exchange.body if isinstance(exchange.body, str | None) else json.dumps(exchange.body, ensure_ascii=False)
    body = body.replace(SHORTENED, SENTENCE * 300) if body else body
    headers = {"Content-Type": "application/json"} | exchange.headers
    data = UPLOADS.get(body or "") or (_own_digests(body).encode() if body else None)
    try:
        connection.request(exchange.method, _own_digests(exchange.path), body=data, headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    return replace(exchange, status=response.status, content_type=response.getheader("Content-Type"), text=text)


def _own_digests(text: str) -> str:
    """Put the digests of our files in the place of the recorded ones."""
    for recorded, data in RECORDED_DIGESTS.items():
        mine = _digest(data).removeprefix("sha256:")
        text = text.replace(recorded, mine).replace(recorded.upper(), mine.upper())
    return text


def contract(exchange: Exchange) -> dict[str, Any]:
    """Return what a client relies on: status, content type, keys in order, error text, and how a stream ends."""
    values = parsed(exchange.text)
    last = values[-1] if values and isinstance(values[-1], dict) else {}
    found: dict[str, Any] = {"status": exchange.status, "content type": exchange.content_type}
    if not values:
        found["body"] = exchange.text
        return found
    found["first keys"] = _keys(values[0])
    found["last keys"] = _keys(last)
    found["error"] = _without_chance(last.get("error"))
    found["done"] = (last.get("done"), last.get("done_reason"))
    ends = [value for value in (values[0], last) if isinstance(value, dict)]
    found["choices"] = [[_keys(choice) for choice in value.get("choices", ())] for value in ends]
    found["lines"] = "one" if len(values) == 1 else "many"
    found["last characters"] = exchange.text[-8:] if "[DONE]" in exchange.text else exchange.text[-1:]
    if is_cut(exchange):
        found["tokens read"] = last.get("prompt_eval_count")
    if "status" in last and last.get("status") != exchange.status:
        found["statuses"] = [text for text in map(_status, values) if not text.startswith(("validating", "quantizing"))]
    return found


def parsed(text: str) -> list[Any]:
    """Return the JSON values of a body: one, or one a line. An empty list if it is not JSON."""
    try:
        return [json.loads(text)]
    except ValueError:
        pass
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.strip()]
    try:
        return [json.loads(line) for line in lines if line != "[DONE]"]
    except ValueError:
        return []


def _content(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    choices = value.get("choices") or [{}]
    message = value.get("message") or choices[0].get("message") or choices[0].get("delta") or {}
    return str(message.get("content") or value.get("response") or "")


def _keys(value: Any) -> Any:
    """Return the keys of an object in order, of its message too."""
    if not isinstance(value, dict):
        return type(value).__name__
    # Go leaves out a duration of 0.
    shown = [key for key in value if key != "eval_duration"]
    return [f"{key}: {', '.join(_keys(value[key]))}" if key == "message" else key for key in shown]


def _status(value: dict[str, Any]) -> str:
    """Return the status of a progress line without its digest."""
    text = _without_chance(value.get("status", "error"))
    return re.sub("^(using existing|creating new) layer", "layer", text)  # depends on what was created before


def _without_chance(value: Any) -> Any:
    """Take digests and counts of tokens out of a text."""
    return re.sub(r"\d{4,}", "N", DIGEST.sub("digest", value)) if isinstance(value, str) else value
