"""The confusion matrix as a picture."""

from __future__ import annotations

import warnings
from io import BytesIO

from assistant.classifier.scores import Scores
from assistant.escape import shorten, visible

_MAX_NUMBERS, _MAX_TICKS = 20, 40
"""With more labels the cells have no numbers, and only some of the labels are named."""
_LABEL_LENGTH = 22


def draw_confusion(scores: Scores) -> bytes:
    """Return a PNG of the confusion matrix. A cell's shade is its share of the rows with that right label."""
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(scores.confusion, dtype=float)
    n_labels = len(scores.labels)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    size = 3.0 + min(max(n_labels, 2), 24) * (0.7 if n_labels <= 6 else 0.42)
    figure = Figure(figsize=(size + 1.4, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    step = 1 if n_labels <= _MAX_TICKS else -(-n_labels // _MAX_TICKS)
    places = range(0, n_labels, step)
    names = [shorten(visible(scores.labels[place]), _LABEL_LENGTH) for place in places]
    is_wide = n_labels > 6 or max(map(len, names)) > 10
    axes.set_xticks(places, names, rotation=45 if is_wide else 0, ha="right" if is_wide else "center", parse_math=False)
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xticks(np.arange(-0.5, n_labels), minor=True)
    axes.set_yticks(np.arange(-0.5, n_labels), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if n_labels <= _MAX_NUMBERS else 0.3)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("right label")
    if n_labels <= _MAX_NUMBERS:
        largest = 13 if n_labels <= 6 else 9
        for row, column in np.ndindex(*counts.shape):
            count = int(counts[row, column])
            axes.text(
                column,
                row,
                f"{count:,}" if count or n_labels <= 6 else "",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.55 else "#1d2f44",
                fontsize=largest if count < 1000 else largest - 2,
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=lambda share, _: f"{share:.0%}")
    bar.set_label("share of the right label's rows")
    bar.outline.set_visible(False)
    axes.set_title(f"{scores.n:,} test rows, {scores.accuracy.value:.1%} right", fontsize=11)
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label may have characters that the font lacks: they become boxes
        figure.savefig(picture, format="png")
    return picture.getvalue()
