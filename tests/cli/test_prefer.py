"""`assistant prefer`: its prompt template and its own defaults. Runs are tested in `tests/training/test_dpo.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.dataset.instructions import Example, dump_rows
from assistant.dataset.prompts import get_template
from assistant.model.checkpoint import load_checkpoint
from tests.support.commands import invoke


@pytest.fixture
def folder(folder: Path, examples: list[Example]) -> Path:
    """The current folder, with a base model in `base` and preferences in `pairs.json`."""
    (folder / "pairs.json").write_text(dump_rows([replace(example, rejected="No.") for example in examples]))
    return folder


def test_a_base_model_gets_the_default_template_and_the_defaults_of_prefer(folder: Path) -> None:
    done = invoke("prefer", "pairs.json", "-m", "base", "-o", "out", "--max-steps", "1", "--validation-answers", "0")
    assert done.exit_code == 0, done.stderr
    checkpoint = load_checkpoint(folder / "out")
    assert checkpoint.template == get_template("alpaca")
    assert checkpoint.info is not None
    used = checkpoint.info.finetune
    assert (used.beta, used.batch_size, used.learning_rate, used.weight_decay) == (0.1, 4, 5e-6, 0.0)


def test_the_template_option_replaces_the_models_own(folder: Path) -> None:
    words = ("prefer", "pairs.json", "-m", "base", "-o", "out", "--max-steps", "1", "--validation-answers", "0")
    done = invoke(*words, "--template", "phi3", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 1
    assert load_checkpoint(folder / "out").template == get_template("phi3")


def test_an_unknown_template_is_refused_before_anything_is_written(folder: Path) -> None:
    refused = invoke("prefer", "pairs.json", "-m", "base", "-o", "out", "--template", "chat")
    assert refused.exit_code == 2
    assert "expected one of alpaca" in refused.stderr
    assert not (folder / "out").exists()
