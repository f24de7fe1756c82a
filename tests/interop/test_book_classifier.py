"""The book's `review_classifier.pth`, read and written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assistant.classifier.inference import class_logits
from assistant.classifier.model_folder import load_classifier
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.interop.pth import export_pth, import_pth
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.heads import make_classifier
from tests.interop.test_pth import book_model
from tests.support.commands import invoke
from tests.support.models import save_tiny, tiny_checkpoint
from tests.support.rows import random_ids


def review_classifier(folder: Path, *, n_labels: int = 2, bias: bool = True) -> tuple[Any, Path]:
    """The book's classifier, and the file that the book saves it in."""
    model = book_model()
    model.out_head = torch.nn.Linear(128, n_labels, bias=bias)
    path = folder / "review_classifier.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture
def like(tmp_path: Path, byte_tokenizer: Tokenizer) -> Path:
    return save_tiny(tmp_path / "like", byte_tokenizer)


@pytest.mark.parametrize("bias", [True, False])
def test_an_imported_classifier_gives_the_logits_of_the_book(tmp_path: Path, like: Path, bias: bool) -> None:
    book, path = review_classifier(tmp_path, bias=bias)
    save_checkpoint(import_pth(path, like=like).checkpoint, tmp_path / "imported")
    classifier = load_classifier(tmp_path / "imported")
    assert classifier.labels == ("not spam", "spam")
    assert classifier.model.padded_to is None
    ids = random_ids(3, 40)
    with torch.inference_mode():
        expected = book(ids)[:, -1]
    assert (class_logits(classifier, [tuple(row) for row in ids.tolist()]) - expected).abs().max() < 1e-4
    record = json.loads((tmp_path / "imported" / "assistant.json").read_text())["classifier"]
    assert record["has_bias"] is bias
    assert ("transformers" in (record["note"] or "")) is bias


def test_the_length_of_the_padding_makes_the_books_reading(tmp_path: Path, like: Path) -> None:
    book, path = review_classifier(tmp_path)
    save_checkpoint(import_pth(path, like=like, max_length=30).checkpoint, tmp_path / "imported")
    row = tuple(b"You won")
    with torch.inference_mode():
        expected = book(torch.tensor([(*row, *(23 * [256]))]))[:, -1]
    classifier = load_classifier(tmp_path / "imported")
    assert (class_logits(classifier, [row]) - expected).abs().max() < 1e-4
    with pytest.raises(CheckpointError, match="expected a max_length from 1 to 64"):
        import_pth(path, like=like, max_length=65)


def test_more_labels_are_named_by_the_caller(tmp_path: Path, like: Path) -> None:
    _, path = review_classifier(tmp_path, n_labels=3)
    with pytest.raises(CheckpointError, match="3 outputs, got none"):
        import_pth(path, like=like)
    for labels in (("a", "b"), ("a", "b", "a")):
        with pytest.raises(CheckpointError, match="expected a different label for each of its 3 outputs"):
            import_pth(path, like=like, labels=labels)
    assert import_pth(path, like=like, labels=("c", "a", "b")).checkpoint.config.model_dump()["id2label"] == {
        0: "c",
        1: "a",
        2: "b",
    }
    torch.save(book_model().state_dict(), path)
    with pytest.raises(CheckpointError, match="expected a classifier for --labels, got a language model"):
        import_pth(path, like=like, labels=("a", "b"))


@pytest.mark.parametrize("as_in_book", [True, False])
def test_a_round_trip_keeps_every_bit_and_the_book_reads_the_file(
    tmp_path: Path, byte_tokenizer: Tokenizer, as_in_book: bool
) -> None:
    checkpoint = make_classifier(tiny_checkpoint(byte_tokenizer), ("b", "a"), seed=1, as_in_book=as_in_book)
    assert checkpoint.classifier is not None
    changes = {"reading": "padded", "max_length": 33} if as_in_book else {}
    checkpoint = replace(checkpoint, classifier=checkpoint.classifier.model_copy(update=changes))
    save_checkpoint(checkpoint, tmp_path / "ours")
    written = export_pth(load_checkpoint(tmp_path / "ours", may_classify=True), tmp_path / "out.pth")
    imported = import_pth(tmp_path / "out.pth").checkpoint
    assert imported.classifier == checkpoint.classifier
    save_checkpoint(imported, tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    from llms_from_scratch.ch04 import GPTModel

    book = GPTModel(json.loads(written.config.read_text())).eval()
    book.out_head = torch.nn.Linear(32, 2)
    book.load_state_dict(torch.load(tmp_path / "out.pth", map_location="cpu", weights_only=True))
    ids = random_ids(2, 50)
    with torch.inference_mode():
        ours = checkpoint.model.head(checkpoint.model(ids))
        assert (book(ids) - ours).abs().max() < 1e-4


def test_the_commands_say_what_they_do(tmp_path: Path, like: Path) -> None:
    _, path = review_classifier(tmp_path)
    new, out = str(tmp_path / "new"), str(tmp_path / "out")
    options = ("--like", str(like), "--labels", "ham, junk", "--max-length", "9")
    shown = invoke("import", str(path), *options, "-o", new)
    assert shown.exit_code == 0, shown.stderr
    assert "a classifier with 2 labels" in shown.stdout
    assert "labels: ham, junk" in shown.stdout
    assert "texts are padded to 9 tokens" in shown.stdout
    assert "transformers' GPT2ForSequenceClassification has no bias and ignores it" in shown.stdout
    assert "Next:  assistant classify predict" in shown.stdout
    exported = invoke("export", new, "--to", "pth", "-o", f"{out}.pth")
    assert exported.exit_code == 0, exported.stderr
    assert json.loads((tmp_path / "out.json").read_text())["labels"] == ["ham", "junk"]
    refused = invoke("export", new, "--to", "gguf", "-o", f"{out}.gguf")
    assert refused.exit_code == 1
    assert "expected a language model, got a classifier with the labels ham, junk" in refused.stderr
