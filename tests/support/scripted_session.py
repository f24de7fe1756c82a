"""A session without a model, for the chat's tests: it replies with a script.

mypy checks it against `SessionLike`, because tests pass it to `ChatApp`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from assistant.dataset.examples import Example, Exchange
from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer, read_tokenizer
from assistant.decoding.reply import InspectedToken, Reply, StopReason, TokenLogprob
from assistant.errors import ContextError
from assistant.model.config import ModelInfo
from assistant.settings import GenerationSettings
from assistant.shipped import POCKET, shipped

HOLD_LIMIT_SECONDS = 10.0
TOKENS_PER_SECOND = 20
"""The speed that every reply reports, so that tests can assert on it."""


class ScriptedSession:
    """Replies with fixed pieces of text, one token each, up to `max_new_tokens`.

    Args:
        pieces: The text of every reply.
        hold_at: The index of the piece before which a reply waits, until `gate` is set or the caller stops it.
        error: Raised after the last piece.
        echo: Start every reply with a piece that repeats the instruction.
        piece_seconds: How long a reply waits after each piece.
    """

    def __init__(
        self,
        *pieces: str,
        hold_at: int | None = None,
        error: BaseException | None = None,
        echo: bool = False,
        piece_seconds: float = 0.0,
        name: str = "toy",
        context_length: int = 256,
    ) -> None:
        self.pieces = pieces
        self.hold_at = hold_at
        self.error = error
        self.echo = echo
        self.piece_seconds = piece_seconds
        self.name = name
        self.folder: Path | None = None
        self.n_parameters = 100_000
        self.context_length = context_length
        self.info: ModelInfo | None = None
        self.template = get_template("alpaca")
        self.template_note = ""
        self.answers: dict[str, str] = {}
        """Replies to some instructions, in place of the pieces."""
        self.inputs: list[str] = []
        """The input of every call, in order."""
        self.histories: list[tuple[Exchange, ...]] = []
        """The history of every call, in order."""
        self.gate = threading.Event()
        self.ignores_stop = False
        """Whether a held reply ignores a stop, as a model does while it computes a slow token."""
        self.instructions: list[str] = []
        """The instruction of every call, in order."""
        self.settings: list[GenerationSettings] = []
        """The settings of every call, in order."""
        self.running = 0
        """The number of calls that run now."""
        self.max_running = 0
        """The largest number of calls that ever ran at the same time."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the shipped model."""
        return _pocket_tokenizer()

    def encode_prompt(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = ()
    ) -> tuple[str, list[int]]:
        """Render the prompt with the template, and encode it."""
        prompt = self.template.render(instruction, input, history)
        return prompt, self.tokenizer.encode(prompt)

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",
        history: Sequence[Exchange] = (),
        settings: GenerationSettings,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        forced_ids: Sequence[int] = (),
    ) -> Reply:
        """Play the script, after the text of `forced_ids`.

        Raises:
            BaseException: `error`, if there is one.
        """
        self.instructions.append(instruction)
        self.inputs.append(input)
        self.histories.append(tuple(history))
        self.settings.append(settings)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        begin = (self.tokenizer.decode(forced_ids),) if forced_ids else ()
        prompt_ids = tuple(self.encode_prompt(instruction, input=input, history=history)[1])
        try:
            reply = self._play(
                instruction, begin, settings.max_new_tokens, on_text or (lambda _: None), should_stop or (lambda: False)
            )
            return reply.model_copy(update={"prompt_token_ids": prompt_ids})
        finally:
            self.running -= 1

    def replies(
        self,
        examples: Sequence[Example],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,  # noqa: ARG002  as in Session
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Play the script for each example."""
        for index, example in enumerate(examples):
            yield (
                index,
                self.reply(example.instruction, input=example.input, settings=settings, should_stop=should_stop),
            )

    def inspect(
        self,
        prompt_ids: Sequence[int],  # noqa: ARG002 - the script knows no prompts
        token_ids: Sequence[int],
        *,
        count: int = 5,
        with_eos: bool,
    ) -> list[InspectedToken]:
        """Give every token half of the probability, and the other half to the letters from A on."""
        return [self._inspected(token_id, count) for token_id in [*token_ids, *[self.tokenizer.eos_id] * with_eos]]

    def _inspected(self, token_id: int, count: int) -> InspectedToken:
        others = [other for other in range(65, 65 + count) if other != token_id][: count - 1]
        logprobs = {token_id: math.log(0.5)} | {other: math.log(0.5 / len(others)) for other in others}
        likeliest = tuple(
            TokenLogprob(token_id=id_, text=self.tokenizer.decode([id_]), logprob=logprob)
            for id_, logprob in logprobs.items()
        )
        entropy = -sum(math.exp(logprob) * math.log2(math.exp(logprob)) for logprob in logprobs.values())
        return InspectedToken(
            token_id=token_id,
            text=likeliest[0].text,
            logprob=likeliest[0].logprob,
            likeliest=likeliest[:count],
            rank=1,
            entropy=entropy,
        )

    def _play(
        self,
        instruction: str,
        begin: tuple[str, ...],
        max_new_tokens: int,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Reply:
        pieces = (f"You said: {instruction}.\n\n", *self.pieces) if self.echo else self.pieces
        if instruction in self.answers:
            pieces = (self.answers[instruction],)
        pieces = begin + pieces
        for index, piece in enumerate(pieces):
            if index == max_new_tokens:
                return _make_reply(instruction, pieces[:index], "length")
            self._hold(index, should_stop)
            if should_stop():
                return _make_reply(instruction, pieces[:index], "cancelled")
            on_text(piece)
            if self.piece_seconds:
                time.sleep(self.piece_seconds)
        if self.error is not None:
            raise self.error
        return _make_reply(instruction, pieces, "eos")

    def _hold(self, index: int, should_stop: Callable[[], bool]) -> None:
        deadline = time.monotonic() + HOLD_LIMIT_SECONDS
        while index == self.hold_at and not self.gate.wait(0.005):
            if should_stop() and not self.ignores_stop:
                return
            assert time.monotonic() < deadline, "the reply waited too long: no test set the gate or stopped the reply"


class TokenSession(ScriptedSession):
    """Replies with the tokens of its text, so that two answers differ in the token where their texts do."""

    def reply(self, instruction: str, **rest: Any) -> Reply:
        """Play the script."""
        reply = super().reply(instruction, **rest)
        return reply.model_copy(update={"token_ids": tuple(self.tokenizer.encode(reply.response))})


def _make_reply(instruction: str, written: tuple[str, ...], stop_reason: StopReason) -> Reply:
    return Reply(
        prompt=instruction,
        prompt_token_ids=(),
        response="".join(written),
        token_ids=tuple(range(len(written))),
        stop_reason=stop_reason,
        seconds=len(written) / TOKENS_PER_SECOND,
    )


@cache
def _pocket_tokenizer() -> Tokenizer:
    return read_tokenizer(shipped(POCKET))
