"""Settings: frozen pydantic models that every front and every library function shares.

A setting is one field: its name, type, range, default and docstring are written here and nowhere else. The command line
derives its options from them (`assistant.cli.options`). No torch and no typer are imported here.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from assistant.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16"]
"""dtype of the matrix products in training."""
Storage = Literal["float32", "bfloat16", "float16", "int8"]
"""dtype of the weights in decoding."""
DecodePrecision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
OptimizerName = Literal["adamw", "muon"]
TrainOn = Literal["response", "all"]
LossPer = Literal["token", "row"]
BestBy = Literal["loss", "exact", "ended", "accuracy", "last"]
Trained = Literal["last-block", "all"]
Balance = Literal["none", "sampling", "weights"]
Reading = Literal["last", "padded"]
LoraModule = Literal["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
OverlongPolicy = Literal["truncate", "drop", "error"]
SplitMethod = Literal["grouped", "book", "stratified"]


class Frozen(BaseModel):
    """A value object: immutable, and an unknown field is an error.

    Its validator is built when it first validates something: building all of them takes longer than most commands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Settings(Frozen):
    """Settings of one subject. The docstring under a field is the help text of its option."""


def field_docstring(model: type[BaseModel], field: str) -> str | None:
    """The docstring under a field, in one line. A model inherits those of its bases."""
    for kind in model.__mro__:
        if field in inspect.get_annotations(kind):
            return _docstrings(sys.modules[kind.__module__].__file__ or "").get((kind.__name__, field))
    return None


@cache
def _docstrings(file: str) -> dict[tuple[str, str], str]:
    """The docstrings under the fields of all classes in a file, by the names of class and field.

    pydantic can read them too, but reads the file again for every class.
    """
    found = {}
    for kind in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(kind, ast.ClassDef):
            for field, text in zip(kind.body, kind.body[1:], strict=False):
                is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    found[kind.name, field.target.id] = inspect.cleandoc(str(text.value.value))  # type: ignore[attr-defined]
    return found


@dataclass(frozen=True)
class Panel:
    """The heading under which `--help` lists a field. Fields without one come first."""

    title: str


DATA = Panel("Data")
BATCHES = Panel("Batches")
OPTIMISATION = Panel("Optimisation")
LORA = Panel("LoRA")
CLASSIFIER = Panel("Classifier")
MEMORY = Panel("Speed and memory")
VALIDATION = Panel("Validation")
OUTPUT = Panel("Output")
SAMPLING = Panel("Sampling")
COMPARING = Panel("Comparing")
CONVERSATIONS = Panel("Conversations")

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]


class GenerationSettings(Settings):
    """How a reply is decoded. At temperature 0 decoding is greedy, and top-k, top-p, min-p and the seed do nothing."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest reply, in tokens."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """End the reply before this text; may be repeated."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False), SAMPLING] = 0.0
    """Divide the logits by this before sampling; 0 always takes the likeliest token."""
    top_k: Annotated[int | None, Field(ge=1), SAMPLING] = None
    """Sample from the k likeliest tokens."""
    top_p: Annotated[float | None, Field(gt=0, le=1), SAMPLING] = None
    """Sample from the likeliest tokens whose probabilities add up to this."""
    min_p: Annotated[float | None, Field(ge=0, le=1), SAMPLING] = None
    """Sample from tokens with at least this fraction of the likeliest token's probability."""
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False), SAMPLING] = 1.0
    """Values above 1 make tokens of the prompt and the reply so far less likely, also in greedy decoding."""
    seed: Annotated[Seed, SAMPLING] = 0
    """Seed of the sampling."""
    logprobs: Annotated[int | None, Field(ge=0)] = None
    """With --json: report the log-probability of each new token, and this many likeliest tokens at its position."""


class EngineSettings(Settings):
    """How a model is loaded to answer."""

    precision: Annotated[DecodePrecision, MEMORY] = "auto"
    """dtype of the weights; auto gives the same answers as float32, in less time."""
    device: Annotated[str, MEMORY] = "auto"
    """Device to compute on: auto, cpu, cuda or mps."""


class TalkSettings(Settings):
    """With what a model is compared in the chat, and which conversation is kept."""

    fixed_seed: Annotated[Seed | None, SAMPLING] = None
    """Seed of every answer; by default each answer draws its own."""
    base: Annotated[str | None, COMPARING] = None
    """Model to compare with; by default the base model that training started from."""
    data: Annotated[tuple[str, ...], COMPARING] = ()
    """File of test rows to ask; may be repeated. By default the test part of the model's data."""
    resume: Annotated[str | None, CONVERSATIONS] = None
    """Go on with a conversation: last, or the id that the chat printed."""
    no_save: Annotated[bool, CONVERSATIONS] = False
    """Write no conversation to the disk."""


class DataSettings(Settings):
    """How instruction files are read."""

    columns: Annotated[tuple[str, ...], DATA] = ()
    """Columns to read fields from, as FIELD=COLUMN, separated by commas: instruction=question,output=answer."""
    skip_bad: Annotated[bool, DATA] = False
    """Leave out rows that cannot be used, and report their number."""

    @field_validator("columns")
    @classmethod
    def _one_a_word(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part.strip() for word in words for part in word.split(",") if part.strip())


class LabelDataSettings(DataSettings):
    """How files of labelled texts are read."""

    columns: Annotated[tuple[str, ...], DATA] = ()
    """Columns with the text and the label, as FIELD=COLUMN, separated by commas: text=message,label=class."""


class PartSettings(Settings):
    """The shares of the parts that a data set is split into, and the seed."""

    split_seed: Annotated[Seed, DATA] = 123
    """Seed of the split."""
    test_share: Annotated[Share, DATA] = 0.10
    """Share of the rows to keep for testing."""
    validation_share: Annotated[Share, DATA] = 0.05
    """Share of the rows for validation, which chooses the best weights."""

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Self:
        if self.test_share + self.validation_share >= 1:
            raise ValueError(
                f"--test-share and --validation-share: expected less than 1 together, "
                f"got {self.test_share} and {self.validation_share}."
            )
        return self

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of training, test and validation rows."""
        return (round(1 - self.test_share - self.validation_share, 12), self.test_share, self.validation_share)


class SplitSettings(PartSettings):
    """How instructions are split into training, validation and test rows."""

    split: Annotated[Literal["grouped", "book"], DATA] = "grouped"
    """grouped puts rows with the same prompt or group into the same part; book splits the rows in file order."""


class LabelSplitSettings(PartSettings):
    """How labelled texts are split into training, validation and test rows."""

    split: Annotated[Literal["stratified", "book"], DATA] = "stratified"
    """stratified gives every part each label in proportion, and equal texts to one part; book shuffles and cuts."""
    test_share: Annotated[Share, DATA] = 0.20
    """Share of the rows to keep for testing."""
    validation_share: Annotated[Share, DATA] = 0.10
    """Share of the rows for validation, which chooses the best weights."""


class LoraSettings(Settings):
    """Low-rank adapters: small trained matrices added to frozen weights."""

    rank: Annotated[int, Field(ge=1), LORA] = 8
    """Rank of the adapter matrices."""
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False), LORA] = 16.0
    """The adapters' product is scaled by alpha / rank."""
    modules: Annotated[tuple[LoraModule, ...], Field(min_length=1), LORA] = get_args(LoraModule)
    """Layers of every block that get an adapter, separated by commas."""

    @property
    def scale(self) -> float:
        """Factor of the adapters' product."""
        return self.alpha / self.rank


class ClassifierSettings(Settings):
    """How a model is trained to label texts."""

    trained: Annotated[Trained, CLASSIFIER] = "last-block"
    """Weights to train: the last block, the final norm and the head; or all. With --lora, the adapters and the head."""
    balance: Annotated[Balance, CLASSIFIER] = "none"
    """For labels of unequal size: sampling draws as many rows of each label an epoch, weights scales their losses."""
    reading: Annotated[Reading, CLASSIFIER] = "last"
    """Where the label is read: at the last token of the text, or, as in the book, at the end of its padding."""


def _none_is_zero(value: Any) -> Any:
    return 0.0 if value is None else value  # what earlier versions stored for "do not clip"


class FinetuneSettings(Settings):
    """What one fine-tuning run does. They are stored with the model, so a field keeps its name."""

    epochs: Annotated[int, Field(ge=1)] = 2
    """Passes over the training rows."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    """Peak learning rate: linear warm-up, then a cosine down to a tenth of it."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows per micro-batch."""
    template: Annotated[str, DATA] = "alpaca"
    """Prompt template: alpaca, alpaca-stanford, chatml, llama3, phi3, or text for plain text."""
    train_on: Annotated[TrainOn, DATA] = "response"
    """Tokens that count in the loss: those of the response, or all."""
    loss_per: Annotated[LossPer, DATA] = "token"
    """What counts the same in training: every token, or every row, so that long answers do not outweigh short ones."""
    max_length: Annotated[int | None, Field(ge=8), DATA] = None
    """Longest row, in tokens; by default the model's context length."""
    too_long: Annotated[OverlongPolicy, DATA] = "truncate"
    """What to do with longer rows: shorten the user's text, drop the row, or stop with an error."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1), BATCHES] = 1
    """Micro-batches per optimizer step."""
    max_steps: Annotated[int | None, Field(ge=1), BATCHES] = None
    """Stop after this many steps; overrides --epochs."""
    seed: Annotated[Seed, BATCHES] = 123
    """Seed of the row order and of the adapters' initial weights."""
    optimizer: Annotated[OptimizerName, OPTIMISATION] = "adamw"
    """adamw, or muon, which orthogonalises the updates of the blocks' matrices and suits pretraining."""
    warmup_steps: Annotated[int, Field(ge=0), OPTIMISATION] = 20
    """Steps of linear warm-up, limited to a tenth of all steps."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), OPTIMISATION] = 0.1
    """Weight decay of matrices; biases and LayerNorms have none."""
    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_none_is_zero), OPTIMISATION] = (
        1.0
    )
    """Clip the gradient norm to this; 0 disables clipping."""
    beta: Annotated[float | None, Field(gt=0, allow_inf_nan=False), OPTIMISATION] = None
    """Strength of DPO's pull towards the starting weights; a smaller value lets the model move further."""
    freeze_embeddings: Annotated[bool, OPTIMISATION] = False
    """Freeze the embeddings and a tied head, so that the model keeps words that no training row contains."""
    book: Annotated[bool, OPTIMISATION] = False
    """Follow the recipe of Raschka's book exactly: row order, constant rate, decay of all weights, untied head."""
    lora: Annotated[LoraSettings | None, LORA] = None
    """Train low-rank adapters and freeze the weights; try a learning rate 4 to 10 times as high."""
    classifier: Annotated[ClassifierSettings | None, CLASSIFIER] = None
    """Learn to label texts instead of to answer."""
    precision: Annotated[Precision, MEMORY] = "auto"
    """dtype of the matrix products; auto is bfloat16 where this machine computes it much faster."""
    gradient_checkpointing: Annotated[bool, MEMORY] = False
    """Recompute activations in the backward pass: less memory, more time, the same weights."""
    validate_every: Annotated[int | None, Field(ge=1), VALIDATION] = None
    """Steps between validations; by default four times an epoch, at most 20 times a run."""
    validation_answers: Annotated[int, Field(ge=0), VALIDATION] = 16
    """Validation rows to answer at every validation."""
    best_by: Annotated[BestBy, VALIDATION] = "loss"
    """Weights to keep: lowest validation loss, most exact answers, most answers that end by themselves, highest
    accuracy of a classifier, or last."""
    patience: Annotated[int | None, Field(ge=1), VALIDATION] = None
    """Early stopping: end the run after this many validations without better weights."""


BOOK = FinetuneSettings(
    book=True,
    epochs=2,
    batch_size=8,
    learning_rate=5e-5,
    warmup_steps=0,
    weight_decay=0.1,
    max_grad_norm=0.0,
    train_on="all",
    template="alpaca",
    precision="float32",
    best_by="last",
    seed=123,
)
"""The recipe of rasbt/LLMs-from-scratch, ch07/01_main-chapter-code."""
LABEL_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "best_by": "last",
        "epochs": 4,
        "freeze_embeddings": True,
        "template": "text",
        "trained": "all",
        "validation_answers": 0,
    }
)
"""Defaults of learning labels that differ from those of the fields of `FinetuneSettings` and `ClassifierSettings`."""
LABEL_RATE_TIMES_WIDTH = 0.128
"""The default learning rate of learning labels times the model's width: 5e-4 for pocket, 1.7e-4 for GPT-2 124M. Wider
layers need smaller steps (Yang et al., arXiv:2203.03466)."""
LABEL_BOOK = BOOK.model_copy(
    update={
        "epochs": 5,
        "template": "text",
        "validation_answers": 0,
        "classifier": ClassifierSettings(reading="padded"),
    }
)
"""The recipe of rasbt/LLMs-from-scratch, ch06/01_main-chapter-code."""


class RunSettings(Settings):
    """Where and how a training run is carried out. They do not change the resulting weights."""

    device: Annotated[str, MEMORY] = "auto"
    """Device to compute on: auto, cpu, cuda or mps."""
    deterministic: Annotated[bool, MEMORY] = False
    """Give the same weights for the same run on a GPU too, at some cost of speed."""
    shard: Annotated[bool, MEMORY] = False
    """Under torchrun: shard weights, gradients and optimizer state over the processes (FSDP2)."""
    save_every: Annotated[float, Field(ge=0), OUTPUT] = 60.0
    """Seconds between two saves of the run; a killed run loses at most this much work."""
    resume: Annotated[bool, OUTPUT] = False
    """Resume the unfinished run in the output folder, or give a finished one more epochs (see --keep-state)."""
    keep_state: Annotated[bool, OUTPUT] = False
    """Keep the state after the end too, so that --resume with more --epochs continues a finished run."""
    overwrite: Annotated[bool, OUTPUT] = False
    """Replace the model in the output folder."""


SettingsModel = TypeVar("SettingsModel", bound=BaseModel)
NO_NAMES: Mapping[str, str] = MappingProxyType({})


def validate_settings(
    kind: type[SettingsModel], values: Mapping[str, object], *, prefix: str = "", names: Mapping[str, str] = NO_NAMES
) -> SettingsModel:
    """Build settings of that kind. In errors a field is named `--prefix-field`, or as `names` says.

    Raises:
        SettingsError: one sentence for every value that is out of range, named as the option.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError("\n".join(_fault(detail, prefix, names) for detail in error.errors())) from error


def _fault(detail: Any, prefix: str, names: Mapping[str, str]) -> str:
    if not detail["loc"]:  # a validator of the whole model wrote the sentence
        return str(detail["ctx"]["error"])
    field = str(detail["loc"][0])
    name = names.get(field, "--" + prefix + field.replace("_", "-"))
    message = detail["msg"].removeprefix("Input should be ").removeprefix("String should have ")
    return f"{name}: expected {message}, got {detail['input']!r}."
