"""Labels and probabilities of texts, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from assistant.classifier.model_folder import Classifier
from assistant.dataset.labelled import encode_text
from assistant.errors import DataError
from assistant.model import fused
from assistant.model.gpt import GPTClassifier
from assistant.model.packing import IGNORE_INDEX, pack

BATCH_SIZE = 32
SORTED_BATCHES = 32
"""Batches whose texts are sorted by length together: enough to avoid padding, and few enough for an endless input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The label of a text."""

    index: int
    """Of the likeliest label."""
    label: str
    probabilities: tuple[float, ...]
    """Of every label, in the order of the classifier's labels."""
    n_tokens: int
    """Tokens that were read."""
    was_cut: bool
    """Whether the text was longer, so that its end was not read."""


def classify(classifier: Classifier, texts: Iterable[str], *, batch_size: int = BATCH_SIZE) -> Iterator[Prediction]:
    """Yield a prediction for every text, in order. The probabilities are those of softmax(logits / temperature).

    Some thousand texts at most are held at a time.

    Raises:
        DataError: a text has no token. The message has its number, counted from 1.
    """
    texts, first = iter(texts), 1
    while chunk := list(islice(texts, batch_size * SORTED_BATCHES)):
        encoded = [encode_text(text, classifier.tokenizer, max_length=classifier.max_length) for text in chunk]
        empty = next((number for number, (ids, _) in enumerate(encoded, start=first) if not ids), None)
        if empty is not None:
            raise DataError(f"text {empty}: expected at least one character, got none. Leave it out.")
        logits = class_logits(classifier, [ids for ids, _ in encoded], batch_size=batch_size)
        probabilities = (logits / classifier.temperature).softmax(dim=1)
        best = logits.argmax(dim=1).tolist()
        for index, numbers, (ids, was_cut) in zip(best, probabilities.tolist(), encoded, strict=True):
            yield Prediction(
                index=index,
                label=classifier.labels[index],
                probabilities=tuple(numbers),
                n_tokens=len(ids),
                was_cut=was_cut,
            )
        first += len(chunk)


def class_logits(classifier: Classifier, rows: Sequence[tuple[int, ...]], *, batch_size: int = BATCH_SIZE) -> Tensor:
    """Logits (N, V) float32, on the CPU, of N rows of token ids, V labels. They are not divided by the temperature.

    No row may be empty or longer than the classifier's `max_length`.
    """
    model = classifier.model.eval()
    logits = torch.empty(len(rows), len(classifier.labels))
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            logits[indices] = _batch_logits(model, [rows[i] for i in indices], classifier.tokenizer.pad_id)
    return logits


def _batch_logits(model: GPTClassifier, rows: list[tuple[int, ...]], pad_id: int) -> Tensor:
    """Logits (B, V) of a batch, read at the last token of each row, or at the end of its padding."""
    if model.padded_to is not None:
        rows = [(*row, *((model.padded_to - len(row)) * [pad_id])) for row in rows]
    device = model.transformer.wte.weight.device
    targets = [(*((len(row) - 1) * [IGNORE_INDEX]), 0) for row in rows]
    as_tree = device.type == "cpu" and fused.is_compiled()
    batch = pack(rows, targets, pad_id=pad_id, as_tree=as_tree).to(device)
    # Equal texts share their target, so there may be fewer targets than rows.
    return model.target_logits(batch)[batch.target_mask.argmax(dim=1)].float().cpu()
