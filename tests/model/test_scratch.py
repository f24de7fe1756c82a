"""New models with their own vocabulary."""

from __future__ import annotations

from pathlib import Path

from assistant.dataset.instructions import Example
from assistant.dataset.prompts import get_template
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.config import GPTConfig
from assistant.model.scratch import new_checkpoint, train_tokenizer

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 128}


def test_a_new_model_is_saved_and_the_same_seed_gives_the_same_files(tmp_path: Path, examples: list[Example]) -> None:
    config = GPTConfig.model_validate({**SHAPE, "vocab_size": 320})
    checkpoint = new_checkpoint(examples, config, seed=3, name="new")
    assert 300 < checkpoint.tokenizer.vocab_size == checkpoint.config.vocab_size <= 320
    assert checkpoint.tokenizer.eos_id == checkpoint.config.vocab_size - 1
    save_checkpoint(checkpoint, tmp_path / "new")
    save_checkpoint(new_checkpoint(examples, config, seed=3, name="new"), tmp_path / "again")
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert load_checkpoint(tmp_path / "new").info is None


def test_the_vocabulary_is_smaller_if_the_text_has_no_more_merges(examples: list[Example]) -> None:
    config = GPTConfig.model_validate({**SHAPE, "vocab_size": 50_000})
    checkpoint = new_checkpoint(examples, config, seed=3, name="new")
    assert 257 < checkpoint.config.vocab_size < 1000
    assert checkpoint.model.transformer.wte.num_embeddings == checkpoint.config.vocab_size


def test_a_word_is_split_alike_with_and_without_a_space_before_it(examples: list[Example]) -> None:
    tokenizer = train_tokenizer(examples, get_template("alpaca"), vocab_size=340)
    words = {word for example in examples for word in example.output.split() if word.isalpha()}
    assert len(words) > 3
    for word in sorted(words):
        pieces = [tokenizer.decode([token_id]) for token_id in tokenizer.encode(word)]
        after_space = [tokenizer.decode([token_id]) for token_id in tokenizer.encode(f" {word}")]
        assert after_space in ([f" {pieces[0]}", *pieces[1:]], [" ", *pieces]), word
