"""One call at a time to an Ollama server: a complete answer, or a `CallFailure` with its `Reason`.

Failures that concern every row (no server, no such model, no access) are raised as errors of `assistant.errors`.
Failures that may not occur again are retried. This module does not know what the judge is asked.

Facts about Ollama that shape it:

- An answer counts only with `done` and `done_reason: stop`, because errors and cut answers arrive within HTTP 200.
- Every call has identical options except the seed, because other runner options reload the model.
- Only one request runs at a time, because the server's queue has no bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from assistant.errors import JudgeError, PrerequisiteError
from assistant.ollama_server import is_loopback
from assistant.settings import Frozen
from evaluation.escape import encodable
from evaluation.judgement import JudgeSettings, Reason
from evaluation.rubric import SCHEMA

if TYPE_CHECKING:
    import ssl

    import httpx
    import ollama


class CallFailure(Exception):
    """A call gave no complete answer. `retries` is the number of retries that a failure of this kind gets."""

    def __init__(self, reason: Reason, detail: str, *, retries: int = 0) -> None:
        super().__init__(encodable(detail))
        self.reason: Reason = reason
        self.retries = retries


class CompleteAnswer(Frozen):
    """An answer that ended with `done` and `stop`. The token counts are the server's; None if it did not send them."""

    content: str
    prompt_tokens: int | None
    response_tokens: int | None


class OllamaClient:
    """A connection to one Ollama server, for one model. Call `close` at the end."""

    def __init__(self, settings: JudgeSettings, *, sleep: Callable[[float], None] | None = None) -> None:
        self.settings = settings
        self._sleep = sleep or time.sleep
        self._ollama = _import_ollama(settings.url)
        import httpx

        timeout = httpx.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s)
        # httpx would use a proxy from the environment even for this machine.
        trust_env = not is_loopback(settings.url)
        self._client: ollama.Client = self._ollama.Client(
            settings.url, timeout=timeout, trust_env=trust_env, verify=_tls_context()
        )
        # The ollama package has no call for the server's version.
        short_timeout = httpx.Timeout(30.0, connect=settings.connect_timeout_s)
        self._http: httpx.Client = httpx.Client(timeout=short_timeout, trust_env=trust_env, verify=_tls_context())

    def close(self) -> None:
        """Close all connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the package does not annotate this method
        self._http.close()

    # --- calls ----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> dict[str, Any]:
        """Get a JSON object. A JSON value of another type gives an empty dict.

        Raises:
            PrerequisiteError: no server answers.
            JudgeError: access is refused, or the server is not an Ollama server.
        """
        import httpx

        url = self.settings.url
        try:
            response = self._http.get(url + path)
        except httpx.TransportError as error:
            raise self.unreachable() from error
        if response.status_code in {401, 403}:
            raise JudgeError(f"judge: expected access to {url}, got HTTP {response.status_code} on {path}.")
        try:
            value = response.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise JudgeError(
                f"judge: expected an Ollama server at {url}, got HTTP {response.status_code} on {path}. Check --host."
            ) from error
        return value if isinstance(value, dict) else {}

    def chat(
        self,
        messages: list[dict[str, str]],
        *,
        seed: int | None = None,
        on_retry: Callable[[CallFailure], None] = lambda _failure: None,
    ) -> CompleteAnswer:
        """Send messages and return the complete answer. Empty `messages` only load the model.

        Retries as often as each kind of failure allows, with growing, jittered pauses. `on_retry` gets every failure
        except the last one.

        Raises:
            CallFailure: the last failure.
            PrerequisiteError, JudgeError: a failure that concerns every row.
        """
        from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

        def failure_of(state: RetryCallState) -> CallFailure:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, CallFailure)
            return error

        retrying = Retrying(
            retry=retry_if_exception_type(CallFailure),
            stop=lambda state: state.attempt_number > failure_of(state).retries,
            wait=wait_exponential(multiplier=0.5, max=8) + wait_random(0, 0.5),
            before_sleep=lambda state: on_retry(failure_of(state)),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(lambda: self._collect(self._stream(messages, seed)))

    def _stream(self, messages: list[dict[str, str]], seed: int | None) -> Iterator[ollama.ChatResponse]:
        options = self.settings.options | ({} if seed is None else {"seed": seed})
        return self._client.chat(
            model=self.settings.model,
            messages=messages,
            stream=True,
            format=SCHEMA,
            options=options,
            think=False,
            keep_alive=self.settings.keep_alive,
        )

    def _collect(self, stream: Iterator[ollama.ChatResponse]) -> CompleteAnswer:
        """Read a stream to its end. Raises CallFailure if the answer is not complete."""
        start = time.monotonic()
        pieces: list[str] = []
        last: ollama.ChatResponse | None = None
        try:
            with contextlib.closing(stream):  # type: ignore[type-var]  # the package returns a generator
                for last in stream:
                    pieces.append(last.message.content or "")
                    if time.monotonic() - start > self.settings.deadline_s:
                        raise CallFailure(
                            "timeout", f"no end of the answer after {self.settings.deadline_s:g} s", retries=1
                        )
        except CallFailure:
            raise
        except Exception as error:  # The client raises six families of errors. Unknown errors are raised again.
            raise self._classify(error, started=bool(pieces)) from error
        if last is None or last.done is not True:
            raise CallFailure("incomplete", "the answer ended without `done`")
        if last.done_reason not in {"stop", "load"}:
            raise CallFailure("incomplete", f"the answer ended for the reason {last.done_reason!r}, not 'stop'")
        return CompleteAnswer(
            content=encodable("".join(pieces)), prompt_tokens=last.prompt_eval_count, response_tokens=last.eval_count
        )

    # --- failures -------------------------------------------------------------------------------------------------

    def _classify(self, error: Exception, *, started: bool) -> CallFailure:
        """Return what an error of the client means for this row. Raises errors that concern every row.

        `started` means that a part of the answer has arrived.
        """
        import httpx
        from pydantic import ValidationError

        message = str(error) or type(error).__name__
        match error:
            case self._ollama.ResponseError():
                return self._classify_response(error)
            case httpx.ConnectTimeout() | httpx.ConnectError() | ConnectionError():
                return CallFailure("unreachable", message, retries=3)
            case httpx.TimeoutException():
                return CallFailure("timeout", f"silent for {self.settings.silence_timeout_s:g} s", retries=1)
            case httpx.TransportError() if not started:
                return CallFailure("unreachable", message, retries=3)
            case httpx.TransportError():
                return CallFailure("incomplete", f"the connection broke: {message}", retries=1)
            case json.JSONDecodeError() | UnicodeDecodeError() if started:
                return CallFailure("incomplete", f"the stream broke: {message}", retries=1)
            case json.JSONDecodeError() | UnicodeDecodeError() | AttributeError() | TypeError() | ValidationError():
                # The package raises these for a body that is not a JSON object, or an object of another form.
                return CallFailure("server_error", f"the server's answer is not Ollama's: {message}")
            case httpx.HTTPError() | httpx.StreamError():
                return CallFailure("server_error", message)
        raise error

    def _classify_response(self, error: ollama.ResponseError) -> CallFailure:
        status, message = error.status_code, _server_message(error)
        if status == 404 and "not found" in message and "page" not in message:
            raise self.missing_model(None) from error
        if status in {401, 403}:
            raise JudgeError(f"judge: expected access to {self.settings.url}, got HTTP {status}: {message}.") from error
        if context_message := _context_message(message):
            return CallFailure("too_long", context_message)
        if status == 503:
            return CallFailure("server_error", message, retries=3)
        # The package uses status -1 for an error line inside a stream.
        retry_once = status == -1 or (status == 500 and "unexpectedly stopped" in message)
        detail = message if status == -1 else f"HTTP {status}: {message}"
        return CallFailure("server_error", detail, retries=int(retry_once))

    def unreachable(self) -> PrerequisiteError:
        """Return the error for a server that does not answer."""
        return PrerequisiteError(
            f"judge: expected an Ollama server at {self.settings.url}, got no answer. Start it: ollama serve"
        )

    def missing_model(self, installed: list[str] | None) -> PrerequisiteError:
        """Return the error for a model that is not installed. `installed` is None if the list is not known."""
        if installed is None:
            actual = "no such model"
        else:
            actual = f"only {', '.join(installed)}" if installed else "no models at all"
        return PrerequisiteError(
            f"judge: expected the model {self.settings.model!r} at {self.settings.url}, got {actual}. "
            f"Fetch it: ollama pull {self.settings.model}"
        )


def full_name(model: str) -> str:
    """Return a model's name with its tag: `llama3.1` means `llama3.1:latest`."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


@cache
def _tls_context() -> ssl.SSLContext:
    """Return one context for all clients: reading the certificates takes longer than everything else here."""
    import httpx

    return httpx.create_ssl_context()


def _server_message(error: ollama.ResponseError) -> str:
    """Return the server's message on one line, cut to 500 characters because it can be an error page."""
    words = " ".join(str(error.error).split())
    return (words or "no reason given")[:500]


def _context_message(message: str) -> str | None:
    """Return a sentence if the server reports that the prompt does not fit, in one of Ollama's two forms."""
    with contextlib.suppress(ValueError):
        nested = json.loads(message)
        detail = nested.get("error") if isinstance(nested, dict) else None
        if isinstance(detail, dict) and detail.get("type") == "exceed_context_size_error":
            needed, context = detail.get("n_prompt_tokens"), detail.get("n_ctx")
            return f"{needed} tokens; the judge's context has {context}. Raise --num-ctx."
    if "exceeds the available context size" in message or "longer than the context length" in message:
        return message
    return None


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
