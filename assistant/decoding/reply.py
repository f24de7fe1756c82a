"""The values of a reply, and the protocol of a session that gives replies. Imports no torch.

The chat and evaluation use these types without loading a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from assistant.settings import Frozen, GenerationSettings

if TYPE_CHECKING:
    from assistant.dataset.examples import Example, Exchange
    from assistant.dataset.prompts import Template
    from assistant.dataset.tokenizer import Tokenizer
    from assistant.errors import ContextError
    from assistant.model.config import ModelInfo

StopReason = Literal["eos", "length", "stop", "cancelled"]
"""Why a reply ends: the model wrote EOS, it reached a length limit, a stop string came, or the caller stopped it."""


class TokenLogprob(Frozen):
    """A token and its log-probability, before temperature, penalty and filters."""

    token_id: int
    text: str | None = None
    """None if no tokenizer was available. Bytes that are not a character by themselves are U+FFFD."""
    logprob: float
    """Natural logarithm of the probability."""


class TokenLogprobs(TokenLogprob):
    """A new token and the likeliest tokens at its position."""

    likeliest: tuple[TokenLogprob, ...]
    """The likeliest tokens, likeliest first; they include the new token if it is likely enough."""


class InspectedToken(TokenLogprobs):
    """A token of a given answer, as the model sees it at its place."""

    rank: int
    """1 for the likeliest token. Of equally likely tokens, the one with the smaller id comes first."""
    entropy: float
    """Of the model's probabilities at this place, in bits."""


class Reply(Frozen):
    """A model's answer to one prompt, and how it was generated."""

    prompt: str
    prompt_token_ids: tuple[int, ...]
    response: str
    """The decoded new tokens, without EOS, up to the first stop string."""
    token_ids: tuple[int, ...]
    """The new tokens, without EOS. If a stop string ended the reply, tokens that contain part of it are left out: where
    it begins inside a token, the text of these tokens is shorter than the response."""
    stop_reason: StopReason
    seconds: float
    """Wall-clock seconds from the prompt to the last token."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One entry for each of `token_ids`, and one more if EOS came; None if they were not requested."""
    n_forgotten: int = 0
    """Number of the oldest exchanges that were left out of the prompt because the context is full."""


class SessionLike(Protocol):
    """A model that answers, as the chat needs it. `Session` implements it; tests have fakes."""

    @property
    def name(self) -> str:
        """The model's short name."""

    @property
    def folder(self) -> Path | None:
        """The model's folder. None if the model was not read from one."""

    @property
    def n_parameters(self) -> int:
        """Number of weights."""

    @property
    def context_length(self) -> int:
        """Maximum tokens of prompt and reply together."""

    @property
    def template(self) -> Template:
        """The template of its prompts."""

    @property
    def template_note(self) -> str:
        """What a person should know about the template, as a sentence. Mostly empty."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def info(self) -> ModelInfo | None:
        """How the model was trained; None for a base model."""

    def encode_prompt(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = ()
    ) -> tuple[str, list[int]]:
        """Render a prompt with the template; return its text and its token ids."""

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",
        history: Sequence[Exchange] = (),
        settings: GenerationSettings,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
        forced_ids: Sequence[int] = (),
    ) -> Reply:
        """Answer one instruction in the calling thread.

        `on_text` receives the text piece by piece. The session asks `should_stop` before every token; a stopped reply
        keeps its text. The reply begins with the tokens `forced_ids`, whose text `on_text` receives first, and which
        count against `max_new_tokens`; then the model goes on with the random numbers of a reply without them.
        """

    def replies(
        self,
        examples: Sequence[Example],
        settings: GenerationSettings,
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Answer many examples; yield (index into `examples`, reply) as they finish.

        Once `should_stop` returns True, the replies that have not ended end with `cancelled`.
        """

    def inspect(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, count: int = 5, with_eos: bool
    ) -> list[InspectedToken]:
        """Look at an answer after its prompt as the model sees it: an entry for each token.

        `with_eos` adds an entry for the EOS after the answer.
        """
