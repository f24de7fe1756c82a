"""The book's recipe for classifiers, compared with the book's own code (the package `llms-from-scratch`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiktoken
import torch
from torch.utils.data import DataLoader

from assistant.dataset.instructions import Example
from assistant.dataset.splits import Splits, split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.gpt import GPT, GPTClassifier
from assistant.settings import LABEL_BOOK
from assistant.training.classification import ClassifierTrainer
from tests.support.models import tiny_checkpoint
from tests.training.test_book import book_model_with_weights_of

LABELS = ("not spam", "spam")
N_EPOCHS = 18
"""Of three steps: the loop evaluates before step 1 and step 51, and after each epoch."""


def book_classifier(model: GPTClassifier, base: GPT) -> Any:
    """The book's classifier, made of a language model as the book makes it, with a head of its own."""
    book: Any = book_model_with_weights_of(base)
    for weight in book.parameters():
        weight.requires_grad = False
    torch.manual_seed(123)
    book.out_head = torch.nn.Linear(model.config.n_embd, len(model.labels))
    for module in (book.trf_blocks[-1], book.final_norm):
        for weight in module.parameters():
            weight.requires_grad = True
    return book


def book_loader(folder: Path, splits: Splits, part: str, max_length: int | None) -> DataLoader[Any]:
    ch06 = pytest.importorskip("llms_from_scratch.ch06", reason="the book's package is not installed")
    import pandas as pd

    rows = [{"Label": LABELS.index(e.output), "Text": e.instruction} for e in splits.part(part)]
    pd.DataFrame(rows).to_csv(folder / f"{part}.csv", index=False)
    ranks, special = {bytes([n]): n for n in range(256)}, {"<|endoftext|>": 256}
    encoding = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens=special)
    dataset = ch06.SpamDataset(folder / f"{part}.csv", encoding, max_length=max_length, pad_token_id=256)
    is_training = part == "train"
    return DataLoader(dataset, batch_size=8, shuffle=is_training, drop_last=is_training)


def test_losses_equal_those_of_the_books_training_loop(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    labelled: list[Example],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ch06 = pytest.importorskip("llms_from_scratch.ch06", reason="the book's package is not installed")
    splits = split_examples(labelled, fractions=(0.7, 0.2, 0.1))
    settings = LABEL_BOOK.model_copy(update={"epochs": N_EPOCHS, "learning_rate": 1e-3})
    base = tiny_checkpoint(byte_tokenizer, n_positions=64)
    trainer = ClassifierTrainer(base, splits, settings)
    assert isinstance(trainer.model, GPTClassifier)
    model = book_classifier(trainer.model, base.model)
    train = book_loader(tmp_path, splits, "train", None)
    validation = book_loader(tmp_path, splits, "validation", trainer.max_length)
    assert train.dataset.max_length == trainer.max_length  # type: ignore[attr-defined]

    inputs, _ = next(iter(train))
    with torch.inference_mode():
        logits = trainer.model.head(trainer.model(inputs))
        assert torch.allclose(logits, model(inputs), atol=1e-4)

    book_losses: list[float] = []
    calc_loss_batch = ch06.calc_loss_batch

    def recorded_loss(*arguments: Any) -> torch.Tensor:
        loss: torch.Tensor = calc_loss_batch(*arguments)
        if torch.is_grad_enabled():
            book_losses.append(loss.item())
        return loss

    monkeypatch.setattr(ch06, "calc_loss_batch", recorded_loss)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.1)
    ch06.train_classifier_simple(
        model, train, validation, optimizer, torch.device("cpu"), num_epochs=N_EPOCHS, eval_freq=50, eval_iter=5
    )
    capsys.readouterr()

    once = ClassifierTrainer(tiny_checkpoint(byte_tokenizer, n_positions=64), splits, settings)
    once.prepare()
    for ours in (trainer, once):
        losses = [ours.train_step(step, window).loss for step, (_, window) in enumerate(ours.windows(0), start=1)]
        assert len(losses) == len(book_losses) == 3 * N_EPOCHS
        assert losses == pytest.approx(book_losses, abs=1e-4)
        assert max(losses) - min(losses) > 0.3  # the model learns, so the order of the rows matters
