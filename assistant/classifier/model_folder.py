"""A classifier's model folder: opening it, and changing its temperature."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.files import write_atomic
from assistant.model.checkpoint import INFO_FILE, Checkpoint, load_checkpoint
from assistant.model.config import CLASSIFIER_KEY, ClassifierRecord, ModelInfo
from assistant.model.gpt import GPTClassifier
from assistant.model.heads import new_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A model that labels texts, ready to use."""

    model: GPTClassifier
    """In evaluation mode."""
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    """In the order of the logits."""
    temperature: float
    """Probabilities are the softmax of the logits divided by this."""
    max_length: int
    """Longest text, in tokens. The end of a longer one is cut."""
    info: ModelInfo | None
    """How it was trained. None for a classifier of another program."""
    name: str


def load_classifier(folder: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """Open a classifier's model folder: one of this project, or one that transformers wrote.

    Raises:
        CheckpointError: the folder cannot be opened, or it holds a language model.
    """
    return as_classifier(load_checkpoint(folder, device=device, may_classify=True), where=folder)


def as_classifier(checkpoint: Checkpoint, *, where: str | Path = "") -> Classifier:
    """A classifier of an opened model folder, or of a run's checkpoint. `where` names it in the error.

    Raises:
        CheckpointError: the model is a language model.
    """
    model = checkpoint.model
    where = where or checkpoint.name
    if not isinstance(model, GPTClassifier):
        raise CheckpointError(
            f"{where}: expected a classifier, got a language model, which has no labels. Make a classifier of it: "
            f"assistant classify train DATA --model {shlex.quote(str(where))} --output runs/labels"
        )
    record = checkpoint.classifier or new_record(model)
    model.padded_to = record.max_length if record.reading == "padded" else None
    return Classifier(
        model=model,
        tokenizer=checkpoint.tokenizer,
        labels=model.labels,
        temperature=record.temperature,
        max_length=record.max_length,
        info=checkpoint.info,
        name=checkpoint.name,
    )


def save_temperature(folder: str | Path, temperature: float) -> None:
    """Write the temperature of a classifier into its folder's `assistant.json`.

    Raises:
        CheckpointError: the folder has no record of a classifier.
        ValidationError: the temperature is not a number above 0.
    """
    path = Path(folder) / INFO_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        record = ClassifierRecord.model_validate(content[CLASSIFIER_KEY])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected the record of a classifier, got {error!r}. Train the classifier again."
        ) from error
    changed = ClassifierRecord.model_validate(record.model_dump() | {"temperature": temperature})
    content[CLASSIFIER_KEY] = changed.model_dump(mode="json")
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
