"""A loaded model that answers. Chat, single questions and test sets all come through `Session`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from assistant.checkpoint import Checkpoint, load_checkpoint
from assistant.config import GenerationSettings, ModelInfo, Reply
from assistant.errors import ContextError, SettingsError
from assistant.generate import Generated, check_prompt_length, generate
from assistant.instructions import Example, Exchange
from assistant.prompts import Template


class Session:
    """One model, asked by one thread at a time; a second one waits for its turn."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._turn = threading.Lock()

    @classmethod
    def load(cls, model: str | Path, *, device: str = "auto") -> Session:
        """Open a model folder. Raises CheckpointError with what is wrong with it."""
        return cls(load_checkpoint(model, device=pick_device(device)))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.checkpoint.name

    @property
    def info(self) -> ModelInfo | None:
        """Where the model comes from; None for a base model."""
        return self.checkpoint.info

    @property
    def template(self) -> Template:
        """The template the model was trained with, or the default for a base model."""
        return self.checkpoint.template

    @property
    def context_length(self) -> int:
        """Tokens of prompt and reply together."""
        return self.checkpoint.config.context_length

    @property
    def summary(self) -> str:
        """One line: name, size, template, context."""
        millions = self.checkpoint.model.n_parameters / 1e6
        kind = f"template {self.template.name}" if self.info else f"base model, template {self.template.name}"
        return f"{self.name} · {millions:.1f}M parameters · {kind} · context {self.context_length}"

    def encode_prompt(
        self, instruction: str, *, input: str = "", history: Sequence[Exchange] = ()
    ) -> tuple[str, list[int]]:
        """The rendered prompt and its ids.

        Raises:
            ContextError: it leaves no room for an answer.
        """
        prompt = self.template.render(instruction, input, history)
        ids = self.checkpoint.tokenizer.encode(prompt)
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

        `on_text` gets the text as it comes, whole characters only; `should_stop` is asked before every token, and a
        reply that was stopped keeps what it has.

        Raises:
            ContextError: the prompt leaves no room for an answer.
        """
        prompt, ids = self.encode_prompt(instruction, input=input, history=history)
        decoder = self.checkpoint.tokenizer.stream_decoder()

        def on_token(_index: int, token_id: int) -> None:
            text = decoder.push(token_id)
            if text and on_text is not None:
                on_text(text)

        with self._turn:
            (generated,) = generate(
                self.checkpoint.model,
                [ids],
                settings,
                eos_id=self.checkpoint.tokenizer.eos_id,
                on_token=on_token,
                should_stop=should_stop,
            )
        if (rest := decoder.finish()) and on_text is not None:
            on_text(rest)
        return self._as_reply(prompt, ids, generated)

    def replies(
        self, examples: Sequence[Example], settings: GenerationSettings, *, batch_size: int = 32
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Answer many examples in batches; yields (index into `examples`, reply) as they finish.

        An example whose prompt leaves no room for an answer gives its ContextError in place of a reply.
        """
        prompts: dict[int, tuple[str, list[int]]] = {}
        for index, example in enumerate(examples):
            try:
                prompts[index] = self.encode_prompt(example.instruction, input=example.input, history=example.history)
            except ContextError as error:
                yield index, ContextError(f"{example.where}: {error}")
        indices = list(prompts)
        with self._turn:
            for generated in generate(
                self.checkpoint.model,
                [prompts[index][1] for index in indices],
                settings,
                eos_id=self.checkpoint.tokenizer.eos_id,
                batch_size=batch_size,
            ):
                index = indices[generated.index]
                yield index, self._as_reply(*prompts[index], generated)

    def _as_reply(self, prompt: str, prompt_token_ids: Sequence[int], generated: Generated) -> Reply:
        return Reply(
            prompt=prompt,
            prompt_token_ids=tuple(prompt_token_ids),
            response=self.checkpoint.tokenizer.decode(generated.token_ids),
            token_ids=generated.token_ids,
            stop_reason=generated.stop_reason,
            seconds=generated.seconds,
        )


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where torch sees one, else the CPU. Apple's `mps` is only used by its name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = ["auto", "cpu"]
    known += ["cuda", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))] if torch.cuda.is_available() else []
    known += ["mps"] if torch.backends.mps.is_available() else []
    if name not in known:
        raise SettingsError(f"device: expected one of {', '.join(known)}, got {name!r}.")
    return torch.device(name)
