"""A fake model for test sets, with the interface that `evaluation.answers.responses` needs of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import TEMPLATES, Template
from assistant.dataset.splits import data_fingerprint
from assistant.decoding.reply import Reply
from assistant.errors import ContextError
from assistant.model.config import ModelInfo, TemplateRecord
from assistant.settings import DecodePrecision, FinetuneSettings, GenerationSettings


@dataclass
class UppercaseSession:
    """Answers each row with its instruction in capital letters, the last row first."""

    name: str = "fake"
    precision: DecodePrecision = "auto"
    template: Template = TEMPLATES["alpaca"]
    info: ModelInfo | None = None
    too_long: tuple[str, ...] = ()
    """Instructions that get a ContextError."""
    interrupt_after: int | None = None
    """Number of answers before a KeyboardInterrupt."""
    instructions: list[str] = field(default_factory=list)
    """All instructions so far."""
    batch_sizes: list[int] = field(default_factory=list)
    """The batch size of each call."""
    settings: list[GenerationSettings] = field(default_factory=list)
    """The settings of each call."""

    def replies(
        self,
        examples: Sequence[Example],
        settings: GenerationSettings,
        *,
        batch_size: int = 32,
        on_reference: Callable[[int, float], None] | None = None,
    ) -> Iterator[tuple[int, Reply | ContextError]]:
        """Yield the replies."""
        self.batch_sizes.append(batch_size)
        self.settings.append(settings)
        for number, (index, example) in enumerate(reversed(list(enumerate(examples)))):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            self.instructions.append(example.instruction)
            if on_reference is not None:
                on_reference(index, -float(len(example.output)))
            if example.instruction in self.too_long:
                yield index, ContextError(f"{example.where}: prompt: expected fewer tokens.")
                continue
            reply = Reply(
                prompt=example.instruction,
                prompt_token_ids=(1,),
                response=example.instruction.upper(),
                token_ids=(2, 3)[: settings.max_new_tokens],
                stop_reason="eos",
                seconds=0.1 * batch_size,
            )
            yield index, reply


def trained_on(examples: Sequence[Example], **split: Any) -> ModelInfo:
    """Return the info of a model that was trained on these rows. `split` replaces fields of the split."""
    record = TemplateRecord(name="alpaca", fingerprint=TEMPLATES["alpaca"].fingerprint, texts={})
    fields: dict[str, Any] = {
        "base_model": "pocket",
        "template": record,
        "finetune": FinetuneSettings(),
        "data_files": ("rows.json",),
        "data_fingerprint": data_fingerprint(examples),
        "split_method": "grouped",
        "split_seed": 123,
        "rows": {},
        "metrics": {},
        "versions": {},
    }
    return ModelInfo(**(fields | split))
