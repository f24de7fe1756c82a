"""The judge: a model on an Ollama server that scores one row at a time.

`Judge.attempts` raises nothing for a single row: the row gets a score, or one of the `Reason`s. Failures that concern
every row (no server, no such model, a model that cannot be loaded) are raised. Does not know where attempts are stored.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from types import TracebackType

from assistant.errors import JudgeError
from evaluation.escape import encodable
from evaluation.judgement import MIN_CONTEXT, TRANSIENT, Attempt, JudgeIdentity, JudgeSettings
from evaluation.ollama_client import CallFailure, CompleteAnswer, OllamaClient, full_name
from evaluation.rubric import Material, VerdictError, build_prompt, parse_verdict, rubric_hash


class Judge:
    """One judge. Use it as a context manager, and call `connect` before `attempts`.

    Args:
        settings: Which judge, where, and how to ask it.
        sleep: Replaces `time.sleep` between retries.
    """

    def __init__(self, settings: JudgeSettings, *, sleep: Callable[[float], None] | None = None) -> None:
        self.settings = settings
        self._num_ctx = settings.num_ctx
        self._client = OllamaClient(settings, sleep=sleep)

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def connect(self) -> JudgeIdentity:
        """Ask the server for its version and for the model's digest.

        Raises:
            PrerequisiteError: no server answers, or it does not have the model; the message names the command.
            JudgeError: the server is not an Ollama server.
        """
        server_version = self._client.get("/api/version").get("version")
        listed = self._client.get("/api/tags").get("models")
        if not isinstance(server_version, str) or not isinstance(listed, list):
            raise JudgeError(
                f"judge: expected an Ollama server at {self.settings.url}, got another server. Check --host."
            )
        digests = {str(entry.get("name")): str(entry.get("digest")) for entry in listed if isinstance(entry, dict)}
        name = full_name(self.settings.model)
        if name not in digests:
            raise self._client.missing_model(sorted(digests))
        return JudgeIdentity(
            model=self.settings.model,
            digest=digests[name],
            server_version=server_version,
            client_version=version("ollama"),
            options=self.settings.options,
            rubric=rubric_hash(),
        )

    def load(self) -> None:
        """Load the model, which may take minutes, and read the context length that it really has.

        Raises:
            PrerequisiteError, JudgeError: as `connect`, or the model cannot be loaded.
        """
        try:
            self._client.chat([])
        except CallFailure as failure:
            if failure.reason == "unreachable":
                raise self._client.unreachable() from failure
            if failure.reason != "incomplete":  # A load has no content, so an odd end does not concern the rows.
                raise JudgeError(
                    f"judge: expected {self.settings.url} to load {self.settings.model!r}, got: {failure}. "
                    f"Try it by hand: ollama run {self.settings.model}"
                ) from failure
        with contextlib.suppress(JudgeError):
            for entry in self._client.get("/api/ps").get("models") or []:
                self._limit_context(entry)

    def _limit_context(self, entry: object) -> None:
        """Note the context if it is shorter than requested.

        The server uses at most the context that the model was trained with, and reports it only in `/api/ps`.
        """
        if isinstance(entry, dict) and entry.get("name") == full_name(self.settings.model):
            context = entry.get("context_length")
            if isinstance(context, int) and context > 0:
                self._num_ctx = min(self.settings.num_ctx, context)

    def attempts(self, material: Material) -> Iterator[Attempt]:
        """Ask about one row. The last attempt is the row's outcome.

        An answer that is not a valid verdict is asked for once more, with a sentence that it could not be read.

        Raises:
            PrerequisiteError, JudgeError: a failure that concerns every row: the model is gone, or access is refused.
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
            # At temperature 0, another seed by itself would give the same answer. So the prompt changes, too.
            yield from self._ask(build_prompt(material, repair=True), self.settings.seed + 1, is_last=True)

    def _ask(self, prompt: str, seed: int, *, is_last: bool) -> list[Attempt]:
        """Ask one question. Returns one attempt per try, and the outcome last."""
        attempts: list[Attempt] = []
        start = time.monotonic()

        def record_failure(failure: CallFailure) -> None:
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
            answer = self._client.chat([{"role": "user", "content": prompt}], seed=seed, on_retry=record_failure)
        except CallFailure as failure:
            record_failure(failure)
            return attempts
        answered = Attempt(
            content=answer.content,
            seed=seed,
            prompt_tokens=answer.prompt_tokens,
            response_tokens=answer.response_tokens,
            seconds=round(time.monotonic() - start, 3),
        )
        return [*attempts, answered.model_copy(update=self._outcome(answer, prompt, is_last=is_last))]

    def _outcome(self, answer: CompleteAnswer, prompt: str, *, is_last: bool) -> dict[str, object]:
        """Return the outcome of a complete answer, as fields of an Attempt."""
        if was_truncated(prompt, answer.prompt_tokens, self._num_ctx):
            detail = f"the server read {answer.prompt_tokens} tokens of a longer prompt. Raise --num-ctx."
            return {"unscored": "truncated", "detail": detail}
        try:
            verdict = parse_verdict(answer.content)
        except VerdictError as error:
            return {"unscored": "unparsable", "detail": encodable(str(error)), "final": is_last}
        return {"score": verdict.score, "analysis": encodable(verdict.analysis)}


def was_truncated(prompt: str, prompt_tokens: int | None, num_ctx: int) -> bool:
    """Return whether the server read only a part of the prompt. `prompt_tokens` is the number that it reports.

    Ollama cuts a prompt that is too long without an error: to half the context plus two or three tokens (v0.30.11), or
    to the context minus one (older versions). If the model has a shorter context than requested, the server reports
    fewer tokens than the prompt has words. Numbers up to half of the smallest context do not count: old servers leave
    out the tokens that they have in their prefix cache.
    """
    if prompt_tokens is None:
        return False
    half = num_ctx // 2
    if half + 2 <= prompt_tokens <= half + 3 or prompt_tokens >= num_ctx - 1:
        return True
    return MIN_CONTEXT // 2 < prompt_tokens < len(re.findall(r"\w+", prompt))
