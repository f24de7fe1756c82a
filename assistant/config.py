"""Settings and small values that every floor shares. Imports no torch, so the fronts may read it before a model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

StopReason = Literal["eos", "length", "cancelled"]
Precision = Literal["auto", "float32", "bfloat16"]
TrainOn = Literal["response", "all"]
TooLong = Literal["truncate", "drop", "error"]


class Frozen(BaseModel):
    """A value object: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GenerationSettings(Frozen):
    """How a reply is decoded. Temperature 0 is greedy; then the other sampling settings do nothing."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Draw from the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the fewest likeliest tokens whose probabilities add up to p."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Reply(Frozen):
    """What a model answered to one prompt, and how it came about."""

    prompt: str
    prompt_token_ids: tuple[int, ...]
    response: str
    """The decoded new tokens, EOS not among them."""
    token_ids: tuple[int, ...]
    """The new tokens, EOS not among them."""
    stop_reason: StopReason
    seconds: float
    """Wall time from the prompt to the last token."""


class FinetuneSettings(Frozen):
    """What one fine-tuning run does. Stored beside the model it made."""

    epochs: Annotated[int, Field(ge=1)] = 2
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many steps, whatever `epochs` says."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows a micro-batch."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Micro-batches a step."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    """Its peak: reached after the warm-up, then a cosine down to a tenth of it."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """At most a tenth of all steps is used."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """On matrices only; not on biases and LayerNorms."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    train_on: TrainOn = "response"
    """Whether the prompt's tokens are masked out of the loss."""
    template: str = "alpaca"
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Positions a row may take; the model's context length where none is given."""
    too_long: TooLong = "truncate"
    precision: Precision = "auto"
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations; four times an epoch where none is given, and always after the last step."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 123
