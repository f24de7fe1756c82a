"""Routes with OpenAI's API, as Ollama serves them: the list of models, and chat."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.support.ollama_double.behaviours import Answer, Behaviour, StreamError
from tests.support.ollama_double.wire import (
    EVENTS_TYPE,
    PLAIN_JSON_TYPE,
    HttpReply,
    JsonObject,
    full_name,
    go_json,
    json_reply,
    text_pieces,
)

if TYPE_CHECKING:
    from tests.support.ollama_double.double import OllamaDouble


def models(double: OllamaDouble, _raw: bytes) -> HttpReply:
    """GET /v1/models: list the installed models."""
    created = int(time.time())
    entries = [
        {"id": name, "object": "model", "created": created, "owned_by": "library"} for name in list(double.models)
    ]
    return _whole({"object": "list", "data": entries})


def chat(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /v1/chat/completions: answer as scripted. Does not wait for a slot of the model."""
    try:
        body = json.loads(raw)
    except ValueError:
        return json_reply({"error": _error("unexpected EOF", "invalid_request_error")}, 400)
    name = str(body.get("model") or "")
    if full_name(name) not in double.models:
        return _whole({"error": _error(f"model '{name}' not found", "not_found_error")}, 404)
    behaviour = double.next_behaviour(body, load=False)
    if not isinstance(behaviour, Answer):
        return _whole({"error": _error(_words(behaviour), "api_error")}, 500)
    return _streamed(behaviour, body) if body.get("stream") else _whole(_completion(behaviour, body))


def _completion(answer: Answer, body: JsonObject) -> JsonObject:
    choice: JsonObject = {"index": 0, "message": {"role": "assistant", "content": answer.content}}
    choice["finish_reason"] = answer.done_reason
    if body.get("logprobs") and answer.logprobs:
        choice["logprobs"] = {"content": list(answer.logprobs)}
    return {**_head("chat.completion", body), "choices": [choice], "usage": _usage(answer)}


def _streamed(answer: Answer, body: JsonObject) -> HttpReply:
    head = _head("chat.completion.chunk", body)
    pieces = text_pieces(answer.content, answer.chunk)
    deltas: list[JsonObject] = [{"content": piece} for piece in pieces]
    if deltas:
        deltas[0] = {"role": "assistant", **deltas[0]}
    choices: list[JsonObject] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": answer.done_reason})
    values: list[JsonObject] = [{**head, "choices": [choice]} for choice in choices]
    if (body.get("stream_options") or {}).get("include_usage"):
        values.append({**head, "choices": [], "usage": _usage(answer)})
    steps: list[bytes | float] = [answer.delay, *(b"data: " + go_json(value) + b"\n\n" for value in values)]
    return HttpReply([*steps, b"data: [DONE]\n\n"], content_type=EVENTS_TYPE, chunked=True)


def _head(kind: str, body: JsonObject) -> JsonObject:
    head = {"id": "chatcmpl-194", "object": kind, "created": int(time.time()), "model": body["model"]}
    return head | {"system_fingerprint": "fp_ollama"}


def _usage(answer: Answer) -> JsonObject:
    prompt, completion = answer.prompt_eval_count or 27, answer.eval_count or 1
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(message: str, kind: str) -> JsonObject:
    return {"message": message, "type": kind, "param": None, "code": None}


def _words(behaviour: Behaviour | None) -> str:
    return behaviour.error if isinstance(behaviour, StreamError) else "the double has no other behaviour here"


def _whole(value: Any, status: int = 200) -> HttpReply:
    return HttpReply([go_json(value) + b"\n"], status, PLAIN_JSON_TYPE)
