"""Settings: frozen pydantic models whose fields, types, defaults and docstrings every front shares.

Imports no torch and no typer, so that any package can read settings quickly.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "float32", "bfloat16"]
Storage = Literal["float32", "bfloat16", "float16", "int8"]
"""How weights are kept for decoding."""
DecodePrecision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
OptimizerName = Literal["adamw", "muon"]
TrainOn = Literal["response", "all"]
BestBy = Literal["loss", "exact", "ended", "last"]
LoraModule = Literal["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
OverlongPolicy = Literal["truncate", "drop", "error"]


class Frozen(BaseModel):
    """A value object: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GenerationSettings(Frozen):
    """How a reply is decoded. Temperature 0 is greedy; then top-k, top-p, min-p and the seed do nothing."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Draw from the k likeliest tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Draw from the fewest likeliest tokens whose probabilities add up to p."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from tokens at least p times as likely as the likeliest."""
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Divides the logits of tokens that the prompt or the reply has already, or multiplies them if negative; 1 does
    nothing. Counts in greedy decoding too."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A reply ends before the first of these texts."""
    logprobs: Annotated[int, Field(ge=0)] | None = None
    """Tell every new token's log-probability, and those of so many likeliest ones."""


class LoraSettings(Frozen):
    """Small matrices that are trained beside frozen weights."""

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 16.0
    """The matrices' product counts alpha / rank times."""
    modules: Annotated[tuple[LoraModule, ...], Field(min_length=1)] = get_args(LoraModule)
    """The layers of every block that get some."""

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied by."""
        return self.alpha / self.rank


class FinetuneSettings(Frozen):
    """What one fine-tuning run does. Stored beside the model it made."""

    epochs: Annotated[int, Field(ge=1)] = 2
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after so many steps, whatever `epochs` says."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows a micro-batch."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Micro-batches a step."""
    lora: LoraSettings | None = None
    """Train these small matrices alone; None trains every weight."""
    freeze_embeddings: bool = False
    """Leave the embeddings (and with them a tied head) as they are. Words of no training row else stay behind while
    the others move, and what was known of them is harder to reach."""
    optimizer: OptimizerName = "adamw"
    """`muon` orthogonalises the updates of the blocks' matrices: for pretraining, where it learns facts far sooner."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    """Its peak: reached after the warm-up, then a cosine down to a tenth of it."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """At most a tenth of all steps is used."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """On matrices only; not on biases and LayerNorms."""
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    """Longer gradients are shortened to it; None leaves them."""
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Learn preferences, by DPO: what moving away from the starting weights costs, usually 0.1. None learns answers."""
    train_on: TrainOn = "response"
    """Whether the prompt's tokens are masked out of the loss."""
    template: str = "alpaca"
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Positions a row may take; the model's context length where none is given."""
    too_long: OverlongPolicy = "truncate"
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    """Keep less for the way back and compute it again: less memory for more time, the same weights."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations, and always after the last; if None four times an epoch, but 20 times at most."""
    validation_answers: Annotated[int, Field(ge=0)] = 16
    """Validation rows that are answered at every validation, or all if there are fewer."""
    best_by: BestBy = "loss"
    """Which weights are the best: by validation loss, or by the share of these answers that match or that end by
    themselves, the loss deciding between equals; or simply the last."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Validations without better weights after which a run ends early."""
    book: bool = False
    """The book's own loop: its order of the rows, a last batch that is not full left out, a constant rate, weight decay
    on every weight, and a head of its own instead of the embedding. `BOOK` has all that goes with it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 123


BOOK = FinetuneSettings(
    book=True,
    epochs=2,
    batch_size=8,
    learning_rate=5e-5,
    warmup_steps=0,
    weight_decay=0.1,
    max_grad_norm=None,
    train_on="all",
    template="alpaca",
    precision="float32",
    best_by="last",
    seed=123,
)
"""The recipe of rasbt/LLMs-from-scratch, ch07/01_main-chapter-code."""
