"""The judge: asks a model about one row, and turns its answer into a score or a `Reason`.

Failures that concern every row (no such model, no access) are raised. Does not know which server is asked, when a row
is asked again, or where attempts are stored. `BaseJudge` asks; a judge of another kind of question gives the question
and reads the answer (`evaluation.judging.pair_judge`).
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from importlib.metadata import version
from typing import Any, Generic, NamedTuple, TypeVar

from assistant.escape import encodable
from evaluation.judging.calls import CallFailure, CompleteAnswer, JudgeClient, Question, ServerFacts
from evaluation.judging.judgement import MIN_CONTEXT, TRANSIENT, Attempt, JudgeIdentity, JudgeSettings
from evaluation.judging.ollama_client import OllamaClient
from evaluation.judging.openai_client import OpenAIClient
from evaluation.judging.rubric import Material, Method
from evaluation.judging.verdict import VerdictError, parse_verdict

Asked = TypeVar("Asked")
"""What one question is about."""


class Try(NamedTuple):
    """One try at a row: its attempts, and how often a failure of this kind may be tried again.

    The last attempt is the outcome. `retries` is 0 if the outcome does not change when it is asked again. `answered` is
    False if the server gave no answer, or was too busy for one.
    """

    attempts: tuple[Attempt, ...]
    retries: int = 0
    answered: bool = True


class BaseJudge(ABC, Generic[Asked]):
    """How one judge is asked. It holds no connection; the clients do."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def prompt_hash(self) -> str:
        """16 hex digits of all texts of the prompt that do not come from a row."""

    @abstractmethod
    def question(self, asked: Asked, *, repair: bool = False) -> Question:
        """Return one question. `repair` asks again after an answer that could not be read."""

    @abstractmethod
    def read(self, answer: CompleteAnswer, asked: Asked) -> dict[str, object]:
        """Return what a complete answer says, as fields of an Attempt with a score.

        Raises:
            VerdictError: the answer is not a valid verdict.
        """

    def make_client(self, url: str) -> JudgeClient:
        """Return a client for one of the servers."""
        client = OpenAIClient if self.settings.api == "openai" else OllamaClient
        return client(self.settings, url)

    def identity(self, facts: ServerFacts) -> JudgeIdentity:
        """Return what a score by this judge depends on."""
        options = self.settings.options | {"truncate": False, "think": False}
        if self.settings.api == "openai":
            del options["truncate"]  # OpenAI's API has no such field
        return JudgeIdentity(
            model=self.settings.model,
            digest=facts.digest,
            server_version=facts.version,
            client_version=version("ollama"),
            options=options,
            rubric=self.prompt_hash,
            api=self.settings.api,
        )

    def context(self, reported: int | None) -> int:
        """Return the context that a row must fit into. `reported` is the model's own, if the server reports it."""
        if self.settings.api == "openai":
            return reported or self.settings.num_ctx
        return min(self.settings.num_ctx, reported or self.settings.num_ctx)

    async def ask(self, client: JudgeClient, asked: Asked, *, context: int, server_version: str) -> Try:
        """Ask about one row.

        An answer that is not a valid verdict is asked for once more, with a sentence that it could not be read.

        Raises:
            PrerequisiteError, JudgeError: a failure that concerns every row at this server.
        """
        question = self.question(asked)
        common: dict[str, Any] = {
            "num_ctx": self.settings.num_ctx,
            "server_version": server_version,
            "question": question.hash,
        }
        estimate = len(_text(question).encode()) // 3 + question.num_predict
        if estimate >= context:
            detail = f"about {estimate} tokens with the verdict; the judge's context has {context}."
            return Try((Attempt(unscored="too_long", detail=f"{detail} {self._advice(context)}", **common),))
        attempt, failure = await self._ask(client, asked, context, repair=False)
        attempts = [attempt]
        if attempt.unscored == "unparsable":
            attempt, failure = await self._ask(client, asked, context, repair=True)
            attempts.append(attempt)
        stored = tuple(attempt.model_copy(update=common) for attempt in attempts)
        return Try(stored, failure.retries, not failure.is_silence) if failure else Try(stored)

    async def _ask(
        self, client: JudgeClient, asked: Asked, context: int, *, repair: bool
    ) -> tuple[Attempt, CallFailure | None]:
        """Ask one question once. Returns the attempt, and the failure if there is no complete answer."""
        question, start = self.question(asked, repair=repair), time.monotonic()
        try:
            answer = await client.ask(question)
        except CallFailure as failure:
            detail = str(failure)
            if failure.reason == "too_long":
                detail = f"{detail.rstrip('.')}. {self._advice(failure.context or context)}"
            attempt = Attempt(
                unscored=failure.reason,
                detail=detail,
                final=failure.reason not in TRANSIENT,
                seed=question.seed,
                seconds=round(time.monotonic() - start, 3),
            )
            return attempt, failure
        attempt = Attempt(
            content=answer.content,
            seed=question.seed,
            prompt_tokens=answer.prompt_tokens,
            response_tokens=answer.response_tokens,
            seconds=round(time.monotonic() - start, 3),
        )
        if was_truncated(_text(question), answer.prompt_tokens, context):
            detail = f"the server read {answer.prompt_tokens} tokens of a longer prompt. {self._advice(context)}"
            return attempt.model_copy(update={"unscored": "truncated", "detail": detail}), None
        return attempt.model_copy(update=self._outcome(answer, asked, is_last=repair)), None

    def _outcome(self, answer: CompleteAnswer, asked: Asked, *, is_last: bool) -> dict[str, object]:
        """Return the outcome of a complete answer, as fields of an Attempt."""
        try:
            return self.read(answer, asked)
        except VerdictError as error:
            return {"unscored": "unparsable", "detail": encodable(str(error)), "final": is_last}

    def _advice(self, context: int) -> str:
        """Return what to do about a row that does not fit into a context of this length."""
        if self.settings.api == "openai":
            return f"Start the server with a context of more than {context} tokens."
        if context < self.settings.num_ctx:
            return f"The judge itself reads at most {context} tokens: choose a judge with a longer context."
        return "Raise --num-ctx."


class Judge(BaseJudge[Material]):
    """A judge that scores one response to a row."""

    def __init__(self, settings: JudgeSettings, method: Method | None = None) -> None:
        super().__init__(settings)
        self.method = method or Method()

    @property
    def prompt_hash(self) -> str:
        """16 hex digits of the method's texts."""
        return self.method.hash

    def question(self, asked: Material, *, repair: bool = False) -> Question:
        """Return the question about one row. `repair` asks again after an answer that could not be read."""
        prompt = self.method.prompt(asked, repair=repair)
        return Question(
            messages=prompt.messages,
            schema=prompt.schema,
            # At temperature 0, another seed by itself would give the same answer. So the prompt changes, too.
            seed=self.settings.seed + repair,
            num_predict=prompt.num_predict or self.settings.num_predict,
            top_logprobs=prompt.top_logprobs,
            may_be_cut=prompt.may_be_cut,
        )

    def read(self, answer: CompleteAnswer, asked: Material) -> dict[str, object]:
        """Return the score that a complete answer gives."""
        prompt = self.method.prompt(asked)
        top = answer.logprobs[0].top if answer.logprobs else ()
        verdict = parse_verdict(answer.content, prompt.form, n_questions=prompt.n_questions, top=top)
        return {
            "score": verdict.score,
            "points": verdict.points,
            "analysis": encodable(verdict.analysis) or None,
            "doubt": verdict.doubt,
            "answers": verdict.answers,
        }


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


def _text(question: Question) -> str:
    return "\n".join(text for _, text in question.messages)
