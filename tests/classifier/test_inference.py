"""Predictions: in order, of any number of texts, whatever the batches and the padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from assistant.classifier.inference import class_logits, classify
from assistant.classifier.model_folder import as_classifier
from assistant.errors import DataError
from assistant.model import fused
from assistant.model.checkpoint import Checkpoint
from tests.classifier.conftest import TEXTS


def plain_logits(checkpoint: Checkpoint, text: str) -> torch.Tensor:
    """The logits of one text by itself, computed in the plain way."""
    model = checkpoint.model
    with torch.inference_mode():
        hidden: torch.Tensor = model(torch.tensor([checkpoint.tokenizer.encode(text)]))[0, -1]
        return model.head(hidden)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("compiled", [True, False])
def test_batches_change_nothing(
    untrained: Checkpoint, batch_size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled and fused._library()[0] is not None)
    classifier = as_classifier(untrained)
    expected = torch.stack([plain_logits(untrained, text) for text in TEXTS])
    rows = [tuple(classifier.tokenizer.encode(text)) for text in TEXTS]
    assert torch.allclose(class_logits(classifier, rows, batch_size=batch_size), expected, atol=1e-5)
    predictions = list(classify(classifier, TEXTS, batch_size=batch_size))
    assert [p.index for p in predictions] == expected.argmax(dim=1).tolist()
    assert [p.n_tokens for p in predictions] == [len(text) for text in TEXTS]
    probabilities = torch.tensor([p.probabilities for p in predictions])
    assert torch.allclose(probabilities, expected.softmax(dim=1), atol=1e-5)
    assert all(p.label == classifier.labels[p.index] for p in predictions)


def test_a_temperature_changes_probabilities_but_no_label(untrained: Checkpoint) -> None:
    classifier = as_classifier(untrained)
    plain, soft = (list(classify(c, TEXTS)) for c in (classifier, replace(classifier, temperature=3.0)))
    assert [p.label for p in plain] == [p.label for p in soft]
    assert all(max(a.probabilities) > max(b.probabilities) for a, b in zip(plain, soft, strict=True))


def test_texts_are_read_as_they_are_needed(untrained: Checkpoint) -> None:
    n_read = 0

    def endless() -> Iterator[str]:
        nonlocal n_read
        while True:
            n_read += 1
            yield "x" * (1 + n_read % 7)

    predictions = classify(as_classifier(untrained), endless(), batch_size=2)
    assert [next(predictions).n_tokens for _ in range(100)] == [1 + n % 7 for n in range(1, 101)]
    assert n_read < 200


def test_a_long_text_is_cut_at_its_end(untrained: Checkpoint) -> None:
    long, short = classify(as_classifier(untrained), ["a" * 300, "a" * 256])
    assert (long.n_tokens, long.was_cut) == (256, True)
    assert (short.n_tokens, short.was_cut) == (256, False)
    assert long.probabilities == pytest.approx(short.probabilities)


def test_an_empty_text_is_named_by_its_number(untrained: Checkpoint) -> None:
    with pytest.raises(DataError, match="text 3: expected at least one character"):
        list(classify(as_classifier(untrained), ["a", "b", "", "c"]))


def test_a_padded_reading_pads_to_the_length_of_training(untrained: Checkpoint) -> None:
    assert untrained.classifier is not None
    record = untrained.classifier.model_copy(update={"reading": "padded", "max_length": 20})
    classifier = as_classifier(replace(untrained, classifier=record))
    model, pad_id = untrained.model, untrained.tokenizer.pad_id
    ids = [*untrained.tokenizer.encode("Hi"), *(18 * [pad_id])]
    with torch.inference_mode():
        expected = model.head(model(torch.tensor([ids]))[:, -1])
    logits = class_logits(classifier, [tuple(ids[:2])])
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits[0], plain_logits(untrained, "Hi"), atol=1e-3)
