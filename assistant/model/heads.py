"""A new head for a model: what turns a language model into a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from assistant.dataset.prompts import TEXT_TEMPLATE, get_template
from assistant.errors import SettingsError
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import BIAS_NOTE, ClassifierConfig, ClassifierRecord, gpt2_only
from assistant.model.gpt import GPTClassifier, model_of
from assistant.model.weights import HEAD, SCORE, SCORE_BIAS

INITIAL_STD = 0.02
"""Standard deviation of GPT-2's initial weights, and of the head's in transformers."""


def make_classifier(
    checkpoint: Checkpoint, labels: Sequence[str], *, seed: int, as_in_book: bool = False
) -> Checkpoint:
    """Replace a model's head by one with an output for each label. The other weights are shared with `checkpoint`.

    A classifier that has these labels already stays as it is, so that it learns on. The new weights are normal with
    std 0.02, as transformers draws them. With `as_in_book` they are those of `torch.manual_seed(seed)` and
    `torch.nn.Linear(n_embd, labels)`, which has a bias.

    Raises:
        CheckpointError: the model is not a GPT-2.
        SettingsError: fewer than two labels, or one twice.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        found = "one twice" if len(labels) > 1 else f"only {', '.join(labels) or 'none'}"
        raise SettingsError(f"labels: expected two or more different ones, got {found}. Add rows of another label.")
    if isinstance(checkpoint.model, GPTClassifier) and checkpoint.model.labels == tuple(labels):
        return checkpoint if checkpoint.classifier else replace(checkpoint, classifier=new_record(checkpoint.model))
    gpt2_only(checkpoint.config, checkpoint.name, "the classifier")
    device = checkpoint.model.transformer.wte.weight.device
    content = checkpoint.config.model_dump() | {"id2label": dict(enumerate(labels)), "score_bias": as_in_book}
    config = ClassifierConfig.model_validate({**content, "problem_type": None})
    body = {
        name: value for name, value in checkpoint.model.state_dict().items() if name not in (HEAD, SCORE, SCORE_BIAS)
    }
    head = _initial_head(config, seed, as_in_book=as_in_book)
    model = model_of(config, body | {name: value.to(device) for name, value in head.items()})
    assert isinstance(model, GPTClassifier)
    return replace(
        checkpoint, model=model, template=get_template(TEXT_TEMPLATE), adapter=None, classifier=new_record(model)
    )


def new_record(model: GPTClassifier) -> ClassifierRecord:
    """The record of a classifier that reads each text at its last token, up to the model's context length."""
    has_bias = model.score.bias is not None
    return ClassifierRecord(
        labels=model.labels,
        max_length=model.config.context_length,
        has_bias=has_bias,
        note=BIAS_NOTE if has_bias else None,
    )


def _initial_head(config: ClassifierConfig, seed: int, *, as_in_book: bool) -> dict[str, Tensor]:
    if not as_in_book:
        generator = torch.Generator().manual_seed(seed)
        return {SCORE: torch.randn(len(config.labels), config.n_embd, generator=generator) * INITIAL_STD}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(config.n_embd, len(config.labels))
    return {SCORE: layer.weight.detach(), SCORE_BIAS: layer.bias.detach()}
