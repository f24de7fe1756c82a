"""What the book's classifier has beside its language model: labels, a bias, and the length that texts are padded to.

The book saves only tensors. The names of the labels and the length come from the caller, or from the configuration that
our export writes beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from assistant.errors import CheckpointError
from assistant.files import shown_path
from assistant.model.config import ClassifierRecord
from assistant.model.gpt import GPTClassifier
from assistant.model.heads import new_record

BOOK_LABELS = ("not spam", "spam")
"""The labels of two outputs that nobody names: the book's."""
LABELS_KEY, LENGTH_KEY = "labels", "max_length"
"""Names in the configuration beside the file, besides the book's."""
HEAD_WEIGHT, HEAD_BIAS = "out_head.weight", "out_head.bias"


def is_classifier_state(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict with the book's names has an output layer for labels, not for tokens."""
    return HEAD_BIAS in state or len(state[HEAD_WEIGHT]) != len(state["tok_emb.weight"])


def pick_labels(path: Path, n_outputs: int, given: Sequence[str] | None, beside: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a file's outputs: those that were given, or those beside the file, or the book's two.

    Raises:
        CheckpointError: their number is wrong, one is there twice, or more than two outputs have no names.
    """
    listed = beside.get(LABELS_KEY)
    named = given or (listed if isinstance(listed, list) and all(isinstance(label, str) for label in listed) else None)
    if named is None and n_outputs == len(BOOK_LABELS):
        return BOOK_LABELS
    labels = tuple(named or ())
    if n_outputs < 2 or len(labels) != n_outputs or len(set(labels)) < len(labels):
        found = ", ".join(map(repr, labels[:8])) or "none"
        raise CheckpointError(
            f"{shown_path(path)}: expected a different label for each of its {n_outputs} outputs, got {found[:200]}. "
            f"Name them in the order of the outputs, for example with --labels negative,neutral,positive."
        )
    return labels


def read_record(path: Path, model: GPTClassifier, given: int | None, beside: Mapping[str, Any]) -> ClassifierRecord:
    """How the classifier reads texts: at the end of padding if a length is known, or else at the last token.

    Raises:
        CheckpointError: the length is not a number between 1 and the model's context.
    """
    record = new_record(model)
    length = beside.get(LENGTH_KEY) if given is None else given
    if length is None:
        return record
    if type(length) is not int or not 1 <= length <= model.config.context_length:
        raise CheckpointError(
            f"{shown_path(path)}: expected a max_length from 1 to {model.config.context_length}, the model's context, "
            f"got {str(length)[:40]}. It is the longest training text in tokens, 120 in the book."
        )
    return record.model_copy(update={"reading": "padded", "max_length": length})


def described(model: GPTClassifier, record: ClassifierRecord | None) -> dict[str, Any]:
    """What the configuration beside an exported classifier says besides the book's settings."""
    content: dict[str, Any] = {LABELS_KEY: list(model.labels)}
    if record is not None and record.reading == "padded":
        content[LENGTH_KEY] = record.max_length
    return content
