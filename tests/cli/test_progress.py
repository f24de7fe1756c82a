"""How a fine-tuning run is shown: sentences, plain lines, and the progress bar."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from assistant.cli.progress import (
    BarObserver,
    PlainObserver,
    describe_forecast,
    describe_plan,
    describe_result,
    describe_validation,
)
from assistant.dataset.encode import EncodedRows
from assistant.dataset.instructions import Example, dump_rows
from assistant.training.events import FinetuneResult, Plan, Sample, StepMetrics, StepReport, ValidationReport
from assistant.training.forecast import Forecast
from tests.support.commands import FINETUNE, invoke

NO_ROWS = EncodedRows(rows=(), truncated=(), dropped=())
PLAN = Plan(
    total_steps=20, first_step=0, train=NO_ROWS, validation=NO_ROWS, max_length=256, precision="float32", device="cpu",
    n_trained=2_000, n_weights=2_000,
)  # fmt: skip
VALIDATION = ValidationReport(
    step=10, validation_loss=1.25, supervised_tokens=100, is_best=True, answered=8, ended=0.75, looped=0.25, exact=0.5,
    samples=(Sample(instruction="Say", input="red", reference="RED", response="R\x1b[2J", stop_reason="eos"),),
    seconds=1.0,
)  # fmt: skip
RESULT = FinetuneResult(
    output=Path("my runs"), steps=20, total_steps=20, stopped=False, ended_early=False, first_validation_loss=3.0,
    best_validation_loss=1.0, best_step=15, seconds=9.0,
)  # fmt: skip
FORECAST = Forecast(
    steps=20, validations=4, seconds=30.0, peak_bytes=1_500_000_000, free_bytes=None, batch_size=8,
    largest_batch_size=None,
)  # fmt: skip


def step(number: int) -> StepReport:
    metrics = StepMetrics(
        loss=2.0, learning_rate=1e-3, gradient_norm=1.0, tokens=500, supervised_tokens=100, seconds=0.5,
        reward_accuracy=0.5, margin=0.1,
    )  # fmt: skip
    return StepReport(step=number, total_steps=20, epoch=1, metrics=metrics)


def test_a_plan_names_trained_weights_the_resumed_step_and_ten_rows_at_most() -> None:
    assert describe_plan(PLAN) == ["0 training rows, 0 validation rows, 20 steps, float32 on cpu."]
    dropped = tuple(Example(instruction="x", output="y", source="a.json", row=row) for row in range(1, 13))
    plan = replace(PLAN, n_trained=20, first_step=7, train=replace(NO_ROWS, dropped=dropped))
    weights, resumed, left_out = describe_plan(plan)[1:]
    assert weights == "20 of 2,000 weights are trained (1.0 %)."
    assert resumed == "Continuing after step 7."
    assert left_out.startswith("Left out 12 rows that do not fit into 256 positions: a.json, row 1; a.json, row 2;")
    assert left_out.endswith("; a.json, row 10; and 2 more.")


def test_a_validation_counts_answers_and_shows_one() -> None:
    assert describe_validation(VALIDATION) == [
        "step 10: validation loss 1.250; of 8 answers 4 match, 6 end by themselves, 2 repeat themselves (best so far)",
        "    Say red -> R\x1b[2J",
    ]
    assert describe_validation(replace(VALIDATION, step=0, is_best=False)) == ["before training: validation loss 1.250"]
    dpo = replace(VALIDATION, reward_accuracy=0.9, margin=0.25, exact=None, ended=None, samples=())
    assert describe_validation(dpo) == [
        "step 10: validation loss 1.250, reward accuracy 90 %, margin 0.250 (best so far)"
    ]


@pytest.mark.parametrize(
    ("seconds", "duration"),
    [(0.2, "1 second"), (45, "45 seconds"), (120, "2.0 minutes"), (5400, "1.5 hours")],
)
def test_a_forecast_uses_a_fitting_unit_of_time(seconds: float, duration: str) -> None:
    assert describe_forecast(replace(FORECAST, seconds=seconds))[0] == f"20 steps and 4 validations: about {duration}."


def test_a_forecast_leaves_out_what_is_unknown() -> None:
    last = "Nothing was written. Without --plan the same command starts the run."
    assert describe_forecast(FORECAST)[1:] == ["Peak memory: 1.50 GB.", last]
    known = replace(FORECAST, free_bytes=2_000_000_000, largest_batch_size=32)
    assert describe_forecast(known)[1:] == [
        "Peak memory: 1.50 GB; 2.0 GB more are free.",
        "A micro-batch has 8 rows; about 32 of the longest would fit.",
        last,
    ]


def test_a_result_says_how_the_run_ended_and_what_to_type_next() -> None:
    lines = describe_result(RESULT)
    assert lines[0] == "Validation loss 3.000 before training, 1.000 at its best (step 15 of 20)."
    assert "Next: assistant chat 'my runs'" in lines
    stopped = describe_result(replace(RESULT, steps=7, stopped=True))
    assert "Stopped at step 7 of 20. The same command with --resume continues from there." in stopped
    early = describe_result(replace(RESULT, steps=7, ended_early=True))
    assert "Early stopping at step 7 of 20: no better weights for too long." in early


def test_a_pipe_gets_a_line_for_each_tenth_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    observer = PlainObserver()
    observer.on_plan(PLAN)
    for number in range(1, 6):
        observer.on_step(step(number))
    observer.on_validation(VALIDATION)
    observer.on_warning("The loss is not finite.")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:4] == [
        "step 1/20: loss 2.000, 1,000 tokens/s",
        "step 2/20: loss 2.000, reward accuracy 50 %, margin 0.100, 1,000 tokens/s",
        "step 4/20: loss 2.000, reward accuracy 50 %, margin 0.100, 1,000 tokens/s",
    ]
    assert lines[4].startswith("step 10: validation loss")
    assert lines[-1] == "Warning: The loss is not finite."


def test_a_terminal_gets_a_bar_with_notes_above_it() -> None:
    screen = io.StringIO()
    columns = TextColumn("{task.completed}/{task.total} loss {task.fields[loss]}, {task.fields[rate]} tokens/s")
    with Progress(columns, console=Console(file=screen, width=100, force_terminal=False)) as progress:
        observer = BarObserver(progress)
        observer.on_plan(replace(PLAN, first_step=3))
        observer.on_step(step(4))
        observer.on_validation(VALIDATION)
    text = screen.getvalue()
    assert "Continuing after step 3.\n" in text
    assert "4/20 loss 2.000, 1,000 tokens/s" in text
    assert "Say red -> R" in text
    assert "\x1b" not in text


def test_warnings_name_the_rows_that_are_too_long(folder: Path, examples: list[Example]) -> None:
    rows = json.loads(dump_rows(examples))
    rows += [{"instruction": "Say", "input": "x" * 3000, "output": "y"}, {"instruction": "Say", "output": "y" * 3000}]
    (folder / "long.json").write_text(json.dumps(rows))
    words = ["finetune", "long.json", "-m", "base", "-o", "out", *FINETUNE, "--split", "book", "--max-steps", "1"]
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    assert "Shortened the user's text of 1 row that does not fit into 256 positions: long.json, row 41." in done.stderr
    assert "Left out 1 row that does not fit into 256 positions: long.json, row 42." in done.stderr
