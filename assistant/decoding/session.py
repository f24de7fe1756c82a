"""`Session`: a loaded model that answers instructions. The chat, `ask` and evaluation all use it.

This module connects the template, the tokenizer and the engine. It knows nothing about terminals or files of answers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from assistant.dataset.context import check_prompt_length, count_forgotten
from assistant.dataset.encode import encode_pieces, for_template
from assistant.dataset.instructions import Example, Exchange
from assistant.decoding import inspection
from assistant.decoding.engine import OnScored, build_engine
from assistant.decoding.generated import Generated
from assistant.decoding.reply import InspectedToken, Reply, TokenLogprobs
from assistant.decoding.stop_strings import ReplyText
from assistant.device import pick_device
from assistant.errors import ContextError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_checkpoint
from assistant.model.config import ModelInfo
from assistant.settings import DecodePrecision, GenerationSettings

_TEMPLATE_NOTE = (
    "This model's own chat template is unknown here. Its prompts are those of {0}, which it may not understand: "
    "to teach it, use assistant finetune with --template {0}."
)
AnyLogprobs = TypeVar("AnyLogprobs", bound=TokenLogprobs)


class Session:
    """One loaded model. It answers one caller at a time; a second caller gets a RuntimeError."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: DecodePrecision = "auto",
        may_draft: bool = True,
        folder: Path | None = None,
    ) -> None:
        """Copy or share the checkpoint's weights in the storage that `precision` names; the model itself is not kept.

        `precision` and `may_draft` are explained in `assistant.decoding.engine.build_engine`.
        """
        self.name = checkpoint.name
        """The name of the model's folder."""
        self.folder = folder
        """The model's folder. None if the model was not read from one."""
        self.info: ModelInfo | None = checkpoint.info
        """How the model was trained; None for a base model."""
        self.template = checkpoint.template
        """The template the model was trained with. A base model has its own one or the default."""
        self.template_note = "" if not checkpoint.is_template_unknown else _TEMPLATE_NOTE.format(self.template.name)
        """A sentence for the person who asks, if the model has a chat template that is unknown here."""
        self.precision = precision
        self.n_parameters = checkpoint.model.n_parameters
        self.context_length = checkpoint.config.context_length
        """Maximum tokens of prompt and reply together."""
        self.tokenizer = for_template(checkpoint.tokenizer, checkpoint.template)
        self._engine = build_engine(
            checkpoint.model, eos_id=self.tokenizer.eos_ids, precision=precision, may_draft=may_draft
        )
        self._busy = threading.Lock()

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", precision: DecodePrecision = "auto", may_draft: bool = True
    ) -> Session:
        """Open a model folder.

        Raises:
            CheckpointError: the folder is not a model that can be loaded.
            SettingsError: the device does not exist.
        """
        checkpoint = load_checkpoint(model, device=pick_device(device))
        session = cls(checkpoint, precision=precision, may_draft=may_draft, folder=Path(model))
        del checkpoint
        _return_memory()
        return session

    @property
    def summary(self) -> str:
        """The model in one line: name, size, template, context."""
        kind = f"template {self.template.name}" if self.info else f"base model, template {self.template.name}"
        size = f"{self.n_parameters / 1e6:.1f}M parameters"
        return f"{self.name} · {size} · {kind} · context {self.context_length}"

    def encode_prompt(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = ()
    ) -> tuple[str, list[int]]:
        """Render a prompt with the template; return its text and its token ids.

        Raises:
            ContextError: the prompt leaves no room for a reply.
        """
        pieces = self.template.pieces(instruction, input, history)
        prompt_ids = encode_pieces(pieces, self.tokenizer)
        check_prompt_length(len(prompt_ids), self.context_length)
        return "".join(pieces), prompt_ids

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
        """Answer one instruction.

        If the history leaves too little room for the reply (see `assistant.dataset.context`), the oldest exchanges are
        left out of the prompt; `Reply.n_forgotten` counts them.

        `on_text` receives the text as it comes: whole characters, and no part of a stop string. Text that could be the
        beginning of a stop string is held back until that is clear. `should_stop` is called before every token; when
        it returns True, the reply ends with the text so far.

        `forced_ids` are tokens that the reply begins with, whatever their probability; then the model goes on. They
        are part of the reply in every way: `on_text` gets their text first, they count against `max_new_tokens`, a stop
        string in their text ends the reply, and so does an EOS among them. Each of them uses up the random number of
        its place, so the tokens after them are drawn with the numbers that a reply without them would use there:
        with the same seed, forcing the first tokens of a reply gives that reply again.

        Raises:
            ContextError: the prompt leaves no room for a reply.
            SettingsError: a forced id is not in the model's vocabulary.
            RuntimeError: the session is answering another caller.
        """

        def n_tokens(n_forgotten: int) -> int:
            return len(encode_pieces(self.template.pieces(instruction, input, history[n_forgotten:]), self.tokenizer))

        n_forgotten = count_forgotten(
            n_tokens, len(history), context_length=self.context_length, max_new_tokens=settings.max_new_tokens
        )
        prompt, prompt_ids = self.encode_prompt(instruction, input=input, history=history[n_forgotten:])
        self._check_ids("forced_ids", forced_ids)
        ((_, reply),) = self._generate(
            [(prompt, prompt_ids)], settings, on_text=on_text, should_stop=should_stop, forced_ids=forced_ids
        )
        return reply.model_copy(update={"n_forgotten": n_forgotten})

    def replies(
        self,
        examples: Sequence[Example],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,
        on_reference: Callable[[int, float], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Generator[tuple[int, Reply | ContextError]]:
        """Answer many examples in batches; yield (index into `examples`, reply) as they finish.

        Before an example's reply, `on_reference` gets its index and the log-probability (nats) of its output and EOS,
        unless the context is too short for prompt and output.

        An example whose prompt leaves no room for a reply yields its ContextError instead. `should_stop` is called
        before every token; when it returns True, the replies that have not ended end with `cancelled`, each with its
        text so far, which is empty for those that have not begun. The session stays busy until
        the last reply is taken or the generator is closed.

        Raises:
            RuntimeError: the session is answering another caller.
        """
        prompts: dict[int, tuple[str, list[int]]] = {}
        for index, example in enumerate(examples):
            try:
                prompts[index] = self.encode_prompt(example.instruction, input=example.input, history=example.history)
            except ContextError as error:
                yield index, ContextError(f"{example.where}: {error}")
        example_indices = list(prompts)
        references: list[list[int]] = []
        if on_reference is not None:
            encode, eos_id = self.tokenizer.encode, self.tokenizer.eos_id
            references = [[*encode(examples[index].output), eos_id] for index in example_indices]

        def on_scored(prompt_index: int, logprob: float) -> None:
            assert on_reference is not None
            on_reference(example_indices[prompt_index], logprob)

        for prompt_index, reply in self._generate(
            list(prompts.values()),
            settings,
            batch_size=batch_size,
            should_stop=should_stop,
            references=references,
            on_scored=on_scored if on_reference is not None else None,
        ):
            yield example_indices[prompt_index], reply

    def inspect(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, count: int = 5, with_eos: bool
    ) -> list[InspectedToken]:
        """Look at an answer after its prompt as the model sees it: one entry for each of `token_ids`.

        Each has the token's log-probability, its rank, the entropy at its place and the `count` likeliest tokens; all
        are the model's own, as `Reply.logprobs`: before temperature, penalty and filters. `with_eos` adds an entry for
        the EOS after the answer; where several tokens end a reply, for the likeliest of them. The whole answer takes
        one pass, and the next reply is as without it.

        Raises:
            ContextError: prompt and answer together are longer than the context, or the prompt is empty.
            SettingsError: an id is not in the model's vocabulary.
            RuntimeError: the session is answering another caller.
        """
        self._check_ids("prompt_ids", prompt_ids)
        self._check_ids("token_ids", token_ids)
        with self._exclusive():
            found = inspection.inspect(
                self._engine.decoder,
                self._engine.prefix_cache,
                prompt_ids,
                token_ids,
                count=count,
                eos_ids=self.tokenizer.eos_ids if with_eos else (),
            )
        return [self._add_texts(token) for token in found]

    def _check_ids(self, where: str, token_ids: Sequence[int]) -> None:
        vocab_size = self._engine.decoder.config.vocab_size
        unknown = next((token_id for token_id in token_ids if not 0 <= token_id < vocab_size), None)
        if unknown is not None:
            raise SettingsError(
                f"{where}: expected ids from 0 to {vocab_size - 1}, got {unknown}. Take them from the same model."
            )

    def _generate(
        self,
        prompts: Sequence[tuple[str, list[int]]],
        settings: GenerationSettings,
        *,
        batch_size: int = 1,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        references: Sequence[Sequence[int]] = (),
        on_scored: OnScored | None = None,
        forced_ids: Sequence[int] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index into `prompts`, reply) as they finish. Use `on_text` with a single prompt only."""
        texts = [ReplyText(self.tokenizer, settings.stop) for _ in prompts]

        def on_token(index: int, token_id: int) -> bool:
            new_text = texts[index].push(token_id)
            if new_text and on_text is not None:
                on_text(new_text)
            return texts[index].stopped

        with self._exclusive():
            for generated in self._engine.generate(
                [prompt_ids for _, prompt_ids in prompts],
                settings,
                batch_size=batch_size,
                on_token=on_token,
                should_stop=should_stop,
                continuations=references,
                on_scored=on_scored,
                forced_ids=forced_ids,
            ):
                index = generated.index
                if (new_text := texts[index].finish()) and on_text is not None:
                    on_text(new_text)
                yield index, self._build_reply(*prompts[index], generated, texts[index])

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Refuse other callers: the engine's prefix cache belongs to one call at a time."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "session: expected one caller at a time, but this model is answering someone else. Wait for that reply."
            )
        try:
            yield
        finally:
            self._busy.release()

    def _build_reply(self, prompt: str, prompt_ids: Sequence[int], generated: Generated, text: ReplyText) -> Reply:
        token_ids, logprobs = generated.token_ids, generated.logprobs
        if text.stopped:
            token_ids = token_ids[: text.count_tokens(token_ids)]
            logprobs = logprobs and logprobs[: len(token_ids)]
        return Reply(
            prompt=prompt,
            prompt_token_ids=tuple(prompt_ids),
            response=text.text,
            token_ids=token_ids,
            stop_reason="stop" if text.stopped else generated.stop_reason,
            seconds=generated.seconds,
            logprobs=logprobs and tuple(self._add_texts(token) for token in logprobs),
        )

    def _add_texts(self, token: AnyLogprobs) -> AnyLogprobs:
        decode = self.tokenizer.decode
        likeliest = tuple(top.model_copy(update={"text": decode([top.token_id])}) for top in token.likeliest)
        return token.model_copy(update={"text": decode([token.token_id]), "likeliest": likeliest})


def _return_memory() -> None:
    """Give freed weights back to the system: the C library keeps those of a second model for what comes next."""
    with suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
