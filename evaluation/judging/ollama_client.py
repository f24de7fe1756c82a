"""Questions to one Ollama server: a complete answer, or a `CallFailure` with its `Reason`.

Keeps the types of the `ollama` package, but sends its own requests: the package can neither send
"truncate": false nor stop a server that drips. This module does not know what the judge is asked.

Facts about Ollama that shape it:

- An answer counts only with `done` and `done_reason: stop`, because errors and cut answers arrive within HTTP 200.
- Every question has identical options except the seed, because other runner options reload the model.
- Defaults of the sampling options differ between versions and change scores, so all of them are sent.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from assistant.errors import JudgeError, PrerequisiteError
from assistant.escape import encodable
from evaluation.judging.calls import (
    BUSY_RETRIES,
    CallFailure,
    CompleteAnswer,
    Question,
    ServerFacts,
    TokenLogprobs,
    cannot_load,
    has_name,
    missing_model,
    on_one_line,
    quoted,
    refused,
    too_long,
    unreachable,
)
from evaluation.judging.judgement import UNVERIFIED, JudgeSettings
from evaluation.judging.transport import SHORT, Incoming, Limits, Transport, chat_limits, load_limits

if TYPE_CHECKING:
    import ollama

CONSTANT_DIGESTS = frozenset({"b5dc5e784f2a3ee1582373093acf69a2f4e2ac1710b253a001712b86a61f88bb"})
"""Digests that other servers with Ollama's API give to every model (KoboldCpp)."""
IN_STREAM = -1
"""Takes the place of the HTTP status for an error inside a stream, as in the `ollama` package."""
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


class OllamaClient:
    """A connection to one Ollama server, for one model."""

    def __init__(self, settings: JudgeSettings, url: str) -> None:
        self.settings = settings
        self.url = url
        self._ollama = _import_ollama(url)
        self._transport = Transport(url, connect_timeout_s=settings.connect_timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def connect(self) -> ServerFacts:
        """Ask for the server's version and for the model's digest."""
        version = (await self._get("/api/version")).get("version")
        listed = (await self._get("/api/tags")).get("models")
        if not isinstance(version, str) or not isinstance(listed, list):
            raise JudgeError(f"judge: expected an Ollama server at {self.url}, got another server. Check --host.")
        entries = [entry for entry in listed if isinstance(entry, dict)]
        for entry in entries:
            if has_name(self.settings.model, _names(entry)):
                return ServerFacts(version=encodable(version), digest=_digest(entry))
        names = sorted({on_one_line(name) for entry in entries for name in _names(entry)[:1]})
        raise missing_model(self.url, self.settings, names)

    async def load(self) -> int | None:
        """Load the model, and return the context length that it has, if the server reports it."""
        try:
            await self._chat([], load_limits(self.settings), None)
        except CallFailure as failure:
            if failure.reason == "unreachable":
                raise unreachable(self.url, self.settings) from failure
            if failure.reason != "incomplete":  # A load has no content, so an odd end does not concern the rows.
                raise cannot_load(self.url, self.settings, failure) from failure
        try:
            running = (await self._get("/api/ps")).get("models")
        except (JudgeError, PrerequisiteError):
            return None  # Servers with Ollama's API need not have this call.
        for entry in running if isinstance(running, list) else ():
            if isinstance(entry, dict) and has_name(self.settings.model, _names(entry)):
                context = entry.get("context_length")
                return context if type(context) is int and context > 0 else None
        return None

    async def is_alive(self) -> bool:
        """Return whether the server answers at all."""
        try:
            async with self._transport.call("GET", "/api/version", SHORT) as incoming:
                return incoming.status < 500
        except (CallFailure, JudgeError):
            return False

    async def ask(self, question: Question) -> CompleteAnswer:
        """Ask once."""
        messages = [{"role": role, "content": text} for role, text in question.messages]
        return await self._chat(messages, chat_limits(self.settings), question)

    # --- calls ----------------------------------------------------------------------------------------------------

    async def _get(self, path: str) -> dict[str, Any]:
        """Get a JSON object. A JSON value of another type gives an empty dict."""
        try:
            async with self._transport.call("GET", path, SHORT) as incoming:
                body = await incoming.read()
                if incoming.status in {401, 403}:
                    raise refused(self.url, incoming.status, f"on {path}")
                value = json.loads(body) if incoming.status == 200 else None
        except CallFailure as failure:
            if failure.reason in {"unreachable", "timeout"}:
                raise unreachable(self.url, self.settings) from failure
            raise self._no_ollama(path, str(failure)) from failure
        except (ValueError, RecursionError) as error:
            raise self._no_ollama(path, "no JSON") from error
        if value is None:
            raise self._no_ollama(path, f"HTTP {incoming.status}")
        return value if isinstance(value, dict) else {}

    def _no_ollama(self, path: str, actual: str) -> JudgeError:
        return JudgeError(
            f"judge: expected an Ollama server at {self.url}, got {actual} on {path}. Check --host and --api."
        )

    async def _chat(self, messages: list[dict[str, str]], limits: Limits, question: Question | None) -> CompleteAnswer:
        """Send messages and read the answer to its end. Without a question, the model is only loaded."""
        body = self._body(messages, question)
        async with self._transport.call("POST", "/api/chat", limits, body=body) as incoming:
            if incoming.status != 200:
                raise self._classify(incoming.status, _error_text(await incoming.read()))
            parts: list[ollama.ChatResponse] = []
            while (line := await incoming.next_line()) is not None:
                if not line.strip():
                    continue
                if parts and parts[-1].done:
                    raise CallFailure("incomplete", f"the server sent more after `done`: {quoted(line)}")
                parts.append(self._part(line, incoming))
        return _complete(parts, question)

    def _body(self, messages: list[dict[str, str]], question: Question | None) -> dict[str, Any]:
        options = self.settings.options
        body: dict[str, Any] = {"model": self.settings.model, "messages": messages, "stream": True}
        if question is not None:
            options |= {"seed": question.seed, "num_predict": question.num_predict}
            if question.schema is not None:
                body["format"] = question.schema
            if question.top_logprobs:
                body |= {"logprobs": True, "top_logprobs": question.top_logprobs}
        return body | {
            "options": options,
            "think": False,
            "truncate": False,
            "keep_alive": self.settings.keep_alive,
        }

    def _part(self, line: bytes, incoming: Incoming) -> ollama.ChatResponse:
        """Parse a line of the stream."""
        from pydantic import ValidationError

        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if incoming.content_type == "application/x-ndjson":
                raise CallFailure("incomplete", f"the stream broke: {quoted(line)}", retries=1) from error
            raise CallFailure("server_error", f"the server's answer is not Ollama's: {quoted(line)}") from error
        if isinstance(value, dict) and value.get("error"):
            raise self._classify(IN_STREAM, _error_text(line))
        try:
            part: ollama.ChatResponse = self._ollama.ChatResponse.model_validate(value)
        except ValidationError as error:
            raise CallFailure("server_error", f"the server's answer is not Ollama's: {quoted(line)}") from error
        return part

    def _classify(self, status: int, message: str) -> CallFailure:
        """Return what an error of the server means for this row. Raises errors that concern every row."""
        if status == 404 and "not found" in message and "page" not in message:
            raise missing_model(self.url, self.settings, None)
        if status in {401, 403}:
            raise refused(self.url, status, on_one_line(message))
        if failure := too_long(message):
            return failure
        shown = on_one_line(message) or "no reason given"
        if status == IN_STREAM:
            return CallFailure("server_error", shown, retries=1)
        if status == 503:
            return CallFailure("server_error", f"HTTP 503: {shown}", retries=BUSY_RETRIES)
        died = status == 500 and ("unexpectedly stopped" in message or "error was encountered while running" in message)
        return CallFailure("server_error", f"HTTP {status}: {shown}", retries=int(died))


def _complete(parts: list[ollama.ChatResponse], question: Question | None) -> CompleteAnswer:
    """Join the parts of a stream. Raises CallFailure if the answer is not complete."""
    last = parts[-1] if parts else None
    if last is None or last.done is not True:
        raise CallFailure("incomplete", "the answer ended without `done`")
    expected = {"load"} if question is None else {"stop", "length"} if question.may_be_cut else {"stop"}
    if last.done_reason not in expected:
        reason = on_one_line(repr(last.done_reason))
        raise CallFailure("incomplete", f"the answer ended for the reason {reason}, not {sorted(expected)[-1]!r}")
    logprobs = [entry for part in parts for entry in part.logprobs or ()]
    return CompleteAnswer(
        content=encodable("".join(part.message.content or "" for part in parts)),
        prompt_tokens=last.prompt_eval_count,
        response_tokens=last.eval_count,
        logprobs=tuple(
            TokenLogprobs(
                encodable(entry.token),
                entry.logprob,
                tuple((encodable(other.token), other.logprob) for other in entry.top_logprobs or ()),
            )
            for entry in logprobs
        ),
    )


def _names(entry: dict[str, Any]) -> list[object]:
    return [entry[key] for key in ("name", "model") if isinstance(entry.get(key), str)]


def _digest(entry: dict[str, Any]) -> str:
    """Return a model's digest, or `UNVERIFIED` if it does not identify the model."""
    match = _DIGEST.fullmatch(str(entry.get("digest")))
    if match is None or match[1] in CONSTANT_DIGESTS or len(set(match[1])) == 1:
        return UNVERIFIED
    return match[1]


def _error_text(body: bytes) -> str:
    """Return the text of an error body, of any form."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return on_one_line(text)
    error = value.get("error", value) if isinstance(value, dict) else value
    return error if isinstance(error, str) else on_one_line(json.dumps(error))


def _import_ollama(url: str) -> Any:
    """Import the `ollama` package with OLLAMA_HOST set to `url`.

    The package makes a client at import, and fails if the variable is malformed.
    """
    before = os.environ.get("OLLAMA_HOST")
    os.environ["OLLAMA_HOST"] = url
    try:
        import ollama
    except (ImportError, ValueError) as error:
        raise PrerequisiteError(
            f"judge: expected the ollama package to start, got {error}. "
            f"Check the proxy variables (HTTP_PROXY, ALL_PROXY), or install it again: pip install ollama"
        ) from error
    finally:
        if before is None:
            del os.environ["OLLAMA_HOST"]
        else:
            os.environ["OLLAMA_HOST"] = before
    return ollama
