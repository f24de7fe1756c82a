"""How it learnt: the answers of a real run's `validation.jsonl`, and of files that are torn, old or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.chat.growth import Growth, read_growth
from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.training.events import VALIDATION_FILE
from tests.support.runs import FAST, train

SAMPLE = {"instruction": "2 + 2?", "input": "", "reference": "4", "response": "5", "stop_reason": "eos"}


def line(step: int, *responses: str, loss: float = 1.0, **fields: Any) -> str:
    samples = [SAMPLE | {"response": response, "input": f"{number}"} for number, response in enumerate(responses)]
    return json.dumps({"step": step, "validation_loss": loss, "samples": samples} | fields) + "\n"


def read(folder: Path, *lines: str) -> Growth:
    (folder / VALIDATION_FILE).write_text("".join(lines))
    growth = read_growth(folder)
    assert growth.rows, growth
    assert not growth.problem
    return growth


def test_answers_of_a_run_are_those_that_its_observer_saw(
    tmp_path: Path, byte_tokenizer: Tokenizer, examples: list[Example]
) -> None:
    settings = FAST.model_copy(update={"max_steps": 2, "validate_every": 1, "validation_answers": 2})
    _, watcher = train(byte_tokenizer, examples, tmp_path / "run", settings)
    growth = read_growth(tmp_path / "run")
    assert len(growth.rows) == 2
    for place, row in enumerate(growth.rows):
        samples = [report.samples[place] for report in watcher.validations]
        assert {(sample.instruction, sample.input, sample.reference) for sample in samples} == {
            (row.instruction, row.input, row.reference)
        }
        assert [step.response for step in row.steps] == [sample.response for sample in samples]
        assert [step.step for step in row.steps] == [0, 1, 2]
        losses = [report.validation_loss for report in watcher.validations]
        assert [step.validation_loss for step in row.steps] == losses


def test_matches_and_losses(tmp_path: Path) -> None:
    growth = read(tmp_path, line(0, "5", "no", loss=2.5), line(10, " 4\n", "no", loss=1.5), line(20, "", "no", loss=1))
    first, second = growth.rows
    assert [(step.step, step.validation_loss, step.is_match) for step in first.steps] == [
        (0, 2.5, False),
        (10, 1.5, True),
        (20, 1.0, False),
    ]
    assert not any(step.is_match for step in second.steps)
    assert (first.instruction, first.input, first.reference) == ("2 + 2?", "0", "4")


def test_torn_old_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    damaged = [
        "null\n", "[]\n", "\n", "[" * 5000 + "\n", '{"step": true, "validation_loss": 1}\n',
        '{"step": 1, "validation_loss": NaN}\n', '{"step": 2, "validation_loss": 1' + "0" * 400 + "}\n",
        line(3, samples={"a": 1}), line(4, samples=[1, None, {}, SAMPLE | {"response": None}]), line(-1, "4"),
        '{"step": 5, "validation_loss": 3.0}\n',
    ]  # fmt: skip
    growth = read(tmp_path, line(0, "5"), *damaged, line(6, "4"), line(7, "4")[:-9])
    assert [[step.step for step in row.steps] for row in growth.rows] == [[0, 6]]


def test_a_step_that_was_written_again_counts_once_and_steps_are_in_order(tmp_path: Path) -> None:
    growth = read(tmp_path, line(10, "old"), line(0, "5"), line(10, "4"))
    assert [(step.step, step.response) for step in growth.rows[0].steps] == [(0, "5"), (10, "4")]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "not fine-tuned here"), ("", "without a record"), ('{"step": 0, "validation_loss": 1}\n', "no answers")],
)
def test_a_model_without_answers_has_a_reason(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / VALIDATION_FILE).write_text(content)
    result = read_growth(tmp_path)
    assert not result.rows
    assert words in result.problem
    assert read_growth(None).problem


def test_a_folder_in_the_place_of_the_file_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / VALIDATION_FILE).mkdir()
    result = read_growth(tmp_path)
    assert "not readable" in result.problem
