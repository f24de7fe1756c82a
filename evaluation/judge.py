"""The judge: a model behind an Ollama server, asked about one row at a time.

`Judge.attempts` never raises for a row: a row is scored, or unscored for one of the `Reason`s. What concerns every row
(no server, no such model, a model that cannot be loaded) is raised. Failures that can pass are tried again.

Facts about Ollama that shape this file: an answer counts only with `done` and `done_reason: stop`, because errors and
cut answers come inside HTTP 200; identical options on every call, because others reload the model; one request at a
time, because the server queues without a bound; a prompt that is too long may be cut in silence.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any

from assistant.errors import JudgeError, PrerequisiteError
from assistant.ollama_server import is_loopback
from assistant.settings import Frozen
from evaluation.escape import encodable
from evaluation.judgement import LEAST_CONTEXT, TRANSIENT, Attempt, JudgeIdentity, JudgeSettings, Reason
from evaluation.rubric import SCHEMA, Material, VerdictError, build_prompt, parse_verdict, rubric_hash

if TYPE_CHECKING:
    import ssl

    import httpx
    import ollama


class _Failure(Exception):
    """A call that gave no complete answer. `retries` is how often a failure of this kind is tried again at once."""

    def __init__(self, reason: Reason, detail: str, *, retries: int = 0) -> None:
        super().__init__(encodable(detail))
        self.reason: Reason = reason
        self.retries = retries


class _Complete(Frozen):
    """An answer that ended with `done` and `stop`."""

    content: str
    prompt_tokens: int | None
    response_tokens: int | None


class Judge:
    """A connection to one judge. Use it as a context manager; `connect` before `attempts`."""

    def __init__(self, settings: JudgeSettings, *, sleep: Callable[[float], None] | None = None) -> None:
        self.settings = settings
        self._sleep = sleep or time.sleep
        self._num_ctx = settings.num_ctx
        self._ollama = _import_ollama(settings.url)
        import httpx

        timeout = httpx.Timeout(settings.silence_timeout_s, connect=settings.connect_timeout_s)
        # A proxy in the environment would be used even for this machine.
        trust_env = not is_loopback(settings.url)
        self._client: ollama.Client = self._ollama.Client(
            settings.url, timeout=timeout, trust_env=trust_env, verify=_tls()
        )
        # The package has no call for the server's version.
        quick = httpx.Timeout(30.0, connect=settings.connect_timeout_s)
        self._http: httpx.Client = httpx.Client(timeout=quick, trust_env=trust_env, verify=_tls())

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # the package leaves this one without annotations
        self._http.close()

    def connect(self) -> JudgeIdentity:
        """Ask the server who it is and whether it has the model.

        Raises:
            PrerequisiteError: no server answers there, or it does not have the model; the sentence names the command.
            JudgeError: something answers that is no Ollama server.
        """
        server_version = self._get("/api/version").get("version")
        listed = self._get("/api/tags").get("models")
        if not isinstance(server_version, str) or not isinstance(listed, list):
            raise JudgeError(
                f"judge: expected an Ollama server at {self.settings.url}, got something else. Check --host."
            )
        digests = {str(entry.get("name")): str(entry.get("digest")) for entry in listed if isinstance(entry, dict)}
        name = _full_name(self.settings.model)
        if name not in digests:
            raise self._missing_model(sorted(digests))
        return JudgeIdentity(
            model=self.settings.model,
            digest=digests[name],
            server_version=server_version,
            client_version=version("ollama"),
            options=self.settings.options,
            rubric=rubric_hash(),
        )

    def load(self) -> None:
        """Load the model, which may take minutes, and note how much context it really got.

        Raises:
            PrerequisiteError, JudgeError: as `connect`, or the model cannot be loaded.
        """
        try:
            self._retrying(lambda: self._drain(self._chat([])), on_retry=lambda _failure: None)
        except _Failure as failure:
            if failure.reason == "unreachable":
                raise self._unreachable() from failure
            if failure.reason != "incomplete":  # an odd end of a request for nothing says nothing about the rows
                raise JudgeError(
                    f"judge: expected {self.settings.url} to load {self.settings.model!r}, got: {failure}. "
                    f"Try it by hand: ollama run {self.settings.model}"
                ) from failure
        with contextlib.suppress(JudgeError):
            for entry in self._get("/api/ps").get("models") or []:
                self._note_context(entry)

    def _note_context(self, entry: object) -> None:
        """The server takes the model's trained context where that is shorter, and only says so in this list."""
        if isinstance(entry, dict) and entry.get("name") == _full_name(self.settings.model):
            context = entry.get("context_length")
            if isinstance(context, int) and context > 0:
                self._num_ctx = min(self.settings.num_ctx, context)

    def attempts(self, material: Material) -> Iterator[Attempt]:
        """Ask about one row; the last attempt is what came of it. At most one is asked again for its form.

        Raises:
            PrerequisiteError, JudgeError: for what concerns every row: the model is gone, or access is refused.
        """
        prompt = build_prompt(material)
        estimate = len(prompt.encode()) // 3 + self.settings.num_predict
        if estimate >= self._num_ctx:
            detail = (
                f"about {estimate} tokens with the verdict; the judge's context has {self._num_ctx}. Raise --num-ctx."
            )
            yield Attempt(unscored="too_long", detail=detail)
            return
        attempts = self._ask(prompt, self.settings.seed, is_last=False)
        yield from attempts
        if attempts[-1].unscored == "unparsable":
            # At temperature 0 another seed alone would give the same answer, so it is told what was wrong as well.
            yield from self._ask(build_prompt(material, repair=True), self.settings.seed + 1, is_last=True)

    def _ask(self, prompt: str, seed: int, *, is_last: bool) -> list[Attempt]:
        """One question with its retries; the last attempt ended it."""
        attempts: list[Attempt] = []
        start = time.monotonic()

        def note(failure: _Failure) -> None:
            attempts.append(
                Attempt(
                    unscored=failure.reason,
                    detail=str(failure),
                    final=failure.reason not in TRANSIENT,
                    seed=seed,
                    seconds=round(time.monotonic() - start, 3),
                )
            )

        try:
            answer = self._retrying(lambda: self._drain(self._chat([{"role": "user", "content": prompt}], seed)), note)
        except _Failure as failure:
            note(failure)
            return attempts
        said = Attempt(
            content=answer.content,
            seed=seed,
            prompt_tokens=answer.prompt_tokens,
            response_tokens=answer.response_tokens,
            seconds=round(time.monotonic() - start, 3),
        )
        return [*attempts, said.model_copy(update=self._read(answer, prompt, is_last=is_last))]

    def _read(self, answer: _Complete, prompt: str, *, is_last: bool) -> dict[str, object]:
        """What a complete answer comes to, as fields of an Attempt."""
        if was_cut(prompt, answer.prompt_tokens, self._num_ctx):
            detail = f"the server read {answer.prompt_tokens} tokens of a longer prompt. Raise --num-ctx."
            return {"unscored": "truncated", "detail": detail}
        try:
            verdict = parse_verdict(answer.content)
        except VerdictError as error:
            return {"unscored": "unparsable", "detail": encodable(str(error)), "final": is_last}
        return {"score": verdict.score, "analysis": encodable(verdict.analysis)}

    # --- one call -------------------------------------------------------------------------------------------------

    def _chat(self, messages: list[dict[str, str]], seed: int | None = None) -> Iterator[ollama.ChatResponse]:
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

    def _drain(self, stream: Iterator[ollama.ChatResponse]) -> _Complete:
        """The complete answer. Raises _Failure."""
        start = time.monotonic()
        pieces: list[str] = []
        last: ollama.ChatResponse | None = None
        try:
            with contextlib.closing(stream):  # type: ignore[type-var]  # the package returns a generator
                for last in stream:
                    pieces.append(last.message.content or "")
                    if time.monotonic() - start > self.settings.deadline_s:
                        raise _Failure(
                            "timeout", f"no end of the answer after {self.settings.deadline_s:g} s", retries=1
                        )
        except _Failure:
            raise
        except Exception as error:  # the client raises six families of errors; unknown ones go on
            raise self._classify(error, begun=bool(pieces)) from error
        if last is None or last.done is not True:
            raise _Failure("incomplete", "the answer ended without `done`")
        if last.done_reason not in {"stop", "load"}:
            raise _Failure("incomplete", f"the answer ended for the reason {last.done_reason!r}, not 'stop'")
        return _Complete(
            content=encodable("".join(pieces)), prompt_tokens=last.prompt_eval_count, response_tokens=last.eval_count
        )

    def _retrying(self, call: Callable[[], _Complete], on_retry: Callable[[_Failure], None]) -> _Complete:
        """`call` with its failures tried again as often as each kind deserves, with growing, jittered pauses."""
        from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

        def failure_of(state: RetryCallState) -> _Failure:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, _Failure)
            return error

        retrying = Retrying(
            retry=retry_if_exception_type(_Failure),
            stop=lambda state: state.attempt_number > failure_of(state).retries,
            wait=wait_exponential(multiplier=0.5, max=8) + wait_random(0, 0.5),
            before_sleep=lambda state: on_retry(failure_of(state)),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(call)

    def _classify(self, error: Exception, *, begun: bool) -> _Failure:
        """What an error of the client means for this row. Errors that mean every row are raised."""
        import httpx
        from pydantic import ValidationError

        said = str(error) or type(error).__name__
        match error:
            case self._ollama.ResponseError():
                return self._classify_response(error)
            case httpx.ConnectTimeout() | httpx.ConnectError() | ConnectionError():
                return _Failure("unreachable", said, retries=3)
            case httpx.TimeoutException():
                silence = f"silent for {self.settings.silence_timeout_s:g} s"
                return _Failure("timeout", silence, retries=1)
            case httpx.TransportError() if not begun:
                return _Failure("unreachable", said, retries=3)
            case httpx.TransportError():
                return _Failure("incomplete", f"the connection broke: {said}", retries=1)
            case json.JSONDecodeError() | UnicodeDecodeError() if begun:
                return _Failure("incomplete", f"the stream broke: {said}", retries=1)
            case json.JSONDecodeError() | UnicodeDecodeError() | AttributeError() | TypeError() | ValidationError():
                # What the package does with a body that is no object, or an object of another form.
                return _Failure("server_error", f"the server's answer is not Ollama's: {said}")
            case httpx.HTTPError() | httpx.StreamError():
                return _Failure("server_error", said)
        raise error

    def _classify_response(self, error: ollama.ResponseError) -> _Failure:
        status, said = error.status_code, _said(error)
        if status == 404 and "not found" in said and "page" not in said:
            raise self._missing_model(None) from error
        if status in {401, 403}:
            raise JudgeError(f"judge: expected access to {self.settings.url}, got HTTP {status}: {said}.") from error
        if too_long := _context_error(said):
            return _Failure("too_long", too_long)
        if status == 503:
            return _Failure("server_error", said, retries=3)
        # -1 is an error line inside a stream.
        once = status == -1 or (status == 500 and "unexpectedly stopped" in said)
        return _Failure("server_error", said if status == -1 else f"HTTP {status}: {said}", retries=int(once))

    # --- what concerns every row ----------------------------------------------------------------------------------

    def _get(self, path: str) -> dict[str, Any]:
        import httpx

        try:
            answer = self._http.get(self.settings.url + path)
        except httpx.TransportError as error:
            raise self._unreachable() from error
        if answer.status_code in {401, 403}:
            raise JudgeError(f"judge: expected access to {self.settings.url}, got HTTP {answer.status_code} on {path}.")
        try:
            value = answer.raise_for_status().json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise JudgeError(
                f"judge: expected an Ollama server at {self.settings.url}, got HTTP {answer.status_code} on {path}. "
                f"Check --host."
            ) from error
        return value if isinstance(value, dict) else {}

    def _unreachable(self) -> PrerequisiteError:
        return PrerequisiteError(
            f"judge: expected an Ollama server at {self.settings.url}, got no answer. Start it: ollama serve"
        )

    def _missing_model(self, known: list[str] | None) -> PrerequisiteError:
        found = "no such model" if known is None else f"only {', '.join(known)}" if known else "no models at all"
        return PrerequisiteError(
            f"judge: expected the model {self.settings.model!r} at {self.settings.url}, got {found}. "
            f"Fetch it: ollama pull {self.settings.model}"
        )


def was_cut(prompt: str, prompt_tokens: int | None, num_ctx: int) -> bool:
    """Whether the server read only a part of the prompt, going by the number of tokens it reports.

    Ollama cuts to half the context and two or three tokens more (v0.30.11), or to all of it but one (older). A model
    with a shorter context than was asked for shows in a number below that of the prompt's words. Numbers below half of
    the shortest context are left alone: they come from old servers that leave out what they had cached.
    """
    if prompt_tokens is None:
        return False
    half = num_ctx // 2
    if half + 2 <= prompt_tokens <= half + 3 or prompt_tokens >= num_ctx - 1:
        return True
    return LEAST_CONTEXT // 2 < prompt_tokens < len(re.findall(r"\w+", prompt))


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: reading the certificates takes longer than anything else here."""
    import httpx

    return httpx.create_ssl_context()


def _full_name(model: str) -> str:
    """`llama3.1` means `llama3.1:latest`."""
    return model if ":" in model.rsplit("/", 1)[-1] else f"{model}:latest"


def _said(error: ollama.ResponseError) -> str:
    """The server's words on one line; an error page is cut."""
    words = " ".join(str(error.error).split())
    return (words or "no reason given")[:500]


def _context_error(said: str) -> str | None:
    """The sentence for a prompt that does not fit, from either of Ollama's two forms of saying so."""
    with contextlib.suppress(ValueError):
        nested = json.loads(said)
        detail = nested.get("error") if isinstance(nested, dict) else None
        if isinstance(detail, dict) and detail.get("type") == "exceed_context_size_error":
            needed, context = detail.get("n_prompt_tokens"), detail.get("n_ctx")
            return f"{needed} tokens; the judge's context has {context}. Raise --num-ctx."
    if "exceeds the available context size" in said or "longer than the context length" in said:
        return said
    return None


def _import_ollama(url: str) -> Any:
    """The `ollama` package. It makes a client while it is imported, from settings that it cannot always read."""
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
