"""The plot of a run's losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.training.plots import _running_mean, _words, plot_losses


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("metrics", [{}, {"margin": 0.5}, {"accuracy": 0.5}])
def test_losses_are_drawn_as_png(tmp_path: Path, metrics: dict[str, float]) -> None:
    write_records(tmp_path / "metrics.jsonl", [{"step": n, "loss": 5 - n / 10, **metrics} for n in range(1, 25)])
    write_records(tmp_path / "validation.jsonl", [{"step": n, "validation_loss": 5.0} for n in (0, 12, 24)])
    path = plot_losses(tmp_path)
    assert path == tmp_path / "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("metrics", "unit"),
    [({}, "nats per token"), ({"margin": 0.5}, "nats per pair"), ({"accuracy": 0.5}, "nats per text")],
)
def test_the_unit_is_that_of_the_run(metrics: dict[str, float], unit: str) -> None:
    assert unit in _words({"step": 1, "loss": 2.0, **metrics}, "token")[0]


def test_a_training_loss_that_is_a_mean_over_rows_says_so(tmp_path: Path) -> None:
    """The validation loss beside it is a mean over tokens."""
    record = {"step": 1, "loss": 2.0}
    assert [_words(record, loss_per)[1] for loss_per in ("token", "row")] == ["training", "training, mean over rows"]
    write_records(tmp_path / "metrics.jsonl", [record])
    assert plot_losses(tmp_path, loss_per="row") == tmp_path / "loss.png"


def test_a_run_without_steps_has_no_plot(tmp_path: Path) -> None:
    assert plot_losses(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_running_mean_starts_with_the_values_that_exist() -> None:
    assert _running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
