"""The book's recipe against the book's own code (the package `llms-from-scratch`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from assistant.cli.options import book_recipe
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError, SettingsError
from assistant.model.checkpoint import Checkpoint, load_model, save_checkpoint
from assistant.model.gpt import GPT
from assistant.settings import BOOK, FinetuneSettings
from assistant.training.batches import book_batches
from assistant.training.trainer import Trainer
from benchmarks.book import book_model
from tests.conftest import shared_file
from tests.support.models import tiny_checkpoint


def theirs(ours: GPT) -> torch.nn.Module:
    """The book's model with our weights, its head apart from its embedding."""
    config = ours.config
    model = book_model(config)
    state = ours.state_dict()
    named: dict[str, torch.Tensor] = {
        "tok_emb.weight": state["transformer.wte.weight"],
        "pos_emb.weight": state["transformer.wpe.weight"],
        "final_norm.scale": state["transformer.ln_f.weight"],
        "final_norm.shift": state["transformer.ln_f.bias"],
        "out_head.weight": state["transformer.wte.weight"],
    }
    for n in range(config.n_layer):
        mine, yours = f"transformer.h.{n}", f"trf_blocks.{n}"
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", state[f"{mine}.attn.c_attn.{kind}"].chunk(3), strict=True):
                named[f"{yours}.att.W_{ {'q': 'query', 'k': 'key', 'v': 'value'}[name] }.{kind}"] = part
            named[f"{yours}.att.out_proj.{kind}"] = state[f"{mine}.attn.c_proj.{kind}"]
            named[f"{yours}.ff.layers.0.{kind}"] = state[f"{mine}.mlp.c_fc.{kind}"]
            named[f"{yours}.ff.layers.2.{kind}"] = state[f"{mine}.mlp.c_proj.{kind}"]
        for norm in (1, 2):
            named[f"{yours}.norm{norm}.scale"] = state[f"{mine}.ln_{norm}.weight"]
            named[f"{yours}.norm{norm}.shift"] = state[f"{mine}.ln_{norm}.bias"]
    masks = {name for name, _ in model.named_buffers()}
    loaded = model.load_state_dict({name: value.clone() for name, value in named.items()}, strict=False)
    assert set(loaded.missing_keys) <= masks
    assert not loaded.unexpected_keys
    found: torch.nn.Module = model
    return found


def test_losses_are_those_of_the_books_own_loop(
    gpt2_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four epochs of six steps, so that the order of later epochs is compared, too."""
    reason = "the book's package is not installed"
    ch05, ch07 = (pytest.importorskip(f"llms_from_scratch.{name}", reason=reason) for name in ("ch05", "ch07"))
    examples = read_examples(shared_file("data/book-instruction-data.json"))[:60]
    splits = split_examples(examples, method="book")
    checkpoint = tiny_checkpoint(gpt2_tokenizer, n_positions=128)
    model = theirs(checkpoint.model)
    settings = BOOK.model_copy(update={"epochs": 4, "learning_rate": 1e-3})

    losses: list[float] = []
    calculate = ch05.calc_loss_batch

    def recorded(*arguments: Any) -> torch.Tensor:
        loss: torch.Tensor = calculate(*arguments)
        if torch.is_grad_enabled():
            losses.append(loss.item())
        return loss

    monkeypatch.setattr(ch05, "calc_loss_batch", recorded)

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
    ours = [trainer.train_step(step, window).loss for step, (_, window) in enumerate(trainer.windows(0), start=1)]
    assert len(ours) == len(losses) == 24
    assert ours == pytest.approx(losses, abs=1e-4)
    assert max(ours) - min(ours) > 0.5  # it has learnt something, so the order of the rows matters


def test_looking_for_the_order_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    first = book_batches(50, 5, batch_size=8, seed=1, epochs=2)
    assert torch.equal(torch.rand(3), wanted)
    assert first == book_batches(50, 5, batch_size=8, seed=1, epochs=3)[:2]
    assert [len(epoch) for epoch in first] == [6, 6]
    assert all(len({row for batch in epoch for row in batch}) == 48 for epoch in first)


def test_the_head_has_weights_of_its_own(tmp_path: Any, byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    trainer = Trainer(checkpoint, split_examples(examples), BOOK)
    trainer.train_step(1, next(window for _, window in trainer.windows(0)))
    state = trainer.model.state_dict()
    assert not torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    saved: Checkpoint = trainer.checkpoint
    save_checkpoint(saved, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert not again.config.tie_word_embeddings
    assert torch.equal(again.lm_head.weight, state["lm_head.weight"])


def test_the_recipe_is_not_mixed_with_other_options() -> None:
    assert book_recipe(FinetuneSettings(epochs=3, validate_every=9)).epochs == 3
    assert book_recipe(FinetuneSettings()).model_copy(update={"epochs": 2}) == BOOK
    with pytest.raises(SettingsError, match="--book: expected no other option that the recipe sets, got --batch-"):
        book_recipe(FinetuneSettings(batch_size=4))


def test_fewer_rows_than_a_batch_are_refused(byte_tokenizer: Tokenizer, examples: list[Example]) -> None:
    with pytest.raises(DataError, match="expected at least 8, a full batch of the book's loop, got 7"):
        Trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples[:9], method="book"), BOOK)
