"""The forecast of a run against the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.instructions import Example
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.settings import LoraSettings
from assistant.training.forecast import forecast
from assistant.training.tasks import make_trainer
from assistant.training.trainer import Trainer
from tests.support.models import tiny_checkpoint
from tests.support.runs import FAST, train


@pytest.mark.parametrize("lora", [None, LoraSettings()])
def test_a_forecast_counts_the_steps_of_the_run_and_leaves_no_files(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example], lora: LoraSettings | None
) -> None:
    settings = FAST.model_copy(update={"epochs": 3, "lora": lora})
    trainer = Trainer(tiny_checkpoint(byte_tokenizer), split_examples(examples), settings)
    predicted = forecast(trainer, save_seconds=60.0, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    result, watcher = train(byte_tokenizer, examples, tmp_path / "run", settings)
    assert (predicted.steps, predicted.validations) == (result.total_steps, len(watcher.validations))
    assert predicted.seconds > 0
    assert predicted.peak_bytes > 10_000_000
    assert predicted.free_bytes is None or predicted.free_bytes > 0
    assert predicted.largest_batch_size is None or predicted.largest_batch_size >= settings.batch_size


def test_a_forecast_of_preference_training_counts_the_steps(
    tmp_path: Path, byte_tokenizer: Tokenizer, pairs: list[Example]
) -> None:
    settings = FAST.model_copy(update={"beta": 0.3, "batch_size": 4})
    trainer = make_trainer(tiny_checkpoint(byte_tokenizer), split_examples(pairs), settings)
    assert forecast(trainer, save_seconds=60.0, folder=tmp_path).steps == trainer.total_steps == 18
