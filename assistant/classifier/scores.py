"""How good a classifier's answers to labelled rows are: figures with intervals, calibration, the surest mistakes.

Functions take log-probabilities of the labels, one row of them per text, and the indices of the right labels. They
import numpy and scipy when they need them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from assistant.dataset.examples import Example
from assistant.label_statistics import Estimate
from assistant.statistics import CONFIDENCE, Interval, rate_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

N_BINS = 15
"""Bins of equal width of the expected calibration error."""
N_MISTAKES = 20
MIN_VALIDATION_ROWS = 20
"""With fewer rows the temperature stays 1: a few rows cannot say how sure the model may be."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_DRAWS, _MAX_CELLS, _MAX_LABELS = 2000, 20_000_000, 200
"""Draws of the confusion matrix for an interval; fewer with many labels, and none with very many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScores:
    """How well one label is found."""

    label: str
    rows: int
    """Rows with this label."""
    predicted: int
    """Rows that the model gave this label."""
    precision: Estimate | None
    """Share of the rows that got the label and have it. None if no row got it."""
    recall: Estimate | None
    """Share of the rows with the label that got it. None if no row has it."""


class Calibration(NamedTuple):
    """How well probabilities match outcomes; 0 is best for both."""

    expected_error: float
    """Expected calibration error of the likeliest label, over `N_BINS` bins of equal width."""
    log_loss: float
    """Mean negative log-probability of the right label, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A row with a wrong prediction."""

    text: str
    label: str
    predicted: str
    probability: float
    """Of the wrong label that was predicted."""
    where: str
    """File and row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The figures of one set of rows. Shares go from 0 to 1."""

    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Rows by right label (first index) and predicted label (second)."""
    accuracy: Estimate
    balanced_accuracy: Estimate
    """Mean recall of the labels that occur."""
    macro_f1: Estimate
    """Mean F1 of the labels that occur or are predicted."""
    by_label: tuple[LabelScores, ...]
    temperature: float
    uncalibrated: Calibration
    """At temperature 1."""
    calibrated: Calibration
    mistakes: tuple[Mistake, ...]
    """The surest ones, the surest first."""
    n_mistakes: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(map(sum, self.confusion))

    @property
    def commonest_share(self) -> float:
        """Accuracy of always answering the commonest label of these rows."""
        return max(map(sum, self.confusion)) / self.n


def score(
    labels: Sequence[str], examples: Sequence[Example], log_probabilities: Floats, *, temperature: float, seed: int = 0
) -> Scores:
    """Score the answers to labelled rows. `log_probabilities` has one row per example, at temperature 1.

    Raises:
        ValueError: there are no examples.
    """
    import numpy as np

    if not examples:
        raise ValueError("examples: expected at least one, got none")
    index = {label: place for place, label in enumerate(labels)}
    targets = np.array([index[example.output] for example in examples])
    predicted = log_probabilities.argmax(axis=1)
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, (targets, predicted), 1)
    balanced, f1 = (Estimate(float(value), None) for value in macro_figures(counts.astype(float)))
    intervals = macro_intervals(counts, seed)
    if intervals is not None:
        balanced, f1 = (
            Estimate(point.value, Interval(min(interval.low, point.value), max(interval.high, point.value)))
            for point, interval in zip((balanced, f1), intervals, strict=True)
        )
    calibrated = log_softmax(log_probabilities / temperature)
    wrong = np.flatnonzero(targets != predicted)
    surest = wrong[np.argsort(-calibrated[wrong, predicted[wrong]], kind="stable")]
    return Scores(
        labels=tuple(labels),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
        accuracy=_rate(int(np.trace(counts)), len(examples)),
        balanced_accuracy=balanced,
        macro_f1=f1,
        by_label=tuple(_label_scores(labels, counts, place) for place in range(len(labels))),
        temperature=temperature,
        uncalibrated=calibration(log_softmax(log_probabilities), targets),
        calibrated=calibration(calibrated, targets),
        mistakes=tuple(
            Mistake(
                text=examples[row].instruction,
                label=examples[row].output,
                predicted=labels[predicted[row]],
                probability=float(np.exp(calibrated[row, predicted[row]])),
                where=examples[row].where,
            )
            for row in surest[:N_MISTAKES]
        ),
        n_mistakes=len(wrong),
    )


def _rate(successes: int, n: int) -> Estimate:
    return Estimate(successes / n, rate_interval(successes, n))


def _label_scores(labels: Sequence[str], counts: NDArray[np.int64], place: int) -> LabelScores:
    hits, rows, predicted = int(counts[place, place]), int(counts[place].sum()), int(counts[:, place].sum())
    return LabelScores(
        label=labels[place],
        rows=rows,
        predicted=predicted,
        precision=_rate(hits, predicted) if predicted else None,
        recall=_rate(hits, rows) if rows else None,
    )


# --- means over the labels ----------------------------------------------------------------------------------------


def macro_figures(counts: Floats) -> tuple[Floats, Floats]:
    """Return balanced accuracy and macro F1 of confusion matrices: counts, or shares, of shape (..., labels, labels).

    A label without rows does not count in the first; one without rows and predictions not in the second.
    """
    import numpy as np

    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    rows, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    occurs, counted = rows > 0, rows + predicted > 0
    recall = np.divide(hits, rows, out=np.zeros_like(hits), where=occurs)
    f1 = np.divide(2 * hits, rows + predicted, out=np.zeros_like(hits), where=counted)
    return recall.sum(axis=-1) / occurs.sum(axis=-1), f1.sum(axis=-1) / counted.sum(axis=-1)


def macro_intervals(counts: NDArray[np.int64], seed: int) -> tuple[Interval, Interval] | None:
    """Return the intervals of balanced accuracy and macro F1, for new rows with the same number of every label.

    A bootstrap of the rows of each label would see no chance of a mistake where it has seen none, so it has no width at
    100 %. Instead, the shares of the predictions of each label are drawn from their Dirichlet posterior. The prior has
    the weight of two rows, divided equally among the labels, and in each between right and wrong: for two labels,
    Jeffreys' prior of both recalls. The tests measure the coverage.
    """
    import numpy as np

    occurring = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    n_labels = len(occurring)
    if n_labels > _MAX_LABELS or n_labels < 2:
        return None
    rows = counts[np.ix_(occurring, occurring)]
    prior = np.full((n_labels, n_labels), 1 / (n_labels * (n_labels - 1)))
    np.fill_diagonal(prior, 1 / n_labels)
    rng = np.random.default_rng(seed)
    draws = max(200, min(_DRAWS, _MAX_CELLS // n_labels**2))
    figures = []
    step = max(1, 1_000_000 // n_labels**2)
    for start in range(0, draws, step):
        shares = rng.standard_gamma(rows + prior, size=(min(step, draws - start), n_labels, n_labels))
        shares /= shares.sum(axis=-1, keepdims=True)
        figures.append(macro_figures(shares * rows.sum(axis=1)[:, None]))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    balanced, f1 = (np.quantile(np.concatenate(parts), tails) for parts in zip(*figures, strict=True))
    return Interval(float(balanced[0]), float(balanced[1])), Interval(float(f1[0]), float(f1[1]))


# --- calibration --------------------------------------------------------------------------------------------------


def log_softmax(values: Floats) -> Floats:
    """Return log-probabilities of logits, or of log-probabilities after a division by a temperature."""
    import numpy as np

    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def calibration(log_probabilities: Floats, targets: NDArray[np.int64]) -> Calibration:
    """Measure how well probabilities match outcomes."""
    import numpy as np

    surest = np.exp(log_probabilities.max(axis=1))
    is_right = log_probabilities.argmax(axis=1) == targets
    bins = np.minimum((surest * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, weights=is_right - surest, minlength=N_BINS)
    loss = -log_probabilities[np.arange(len(targets)), targets].mean()
    return Calibration(float(np.abs(gaps).sum() / len(targets)), float(loss))


def fit_temperature(log_probabilities: Floats, targets: Sequence[int]) -> float | None:
    """Return the temperature with the lowest log loss on validation rows, or None for too few of them.

    The loss is convex in 1 / temperature. Where every row is right, it would fall for ever towards temperature 0, so
    it is that of n rows of which half a row is wrong: each row's target is its label with (n + 1/2) / (n + 1), and the
    rest for the other labels (compare Platt 1999). The difference vanishes with many rows.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    n, n_labels = log_probabilities.shape
    if n < MIN_VALIDATION_ROWS:
        return None
    wrong = 0.5 / (n + 1)
    goals = np.full((n, n_labels), wrong / (n_labels - 1))
    goals[np.arange(n), targets] = 1 - wrong

    def loss(sharpness: float) -> float:
        return float(-(goals * log_softmax(log_probabilities * sharpness)).sum() / n)

    bounds = (1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE)
    return 1 / float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
