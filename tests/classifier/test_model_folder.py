"""A classifier's folder: written for transformers, read from transformers, and refused where it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assistant.classifier.inference import class_logits
from assistant.classifier.model_folder import load_classifier, save_temperature
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from assistant.model.heads import make_classifier
from tests.classifier.conftest import LABELS, TEXTS
from tests.support.models import save_tiny, tiny_checkpoint


def test_transformers_opens_our_folder_with_equal_logits(tmp_path: Path, untrained: Checkpoint) -> None:
    transformers = pytest.importorskip("transformers")
    save_checkpoint(untrained, tmp_path / "spam")
    classifier = load_classifier(tmp_path / "spam")
    rows = [tuple(classifier.tokenizer.encode(text)) for text in TEXTS]
    model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "spam", output_loading_info=True
    )
    assert type(model).__name__ == "GPT2ForSequenceClassification"
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.num_labels == 2
    pad_id, longest = model.config.pad_token_id, max(map(len, rows))
    padded = torch.tensor([(*row, *((longest - len(row)) * [pad_id])) for row in rows])
    with torch.inference_mode():
        expected = model.eval()(padded).logits
    assert torch.allclose(class_logits(classifier, rows), expected, atol=1e-5)
    assert expected[0, 0] != expected[1, 0]


@pytest.mark.parametrize("labels", [None, ("a", "b", "c")])
def test_we_open_a_folder_that_transformers_wrote(
    tmp_path: Path, byte_tokenizer: Tokenizer, labels: tuple[str, ...] | None
) -> None:
    transformers = pytest.importorskip("transformers")
    save_tiny(tmp_path / "base", byte_tokenizer)  # for the tokenizer's files
    named = {} if labels is None else {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}
    config = transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=32, n_positions=64, vocab_size=257, pad_token_id=256, eos_token_id=256, **named
    )
    torch.manual_seed(3)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "theirs" / name).write_bytes((tmp_path / "base" / name).read_bytes())
    classifier = load_classifier(tmp_path / "theirs")
    assert classifier.labels == (labels or ("LABEL_0", "LABEL_1"))
    assert (classifier.info, classifier.temperature, classifier.max_length) == (None, 1.0, 64)
    row = tuple(b"You won a prize")
    with torch.inference_mode():
        expected = model(torch.tensor([row])).logits
    assert torch.allclose(class_logits(classifier, [row]), expected, atol=1e-5)


def test_a_folder_comes_back_as_it_was_written(tmp_path: Path, untrained: Checkpoint) -> None:
    assert untrained.classifier is not None
    record = untrained.classifier.model_copy(update={"reading": "padded", "max_length": 40, "temperature": 1.5})
    save_checkpoint(replace(untrained, classifier=record), tmp_path / "spam")
    assert "chat_template" not in json.loads((tmp_path / "spam" / "tokenizer_config.json").read_text())
    assert not (tmp_path / "spam" / "generation_config.json").exists()
    loaded = load_checkpoint(tmp_path / "spam", may_classify=True)
    assert loaded.classifier == record
    for name, value in untrained.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    classifier = load_classifier(tmp_path / "spam")
    assert (classifier.model.padded_to, classifier.max_length, classifier.temperature) == (40, 40, 1.5)


def test_the_books_bias_is_kept_and_described(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    checkpoint = make_classifier(tiny_checkpoint(byte_tokenizer), LABELS, seed=123, as_in_book=True)
    torch.manual_seed(123)
    book_head = torch.nn.Linear(32, 2)
    save_checkpoint(checkpoint, tmp_path / "spam")
    score = load_classifier(tmp_path / "spam").model.score
    assert torch.equal(score.weight, book_head.weight)
    assert torch.equal(score.bias, book_head.bias)
    record = json.loads((tmp_path / "spam" / "assistant.json").read_text())["classifier"]
    assert record["has_bias"] is True
    assert "transformers" in record["note"]


def test_the_temperature_is_saved(tmp_path: Path, untrained: Checkpoint) -> None:
    save_checkpoint(untrained, tmp_path / "spam")
    save_temperature(tmp_path / "spam", 2.5)
    assert load_classifier(tmp_path / "spam").temperature == 2.5
    with pytest.raises(CheckpointError, match="expected the record of a classifier"):
        save_temperature(tmp_path, 2.5)


def test_a_classifier_does_not_pass_for_a_language_model_nor_the_reverse(tmp_path: Path, untrained: Checkpoint) -> None:
    save_checkpoint(untrained, tmp_path / "spam")
    with pytest.raises(CheckpointError, match=r"got a classifier with the labels not spam, spam.*classify predict"):
        load_checkpoint(tmp_path / "spam")
    save_tiny(tmp_path / "base", untrained.tokenizer)
    with pytest.raises(CheckpointError, match=r"got a language model, which has no labels.*classify train"):
        load_classifier(tmp_path / "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "expected a different name"),
        ({"id2label": {"0": "a", "1": "a"}}, "expected a different name"),
        ({"id2label": {"0": "a"}}, "at least 2"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"id2label": {"0": "a", "1": "b"}}, "expected the labels of config.json, a, b"),
    ],
)
def test_a_damaged_config_is_named(
    tmp_path: Path, untrained: Checkpoint, change: dict[str, object], message: str
) -> None:
    save_checkpoint(untrained, tmp_path / "spam")
    path = tmp_path / "spam" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(tmp_path / "spam")
