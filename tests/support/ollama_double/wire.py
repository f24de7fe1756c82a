"""What the double sends: JSON as Go encodes it, names, times, and responses as a list of steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

JSON_TYPE = "application/json; charset=utf-8"
PLAIN_JSON_TYPE = "application/json"
"""Of an answer that could have been a stream."""
NDJSON_TYPE = "application/x-ndjson"
TEXT_TYPE = "text/plain; charset=utf-8"
EVENTS_TYPE = "text/event-stream"
HTML_TYPE = "text/html"


def go_json(value: Any) -> bytes:
    """Encode as Go's encoding/json does: compact, UTF-8, and `<>&` escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace")


def go_quote(text: str) -> str:
    """Quote as Go's %q does (close enough for the texts used here)."""
    return json.dumps(text, ensure_ascii=False)


def rfc3339(nanoseconds: int | None = None) -> str:
    """Return a UTC time with nine decimals. The last one is never 0: Go would drop it and change the length."""
    ns = (time.time_ns() if nanoseconds is None else nanoseconds) | 1
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def full_name(name: str) -> str:
    """Return a model's name with its tag: `llama3.1` means `llama3.1:latest`."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def nanoseconds(seconds: float) -> int:
    """Return a duration in whole nanoseconds, as Ollama sends it."""
    return round(seconds * 1e9)


def text_pieces(text: str, size: int) -> list[str]:
    """Split a text into pieces of `size` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def prompt_of(body: JsonObject) -> str:
    """Return the prompt of a chat or generate request as one text."""
    if "messages" not in body:
        return f"{body.get('system') or ''}{body.get('prompt') or ''}"
    return "\n".join(str(message.get("content") or "") for message in body["messages"] or ())


@dataclass
class HttpReply:
    """One HTTP response: bytes to send and seconds to pause, in order."""

    steps: list[bytes | float]
    status: int = 200
    content_type: str = JSON_TYPE
    chunked: bool = False
    ending: Literal["complete", "close", "reset"] = "complete"
    length: int | None = None
    """The Content-Length header, if it is not the number of bytes sent."""

    @property
    def body(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))


def json_reply(value: Any, status: int = 200, pause: float = 0.0) -> HttpReply:
    """Reply with one JSON value."""
    return HttpReply([pause, go_json(value)], status)


def error_reply(status: int, text: str) -> HttpReply:
    """Reply with `{"error": text}`."""
    return json_reply({"error": text}, status)


def ndjson_reply(values: Iterable[Any], pause: float = 0.0, between: float = 0.0) -> HttpReply:
    """Reply with a stream of JSON lines. `pause` comes before the first line, `between` before each further line."""
    steps: list[bytes | float] = [pause]
    for number, value in enumerate(values):
        if number and between:
            steps.append(between)
        steps.append(go_json(value) + b"\n")
    return HttpReply(steps, content_type=NDJSON_TYPE, chunked=True)


@dataclass(frozen=True)
class Call:
    """A valid chat or generate request, as the behaviours see it."""

    body: JsonObject
    chat: bool
    model: str
    stream: bool
    num_ctx: int
    prompt: str
    alphabetical: bool
    """Whether to sort the keys of a structured answer."""
    load_seconds: float = 0.0
    """Duration of the load that this request has caused."""
    is_old: bool = False
    """Whether the server is older than 0.30."""

    def line(self, content: str, *, thinking: str = "", done: bool = False, **extra: Any) -> JsonObject:
        """Return one response object. Empty values of `extra` are left out (Go's omitempty)."""
        line: JsonObject = {"model": self.model, "created_at": rfc3339()}
        if self.chat:
            line["message"] = {"role": "assistant", "content": content}
            if thinking:
                line["message"]["thinking"] = thinking
        else:
            line["response"] = content
            if thinking:
                line["thinking"] = thinking
        line["done"] = done
        if reason := extra.pop("done_reason", None):
            line["done_reason"] = reason
        line.update((key, value) for key, value in extra.items() if value)
        return line

    def content_lines(self, content: str, chunk: int = 8) -> list[JsonObject]:
        """Return the content as response objects of `chunk` characters each, without a final one."""
        return [self.line(piece) for piece in text_pieces(content, chunk)]
