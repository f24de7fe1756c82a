"""What a run records of the model that it starts from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.dataset.examples import Example, Exchange, usual_history
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint, load_info
from assistant.model.config import ModelInfo
from assistant.model.digest import weights_digest
from assistant.settings import LoraSettings
from assistant.training.finetune import history_length
from tests.support.models import save_tiny, tiny_checkpoint
from tests.support.runs import FAST, train, weights

SHORT = FAST.model_copy(update={"max_steps": 2, "validation_answers": 0, "validate_every": 2})


def info_of(folder: Path) -> ModelInfo:
    info = load_info(folder)
    assert info is not None
    return info


def record(folder: Path) -> tuple[str | None, str | None, int]:
    info = info_of(folder)
    return info.base_path, info.base_digest, info.conversation_rows


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_resumed_run_keeps_the_record_it_began_with(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], lora: LoraSettings | None
) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    settings = SHORT.model_copy(update={"lora": lora})
    train(byte_tokenizer, examples, tmp_path / "whole", settings, base=load_checkpoint(base), base_folder=base)
    start = load_checkpoint(base)
    train(byte_tokenizer, examples, tmp_path / "parts", settings, stop_at=1, base=start, base_folder=base)
    stopped = record(tmp_path / "parts" / "last")
    assert stopped == ("../base", weights_digest(base), 0)
    other = save_tiny(tmp_path / "other", byte_tokenizer, seed=8)
    start = load_checkpoint(base)
    train(byte_tokenizer, examples, tmp_path / "parts", settings, resume=True, base=start, base_folder=other)
    for folder in (tmp_path / "parts", tmp_path / "parts" / "last", tmp_path / "whole"):
        assert record(folder) == stopped
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_without_a_folder_nothing_is_recorded_and_the_weights_are_the_same(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    base = save_tiny(tmp_path / "base", byte_tokenizer)
    train(byte_tokenizer, examples, tmp_path / "with", SHORT, base=load_checkpoint(base), base_folder=base)
    train(byte_tokenizer, examples, tmp_path / "without", SHORT, base=load_checkpoint(base))
    assert record(tmp_path / "without") == (None, None, 0)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")


def test_conversations_of_all_trainings_count(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    talks = [
        replace(example, history=(Exchange("Hi", "Hello"),)) if number % 3 == 0 else example
        for number, example in enumerate(examples)
    ]
    expected = sum(bool(example.history) for example in split_examples(talks).train)
    train(byte_tokenizer, talks, tmp_path / "first", SHORT, stop_at=1)
    train(byte_tokenizer, talks, tmp_path / "first", SHORT, resume=True)
    assert info_of(tmp_path / "first").conversation_rows == expected > 0
    first = load_checkpoint(tmp_path / "first")
    train(byte_tokenizer, examples, tmp_path / "second", SHORT, base=first, base_folder=tmp_path / "first")
    assert info_of(tmp_path / "second").conversation_rows == expected
    train(byte_tokenizer, talks, tmp_path / "third", SHORT, base=load_checkpoint(tmp_path / "second"))
    assert info_of(tmp_path / "third").conversation_rows == 2 * expected


def test_a_model_keeps_the_history_that_its_base_has_learnt_to_read(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    lengths = [0, 2, 1]
    talks = [
        replace(example, history=(Exchange("Hi", "Hello"),) * lengths[number % 3])
        for number, example in enumerate(examples)
    ]
    train(byte_tokenizer, talks, tmp_path / "first", SHORT)
    assert info_of(tmp_path / "first").history_length == 2
    train(byte_tokenizer, examples, tmp_path / "second", SHORT, base=load_checkpoint(tmp_path / "first"))
    assert info_of(tmp_path / "second").history_length == 2


def test_what_a_chat_model_of_somebody_else_has_read_is_not_known(
    byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    talks = [replace(example, history=(Exchange("Hi", "Hello"),)) for example in examples]
    base = tiny_checkpoint(byte_tokenizer)
    chat_model = replace(base, template=get_template("chatml"))
    assert (history_length(base, talks), history_length(base, examples), history_length(chat_model, talks)) == (1, 0, 0)


def test_what_a_model_of_an_older_version_has_read_is_not_known(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    talks = [replace(example, history=(Exchange("Hi", "Hello"),)) for example in examples]
    train(byte_tokenizer, talks, tmp_path / "older", SHORT)
    older = load_checkpoint(tmp_path / "older")
    assert older.info is not None
    older = replace(older, info=older.info.model_copy(update={"history_length": 0}))
    assert history_length(older, talks) == 0


def test_the_longest_history_in_a_hundred_is_not_usual(examples: list[Example]) -> None:
    def rows(*lengths: int) -> list[Example]:
        return [replace(examples[0], history=(Exchange("Hi", "Hello"),) * length) for length in lengths]

    assert usual_history(rows()) == usual_history(rows(0, 0)) == 0
    assert usual_history(rows(0, 1, 3, 2)) == 3
    assert usual_history(rows(*[0] * 900, *[1] * 60, *[2] * 39, 7)) == 2
    assert usual_history(rows(*[0] * 900, *[1] * 60, *[2] * 38, 7, 7)) == 7


def test_a_digest_covers_all_shards_and_nothing_else(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "model", byte_tokenizer)
    before = weights_digest(folder)
    assert before is not None
    assert len(before) == 64
    (folder / "config.json").write_text("{}")
    assert weights_digest(folder) == before
    shutil.copy(folder / "model.safetensors", folder / "model-00002-of-00002.safetensors")
    assert weights_digest(folder) != before
    assert weights_digest(tmp_path) is None
    assert weights_digest(tmp_path / "nothing") is None
