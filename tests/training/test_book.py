"""The book's recipe, compared with the book's own code (the package `llms-from-scratch`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from assistant.cli.options import book_recipe
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError, SettingsError
from assistant.model.checkpoint import save_checkpoint
from assistant.model.gpt import GPT
from assistant.settings import BOOK, FinetuneSettings
from assistant.training.trainer import Trainer
from benchmarks.book import book_model
from tests.conftest import shared_file
from tests.support.models import load_model, tiny_checkpoint


def book_model_with_weights_of(model: GPT) -> torch.nn.Module:
    """Return the book's model with the weights of `model`. Its head gets a copy of the embedding's weights."""
    book: torch.nn.Module = book_model(model.config)
    state = model.state_dict()
    named: dict[str, torch.Tensor] = {
        "tok_emb.weight": state["transformer.wte.weight"],
        "pos_emb.weight": state["transformer.wpe.weight"],
        "final_norm.scale": state["transformer.ln_f.weight"],
        "final_norm.shift": state["transformer.ln_f.bias"],
        "out_head.weight": state["transformer.wte.weight"],
    }
    for n in range(model.config.n_layer):
        block, book_block = f"transformer.h.{n}", f"trf_blocks.{n}"
        for kind in ("weight", "bias"):
            qkv = state[f"{block}.attn.c_attn.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), qkv, strict=True):
                named[f"{book_block}.att.W_{name}.{kind}"] = part
            named[f"{book_block}.att.out_proj.{kind}"] = state[f"{block}.attn.c_proj.{kind}"]
            named[f"{book_block}.ff.layers.0.{kind}"] = state[f"{block}.mlp.c_fc.{kind}"]
            named[f"{book_block}.ff.layers.2.{kind}"] = state[f"{block}.mlp.c_proj.{kind}"]
        for norm in (1, 2):
            named[f"{book_block}.norm{norm}.scale"] = state[f"{block}.ln_{norm}.weight"]
            named[f"{book_block}.norm{norm}.shift"] = state[f"{block}.ln_{norm}.bias"]
    masks = {name for name, _ in book.named_buffers()}
    loaded = book.load_state_dict({name: value.clone() for name, value in named.items()}, strict=False)
    assert set(loaded.missing_keys) <= masks
    assert not loaded.unexpected_keys
    return book


def test_losses_equal_those_of_the_books_training_loop(
    gpt2_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four epochs of six steps, because the order of later epochs depends on the evaluations before them."""
    reason = "the book's package is not installed"
    ch05, ch07 = (pytest.importorskip(f"llms_from_scratch.{name}", reason=reason) for name in ("ch05", "ch07"))
    examples = read_examples(shared_file("data/book-instruction-data.json"))[:60]
    splits = split_examples(examples, method="book")
    checkpoint = tiny_checkpoint(gpt2_tokenizer, n_positions=128)
    model = book_model_with_weights_of(checkpoint.model)
    settings = BOOK.model_copy(update={"epochs": 4, "learning_rate": 1e-3})

    book_losses: list[float] = []
    calc_loss_batch = ch05.calc_loss_batch

    def recorded_loss(*arguments: Any) -> torch.Tensor:
        loss: torch.Tensor = calc_loss_batch(*arguments)
        if torch.is_grad_enabled():
            book_losses.append(loss.item())
        return loss

    monkeypatch.setattr(ch05, "calc_loss_batch", recorded_loss)

    def loader(part: str, *, is_training: bool) -> DataLoader[Any]:
        entries = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in splits.part(part)]
        return DataLoader(
            ch07.InstructionDataset(entries, gpt2_tokenizer.encoding),
            batch_size=8,
            collate_fn=ch07.custom_collate_fn,
            shuffle=is_training,
            drop_last=is_training,
        )

    train, validation = loader("train", is_training=True), loader("validation", is_training=False)
    torch.manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.1)
    ch05.train_model_simple(
        model, train, validation, optimizer, torch.device("cpu"), num_epochs=4, eval_freq=5, eval_iter=5,
        start_context="Below", tokenizer=gpt2_tokenizer.encoding,
    )  # fmt: skip
    capsys.readouterr()

    trainer = Trainer(checkpoint, splits, settings)
    losses = [trainer.train_step(step, window).loss for step, (_, window) in enumerate(trainer.windows(0), start=1)]
    assert len(losses) == len(book_losses) == 24
    assert losses == pytest.approx(book_losses, abs=1e-4)
    assert max(losses) - min(losses) > 0.5  # the model learns, so the order of the rows matters


def test_the_head_is_trained_and_saved_apart_from_the_embedding(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    trainer = Trainer(checkpoint, split_examples(examples), BOOK)
    trainer.train_step(1, next(window for _, window in trainer.windows(0)))
    state = trainer.model.state_dict()
    assert not torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    save_checkpoint(trainer.checkpoint, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert not loaded.config.tie_word_embeddings
    assert torch.equal(loaded.lm_head.weight, state["lm_head.weight"])


def test_options_that_the_recipe_sets_are_refused() -> None:
    assert book_recipe(FinetuneSettings(epochs=3, validate_every=9)).epochs == 3
    assert book_recipe(FinetuneSettings()).model_copy(update={"epochs": 2}) == BOOK
    with pytest.raises(SettingsError, match="--book: expected no other option that the recipe sets, got --batch-"):
        book_recipe(FinetuneSettings(batch_size=4))


def test_fewer_rows_than_one_batch_are_refused(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    with pytest.raises(DataError, match="expected at least 8, a full batch of the book's loop, got 7"):
        Trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples[:9], method="book"), BOOK)
