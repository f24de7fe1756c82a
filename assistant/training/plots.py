"""A plot of a run's losses."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from assistant.files import write_atomic
from assistant.settings import LossPer
from assistant.training.events import VALIDATION_FILE
from assistant.training.run_folder import METRICS_FILE, PLOT_FILE, read_records


def plot_losses(folder: Path, *, loss_per: LossPer = "token") -> Path | None:
    """Draw `loss.png` from a run's records: training loss per step, its running mean, and the validation losses.

    `loss_per` is what counts the same in the training loss.

    Returns:
        The path, or None if no step was recorded.
    """
    from matplotlib.figure import Figure

    steps = read_records(folder / METRICS_FILE)
    validations = read_records(folder / VALIDATION_FILE)
    if not steps:
        return None
    unit, trained, validated = _words(steps[0], loss_per)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    numbers, losses = [record["step"] for record in steps], [record["loss"] for record in steps]
    axes.plot(numbers, losses, color="#9db8d2", linewidth=0.8, label=f"{trained}, each step")
    if len(losses) >= 20:
        axes.plot(numbers, _running_mean(losses, len(losses) // 10), color="#1f5f99", label=f"{trained}, running mean")
    if validations:
        axes.plot(
            [record["step"] for record in validations],
            [record["validation_loss"] for record in validations],
            color="#c44e1c",
            marker="o",
            markersize=4,
            label=validated,
        )
        best = min(validations, key=lambda record: record["validation_loss"])
        axes.annotate(
            f"{best['validation_loss']:.3f}",
            (best["step"], best["validation_loss"]),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
            color="#c44e1c",
        )
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path = folder / PLOT_FILE
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_atomic(path, picture.getvalue())
    return path


def _words(record: dict[str, Any], loss_per: LossPer) -> tuple[str, str, str]:
    """The names of a run's loss, of its training and of its validation, from one of its records."""
    if "margin" in record:
        return "DPO loss (nats per pair)", "training", "validation"
    if "accuracy" in record:
        return "cross-entropy (nats per text)", "training", "validation"
    trained = "training, mean over rows" if loss_per == "row" else "training"
    return "cross-entropy (nats per token)", trained, "validation, responses only"


def _running_mean(values: list[float], width: int) -> list[float]:
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means
