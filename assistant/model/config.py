"""The contents of a model folder's `config.json` and `assistant.json`, as validated models.

This module reads no files and imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from assistant.dataset.splits import DEFAULT_FRACTIONS
from assistant.errors import CheckpointError
from assistant.settings import FinetuneSettings, Frozen, Reading

SCORES_FILE = "scores.jsonl"
"""Scores of the weights in a model folder, newest last. `evaluation score` writes it; new weights remove it."""


class Heads(NamedTuple):
    """The heads of an attention layer."""

    n_head: int
    n_kv_head: int
    """Heads of keys and values. Each serves n_head / n_kv_head heads of queries."""
    size: int


class GPTConfig(BaseModel):
    """GPT-2's `config.json`, with GPT-2's own field names. Unknown fields are kept and written back."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    model_type: Literal["gpt2"] = "gpt2"
    vocab_size: Annotated[int, Field(ge=1, le=2**24)] = 50257
    n_positions: Annotated[int, Field(ge=1, le=2**20)] = 1024
    n_embd: Annotated[int, Field(ge=1, le=2**16)] = 768
    n_layer: Annotated[int, Field(ge=1, le=2**12)] = 12
    n_head: Annotated[int, Field(ge=1, le=2**12)] = 12
    n_inner: Annotated[int, Field(ge=1, le=2**18)] | None = None
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu"] = "gelu_new"
    layer_norm_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    tie_word_embeddings: bool = True
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    # A variant of GPT-2 that this project does not compute. Opening such a model is an error.
    add_cross_attention: Literal[False] = False

    @model_validator(mode="after")
    def _n_embd_is_a_multiple_of_n_head(self) -> GPTConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}")
        return self

    @property
    def context_length(self) -> int:
        """The largest number of tokens that the model can read at once."""
        return self.n_positions

    @property
    def heads(self) -> Heads:
        """The heads of every attention layer."""
        return Heads(self.n_head, self.n_head, self.n_embd // self.n_head)

    def query_factor(self, layer: int) -> float:
        """Multiply a layer's queries by this before usual attention, which divides scores by the root of a head's size.

        1 for GPT-2 itself. `layer` counts from 0.
        """
        factor = 1.0 if self.scale_attn_weights else math.sqrt(self.heads.size)
        return factor / (layer + 1) if self.scale_attn_by_inverse_layer_idx else factor


class Rope(NamedTuple):
    """Rotary positions: the angle of a token grows with its position, slower for each pair of a head's numbers."""

    theta: float = 10_000.0
    factor: float = 1.0
    """Divide the slow pairs' frequencies by this, or with `linear` all of them."""
    linear: bool = False
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    """Llama 3: pairs that turn less than `low_freq_factor` times in this many tokens are slow."""


class LlamaConfig(BaseModel):
    """`config.json` of the Llama family: Llama, Qwen2 and Qwen3. Unknown fields are kept and written back.

    Fields that GPT-2's config has too are named as there. In the file they have Hugging Face's names, the aliases.
    """

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    model_type: Literal["llama", "qwen2", "qwen3"]
    vocab_size: Annotated[int, Field(ge=1, le=2**24)]
    n_embd: Annotated[int, Field(ge=1, le=2**16)] = Field(alias="hidden_size")
    intermediate_size: Annotated[int, Field(ge=1, le=2**18)]
    n_layer: Annotated[int, Field(ge=1, le=2**12)] = Field(alias="num_hidden_layers")
    n_head: Annotated[int, Field(ge=1, le=2**12)] = Field(alias="num_attention_heads")
    num_key_value_heads: Annotated[int, Field(ge=1, le=2**12)] | None = None
    head_dim: Annotated[int, Field(ge=2, le=2**12, multiple_of=2)] | None = None
    context_length: Annotated[int, Field(ge=1, le=2**24)] = Field(default=2048, alias="max_position_embeddings")
    """The largest number of tokens that the model can read at once."""
    rms_norm_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    """How transformers 5 writes the two fields before."""
    attention_bias: bool = False
    mlp_bias: Literal[False] = False
    # Variants that this project does not compute. Opening such a model is an error.
    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: Literal[False] = False
    quantization_config: None = None
    layer_types: list[Literal["full_attention"]] | None = None

    @model_validator(mode="after")
    def _can_be_computed(self) -> LlamaConfig:
        heads = self.heads
        if heads.n_head % heads.n_kv_head:
            raise ValueError(f"num_attention_heads must be a multiple of num_key_value_heads, got {heads[:2]}")
        if self.head_dim is None and self.n_embd % self.n_head:
            raise ValueError(f"hidden_size must be a multiple of num_attention_heads, got {self.n_embd}")
        _ = self.rope
        return self

    @property
    def heads(self) -> Heads:
        """The heads of every attention layer."""
        # As in transformers, a Qwen3 without `head_dim` has heads of 128.
        default = 128 if self.model_type == "qwen3" else self.n_embd // self.n_head
        size = self.head_dim or default
        return Heads(self.n_head, self.num_key_value_heads or self.n_head, size)

    @property
    def rope(self) -> Rope:
        """The rotary positions, as transformers 4 or 5 wrote them.

        Raises:
            ValueError: their scaling is not supported.
        """
        given = {"rope_theta": self.rope_theta} | (self.rope_parameters or self.rope_scaling or {})
        kind = given.get("rope_type", given.get("type", "default"))
        theta = float(given["rope_theta"])
        if kind == "default":
            return Rope(theta)
        if kind == "linear":
            return Rope(theta, float(given["factor"]), linear=True)
        if kind == "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor")
            factor, low, high = (float(given[name]) for name in names)
            original = int(given["original_max_position_embeddings"])
            return Rope(theta, factor, low_freq_factor=low, high_freq_factor=high, original_context=original)
        raise ValueError(f"rope_type must be default, linear or llama3, got {str(kind)[:40]!r}")


ModelConfig = GPTConfig | LlamaConfig


ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""transformers' classes of the families that can be opened, by `model_type`."""
FAMILIES = tuple(ARCHITECTURES)


def gpt2_only(config: ModelConfig, name: str, reader: str) -> GPTConfig:
    """The config of a GPT-2. `reader` is a program that computes no other family.

    Raises:
        CheckpointError: the model `name` is of another family.
    """
    if isinstance(config, GPTConfig):
        return config
    raise CheckpointError(
        f"{name}: expected a GPT-2, which {reader} can compute, got a model of the family {config.model_type}. "
        f"Use another format."
    )


CLASSIFIER_ARCHITECTURE = "GPT2ForSequenceClassification"
"""The class of transformers that a classifier's `config.json` names."""


class ClassifierConfig(GPTConfig):
    """`config.json` of a GPT-2 that labels texts, as transformers' GPT2ForSequenceClassification has it.

    Like transformers, it has two labels, LABEL_0 and LABEL_1, where the file names none.
    """

    id2label: dict[int, str] = Field(default={0: "LABEL_0", 1: "LABEL_1"}, min_length=2)
    tie_word_embeddings: Literal[False] = False
    """A classifier has one head, which cannot share the embedding's weights."""
    score_bias: bool = False
    """Whether the head has a bias, as the book's has. transformers has none and ignores it."""
    problem_type: Literal["single_label_classification"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drops_what_the_labels_say(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        derived = ("label2id", "num_labels", "tie_word_embeddings")
        kept = {name: value for name, value in content.items() if name not in derived}
        n_labels = content.get("num_labels")
        if "id2label" not in content and type(n_labels) is int and 0 < n_labels < 2**16:
            kept["id2label"] = {index: f"LABEL_{index}" for index in range(n_labels)}
        return kept

    @field_validator("id2label")
    @classmethod
    def _counts_from_zero(cls, names: dict[int, str]) -> dict[int, str]:
        if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
            raise ValueError("expected a different name for each of 0, 1, 2 and so on")
        return names

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the logits."""
        return tuple(self.id2label[index] for index in range(len(self.id2label)))


def parse_config(content: Mapping[str, Any]) -> ModelConfig:
    """The config in the content of `config.json`: a classifier's where `architectures` names the classifier's class.

    Raises:
        ValidationError: the content is not that of a model that this project can run.
    """
    if content.get("model_type") != "gpt2":
        return LlamaConfig.model_validate(content)
    names = content.get("architectures")
    is_classifier = isinstance(names, list) and CLASSIFIER_ARCHITECTURE in names
    return (ClassifierConfig if is_classifier else GPTConfig).model_validate(content)


class TemplateRecord(Frozen):
    """The template that a model was trained with: its name, its fingerprint, and its texts for comparison."""

    name: str
    fingerprint: str
    texts: dict[str, str]


class ModelInfo(BaseModel):
    """`assistant.json`: how a fine-tuned model was made. Unknown fields, as of later versions, are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    format: Literal[1] = 1
    base_model: str
    base_path: str | None = None
    """The folder of the base model, relative to that of the run, or absolute (`assistant.model.digest`). None if it is
    not known, as in records of older versions."""
    base_digest: str | None = None
    """SHA-256 of the base model's weights (`weights_digest`). None if it is not known."""
    template: TemplateRecord
    finetune: FinetuneSettings
    data_files: tuple[str, ...]
    data_fingerprint: str
    split_method: Literal["grouped", "book", "stratified"]
    split_seed: int
    split_fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    """Shares of the training, test and validation rows."""
    rows: dict[str, int]
    """Numbers of training, validation and test rows."""
    conversation_rows: int = 0
    """Training rows with a history, those of the base model's own training included. Without any, a model has learnt to
    answer single questions only."""
    history_length: int = 0
    """Earlier turns that it has learnt to read: all but one in a hundred of these rows have at most as many. 0 if it
    read none, or if nobody knows: an older version trained it, or it began as a chat model of somebody else."""
    metrics: dict[str, float | int | None]
    versions: dict[str, str]


BIAS_NOTE = "score.bias belongs to the head. transformers' GPT2ForSequenceClassification has no bias and ignores it."


class ClassifierRecord(BaseModel):
    """`classifier` in `assistant.json`: how a classifier reads texts. Unknown fields of later versions are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    labels: tuple[str, ...]
    """In the order of the logits."""
    reading: Reading = "last"
    max_length: Annotated[int, Field(ge=1)]
    """Longest text, in tokens; the end of a longer one is cut. With the reading `padded`, shorter ones are padded to
    it."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Probabilities are the softmax of the logits divided by this."""
    has_bias: bool = False
    note: str | None = None
    """What another program makes of the bias."""


CLASSIFIER_KEY = "classifier"
"""Where `assistant.json` has the `ClassifierRecord`."""


def parse_info(content: Any) -> ModelInfo | None:
    """The record of training in the content of `assistant.json`. None for an imported classifier, which has none.

    Raises:
        ValidationError: the content is not that of such a file.
    """
    if isinstance(content, dict) and CLASSIFIER_KEY in content and "finetune" not in content:
        return None
    return ModelInfo.model_validate(content)
