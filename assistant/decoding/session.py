"""A loaded model that answers. Chat, single questions and test sets all come through `Session`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from assistant.dataset.instructions import Example, Exchange
from assistant.decoding.engine import Generated, build_engine, check_prompt_length
from assistant.decoding.reply import Reply, TokenLogprobs
from assistant.decoding.stop_strings import ReplyText
from assistant.device import pick_device
from assistant.errors import ContextError
from assistant.model.checkpoint import Checkpoint, load_checkpoint
from assistant.model.config import ModelInfo
from assistant.settings import DecodePrecision, GenerationSettings

LEAST_ROOM = 4
"""A conversation is shortened before the answer has less than one in so many of the context's tokens."""


class Session:
    """One loaded model. It answers one caller at a time; a second one gets a RuntimeError."""

    def __init__(self, checkpoint: Checkpoint, *, precision: DecodePrecision = "auto", may_draft: bool = True) -> None:
        """Of the checkpoint's model only weights are kept, in the storage that `precision` names.

        `may_draft` as `assistant.decoding.engine.build_engine` has it.
        """
        self.name = checkpoint.name
        """The folder's name."""
        self.info: ModelInfo | None = checkpoint.info
        """Where the model comes from; None for a base model."""
        self.template = checkpoint.template
        """The template the model was trained with, or the default for a base model."""
        self.precision = precision
        self.n_parameters = checkpoint.model.n_parameters
        self.context_length = checkpoint.config.context_length
        """Tokens of prompt and reply together."""
        self._tokenizer = checkpoint.tokenizer
        self._engine = build_engine(
            checkpoint.model, eos_id=self._tokenizer.eos_id, precision=precision, may_draft=may_draft
        )
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", precision: DecodePrecision = "auto", may_draft: bool = True
    ) -> Session:
        """Open a model folder. Raises CheckpointError with what is wrong with it."""
        return cls(load_checkpoint(model, device=pick_device(device)), precision=precision, may_draft=may_draft)

    @property
    def summary(self) -> str:
        """One line: name, size, template, context."""
        kind = f"template {self.template.name}" if self.info else f"base model, template {self.template.name}"
        size = f"{self.n_parameters / 1e6:.1f}M parameters"
        return f"{self.name} · {size} · {kind} · context {self.context_length}"

    def encode_prompt(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = ()
    ) -> tuple[str, list[int]]:
        """The rendered prompt and its ids.

        Raises:
            ContextError: it leaves no room for an answer.
        """
        prompt = self.template.render(instruction, input, history)
        ids = self._tokenizer.encode(prompt)
        check_prompt_length(len(ids), self.context_length)
        return prompt, ids

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",
        history: Sequence[Exchange] = (),
        settings: GenerationSettings,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Reply:
        """Answer one instruction.

        Where a long history would leave the answer less room than it may take (or a quarter of the context), the
        oldest exchanges are left out, whole, and the reply counts them.

        `on_text` gets the text as it comes, whole characters only and nothing of a stop string: what could be the
        beginning of one is held back until that is clear. `should_stop` is asked before every token, and a reply that
        was stopped keeps what it has.

        Raises:
            ContextError: the prompt leaves no room for an answer.
        """
        wanted = min(settings.max_new_tokens, self.context_length // LEAST_ROOM)
        for n_forgotten in range(len(history) + 1):
            left = history[n_forgotten:]
            prompt = self.template.render(instruction, input, left)
            ids = self._tokenizer.encode(prompt)
            if not left or len(ids) + wanted <= self.context_length:
                break
        check_prompt_length(len(ids), self.context_length)
        ((_, reply),) = self._answer([(prompt, ids)], settings, on_text=on_text, should_stop=should_stop)
        return reply.model_copy(update={"n_forgotten": n_forgotten})

    def replies(
        self, examples: Sequence[Example], settings: GenerationSettings, *, batch_size: int = 32
    ) -> Generator[tuple[int, Reply | ContextError]]:
        """Answer many examples in batches; yields (index into `examples`, reply) as they finish.

        An example whose prompt leaves no room for an answer gives its ContextError in place of a reply. The session is
        busy until the last reply is taken or the generator is closed.
        """
        prompts: dict[int, tuple[str, list[int]]] = {}
        for index, example in enumerate(examples):
            try:
                prompts[index] = self.encode_prompt(example.instruction, input=example.input, history=example.history)
            except ContextError as error:
                yield index, ContextError(f"{example.where}: {error}")
        indices = list(prompts)
        for place, reply in self._answer(list(prompts.values()), settings, batch_size=batch_size):
            yield indices[place], reply

    def _answer(
        self,
        prompts: Sequence[tuple[str, list[int]]],
        settings: GenerationSettings,
        *,
        batch_size: int = 1,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[tuple[int, Reply]]:
        """Replies to prompts and their ids, with their places, as they finish; `on_text` is for a single one."""
        tokenizer = self._tokenizer
        texts = [ReplyText(tokenizer, settings.stop) for _ in prompts]

        def on_token(place: int, token_id: int) -> bool:
            text = texts[place].push(token_id)
            if text and on_text is not None:
                on_text(text)
            return texts[place].stopped

        with self._reserved():
            for generated in self._engine.generate(
                [ids for _, ids in prompts],
                settings,
                batch_size=batch_size,
                on_token=on_token,
                should_stop=should_stop,
            ):
                place = generated.index
                if (rest := texts[place].finish()) and on_text is not None:
                    on_text(rest)
                yield place, self._as_reply(*prompts[place], generated, texts[place])

    @contextmanager
    def _reserved(self) -> Iterator[None]:
        """Keep others out: the engine's prefix cache belongs to one reply at a time."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "session: expected one caller at a time, but this model is answering someone else. Wait for that reply."
            )
        try:
            yield
        finally:
            self._busy.release()

    def _as_reply(self, prompt: str, prompt_token_ids: Sequence[int], generated: Generated, text: ReplyText) -> Reply:
        kept, logprobs = generated.token_ids, generated.logprobs
        if text.stopped:
            kept = kept[: text.kept_tokens(kept)]
            logprobs = logprobs and logprobs[: len(kept)]
        return Reply(
            prompt=prompt,
            prompt_token_ids=tuple(prompt_token_ids),
            response=text.shown,
            token_ids=kept,
            stop_reason="stop" if text.stopped else generated.stop_reason,
            seconds=generated.seconds,
            logprobs=logprobs and tuple(self._with_texts(token) for token in logprobs),
        )

    def _with_texts(self, token: TokenLogprobs) -> TokenLogprobs:
        decode = self._tokenizer.decode
        likeliest = tuple(other.model_copy(update={"text": decode([other.token_id])}) for other in token.likeliest)
        return token.model_copy(update={"text": decode([token.token_id]), "likeliest": likeliest})
