"""Questions to one server with OpenAI's API: llama.cpp's server, LM Studio, vLLM. The guarantees are those of Ollama's.

Facts about these servers that shape it:

- llama.cpp's server answers to any model's name with the model that it has. So the name must be in its list.
- None of them names a digest of the model: it is unverified, and the model's name identifies the judge.
- Their names for some sampling options differ. Each gets all of them and ignores those that it does not know.
- The context is set when the server starts, so a question cannot change it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from assistant.errors import JudgeError, PrerequisiteError
from assistant.escape import encodable
from evaluation.judging import calls
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
    too_long_by,
    unreachable,
)
from evaluation.judging.judgement import UNVERIFIED, JudgeSettings
from evaluation.judging.transport import SHORT, Incoming, Limits, Transport, chat_limits, load_limits

LOADING_PAUSE_S = 1.0
"""Between two questions to a server that still loads its model."""


class OpenAIClient:
    """A connection to one server with OpenAI's API, for one model."""

    def __init__(self, settings: JudgeSettings, url: str) -> None:
        self.settings = settings
        self.url = url
        self._transport = Transport(url.removesuffix("/v1"), connect_timeout_s=settings.connect_timeout_s)
        self._context: int | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def connect(self) -> ServerFacts:
        """Compare the model's name with the server's list, and ask for the server's version."""
        listed = (await self._wait_for_models()).get("data")
        if not isinstance(listed, list):
            raise self._not_openai("no list of models")
        entries = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        for entry in entries:
            aliases = entry.get("aliases")
            if has_name(self.settings.model, [entry["id"], *(aliases if isinstance(aliases, list) else ())]):
                self._context = _context(entry)
                return ServerFacts(version=await self._version(), digest=UNVERIFIED)
        raise missing_model(self.url, self.settings, sorted(on_one_line(entry["id"]) for entry in entries))

    async def load(self) -> int | None:
        """Ask for one token, which loads the model where it is not loaded yet. Returns the context length."""
        warm_up = Question(
            messages=[("user", "Hello")], schema=None, seed=self.settings.seed, num_predict=1, may_be_cut=True
        )
        try:
            await self._chat(warm_up, load_limits(self.settings))
        except CallFailure as failure:
            if failure.reason == "unreachable":
                raise unreachable(self.url, self.settings) from failure
            if failure.reason != "incomplete":
                raise cannot_load(self.url, self.settings, failure) from failure
        return self._context

    async def is_alive(self) -> bool:
        """Return whether the server answers at all."""
        try:
            async with self._transport.call("GET", "/v1/models", SHORT) as incoming:
                return incoming.status < 500
        except (CallFailure, JudgeError):
            return False

    async def ask(self, question: Question) -> CompleteAnswer:
        """Ask once."""
        return await self._chat(question, chat_limits(self.settings))

    # --- facts ----------------------------------------------------------------------------------------------------

    async def _wait_for_models(self) -> dict[str, Any]:
        """Get the list of models. Waits while the server loads its model."""
        deadline = asyncio.get_running_loop().time() + self.settings.load_timeout_s
        while True:
            status, value = await self._get("/v1/models")
            if status != 503 or asyncio.get_running_loop().time() > deadline:
                break
            await calls.sleep(LOADING_PAUSE_S)
        if status in {401, 403}:
            raise refused(self.url, status, _error_of(value)[0])
        if status != 200 or not isinstance(value, dict):
            raise self._not_openai(f"HTTP {status}")
        return value

    async def _version(self) -> str:
        """Return the server's version, or "" where it has no call for it (LM Studio)."""
        for path, key in (("/props", "build_info"), ("/version", "version")):
            try:
                status, value = await self._get(path)
            except (JudgeError, PrerequisiteError):
                continue
            if status == 200 and isinstance(value, dict) and isinstance(value.get(key), str):
                return on_one_line(value[key])
        return ""

    async def _get(self, path: str) -> tuple[int, Any]:
        try:
            async with self._transport.call("GET", path, SHORT) as incoming:
                body = await incoming.read()
        except CallFailure as failure:
            if failure.reason in {"unreachable", "timeout"}:
                raise unreachable(self.url, self.settings) from failure
            raise self._not_openai(str(failure)) from failure
        return incoming.status, _json(body)

    def _not_openai(self, actual: str) -> JudgeError:
        return JudgeError(
            f"judge: expected a server with OpenAI's API at {self.url}, got {actual} on /v1/models. "
            f"Check --host and --api."
        )

    # --- questions ------------------------------------------------------------------------------------------------

    async def _chat(self, question: Question, limits: Limits) -> CompleteAnswer:
        """Send a question and read the answer to its end."""
        body = self._body(question)
        async with self._transport.call("POST", "/v1/chat/completions", limits, body=body) as incoming:
            if incoming.status != 200:
                raise self._classify(incoming.status, _json(await incoming.read()))
            answer = _Answer(question)
            if incoming.content_type == "text/event-stream":
                await self._read_events(incoming, answer)
            else:  # Some servers ignore `stream`.
                answer.add(self._object(await incoming.read(), started=False))
        return answer.complete()

    def _body(self, question: Question) -> dict[str, Any]:
        options = self.settings.options
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": role, "content": text} for role, text in question.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": question.num_predict,
            "seed": question.seed,
            # llama.cpp and LM Studio call it repeat_penalty, vLLM repetition_penalty.
            "repetition_penalty": options["repeat_penalty"],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        body |= {name: value for name, value in options.items() if name not in {"seed", "num_ctx", "num_predict"}}
        if question.schema is not None:
            schema = {"name": "verdict", "strict": True, "schema": question.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if question.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": question.top_logprobs}
        return body

    async def _read_events(self, incoming: Incoming, answer: _Answer) -> None:
        """Read server-sent events up to the end of the stream."""
        ended = False
        while (line := await incoming.next_line()) is not None:
            field, _, data = line.partition(b":")
            data = data.strip()
            if field == b"error":  # llama.cpp's server, in the middle of a stream
                raise self._classify(-1, {"error": _json(data)})
            if field != b"data" or not data:
                continue
            if ended:
                raise CallFailure("incomplete", f"the server sent more after `[DONE]`: {quoted(data)}")
            if data == b"[DONE]":
                ended = True
                continue
            answer.add(self._object(data, started=True))

    def _object(self, data: bytes, *, started: bool) -> dict[str, Any]:
        """Parse one object of an answer."""
        value = _json(data)
        if isinstance(value, dict) and (value.get("error") or value.get("object") == "error"):
            raise self._classify(-1, value)
        if not isinstance(value, dict):
            if started:
                raise CallFailure("incomplete", f"the stream broke: {quoted(data)}", retries=1)
            raise CallFailure("server_error", f"the server's answer is not OpenAI's: {quoted(data)}")
        return value

    def _classify(self, status: int, value: Any) -> CallFailure:
        """Return what an error of the server means for this row. Raises errors that concern every row."""
        message, error = _error_of(value)
        if status in {401, 403}:
            raise refused(self.url, status, message)
        if failure := too_long_by(error) or too_long(message):
            return failure
        if status == 404 and "model" in message:
            raise missing_model(self.url, self.settings, None)
        shown = message or "no reason given"
        if status == -1:  # an error inside a stream
            return CallFailure("server_error", shown, retries=1)
        return CallFailure(
            "server_error", f"HTTP {status}: {shown}", retries=BUSY_RETRIES if status in {429, 503} else 0
        )


class _Answer:
    """The parts of an answer, joined."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}

    def add(self, value: dict[str, Any]) -> None:
        """Add one object: a chunk of a stream, or a whole answer."""
        usage = value.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        choices = value.get("choices")
        if not isinstance(choices, list):
            raise CallFailure("server_error", f"the server's answer is not OpenAI's: {quoted(json.dumps(value))}")
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        message = choice.get("delta", choice.get("message"))
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) and content:
            if self._finish is not None:
                raise CallFailure("incomplete", f"the server sent more after its end: {quoted(content)}")
            self._pieces.append(content)
        logprobs = choice.get("logprobs")
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        self._logprobs += [found for entry in entries or () if (found := _token(entry)) is not None]
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            self._finish = self._finish or finish

    def complete(self) -> CompleteAnswer:
        """Return the answer. Raises CallFailure if it is not complete."""
        expected = {"stop", "length"} if self._question.may_be_cut else {"stop"}
        if self._finish is None:
            raise CallFailure("incomplete", "the answer ended without `finish_reason`")
        if self._finish not in expected:
            reason = on_one_line(repr(self._finish))
            raise CallFailure("incomplete", f"the answer ended for the reason {reason}, not 'stop'")
        return CompleteAnswer(
            content=encodable("".join(self._pieces)),
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            response_tokens=_count(self._usage.get("completion_tokens")),
            logprobs=tuple(self._logprobs),
        )


def _token(entry: Any) -> TokenLogprobs | None:
    """Return the log-probabilities of one token, or None if the entry has another form."""
    pair = _pair(entry)
    if pair is None:
        return None
    others = entry.get("top_logprobs")
    top = [_pair(other) for other in others] if isinstance(others, list) else []
    return TokenLogprobs(*pair, tuple(other for other in top if other is not None))


def _pair(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, dict):
        return None
    token, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return encodable(token), float(logprob)


def _context(entry: dict[str, Any]) -> int | None:
    """Return the context length in an entry of the list of models: of llama.cpp's server, or of vLLM."""
    meta = entry.get("meta")
    found = meta.get("n_ctx") if isinstance(meta, dict) else entry.get("max_model_len")
    return _count(found) or None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _error_of(value: Any) -> tuple[str, dict[str, Any]]:
    """Return the message of an error body, of any form, and its error object."""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        message = error.get("message", error.get("detail"))
        return on_one_line(message if isinstance(message, str) else json.dumps(error)), error
    return on_one_line(error if isinstance(error, str) else json.dumps(error)), {}


def _json(body: bytes) -> Any:
    """Parse JSON. Anything else is returned as text."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
