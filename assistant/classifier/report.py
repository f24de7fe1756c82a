"""The report of a classifier: its figures as terminal text, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from assistant.classifier.scores import N_BINS, Scores
from assistant.escape import markdown, one_line, shorten, visible
from assistant.label_statistics import Estimate

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"
PICTURE_FILE = "confusion.png"
MAX_MATRIX_LABELS = 12
"""With more labels, the terminal and the Markdown file list the commonest confusions instead of the whole matrix."""
N_CONFUSIONS = 12
N_TERMINAL_MISTAKES = 5
_LABEL_WIDTH, _COLUMN_WIDTH, _TEXT_WIDTH = 24, 12, 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The scores of a classifier's test part, and the data that it has learned from."""

    scores: Scores
    rows: dict[str, int]
    """Number of rows by part: train, validation, test."""
    notes: tuple[str, ...] = ()
    """One sentence for everything that the figures do not say: cut texts, no temperature, rows left out."""


# --- words --------------------------------------------------------------------------------------------------------


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no rows"
    if estimate.interval is None:
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({estimate.interval.low:.1%} to {estimate.interval.high:.1%})"


def _figures(scores: Scores) -> list[tuple[str, str]]:
    before, after = scores.uncalibrated, scores.calibrated
    return [
        ("accuracy", _percent(scores.accuracy)),
        ("balanced accuracy", _percent(scores.balanced_accuracy)),
        ("macro F1", _percent(scores.macro_f1)),
        ("always the commonest label", f"{scores.commonest_share:.1%}"),
        (
            f"calibration error (ECE, {N_BINS} bins)",
            f"{before.expected_error:.3f}; {after.expected_error:.3f} with temperature {scores.temperature:.2f}",
        ),
        ("log loss (nats)", f"{before.log_loss:.3f}; {after.log_loss:.3f} with the temperature"),
    ]


def _label_rows(scores: Scores) -> list[tuple[str, str, str, str]]:
    return [
        (found.label, f"{found.rows}", _percent(found.precision), _percent(found.recall)) for found in scores.by_label
    ]


def confusions(scores: Scores) -> list[tuple[int, str, str]]:
    """Return count, right label and predicted label of every kind of mistake, the commonest first."""
    found = [
        (count, scores.labels[right], scores.labels[predicted])
        for right, row in enumerate(scores.confusion)
        for predicted, count in enumerate(row)
        if count and right != predicted
    ]
    return sorted(found, key=lambda entry: -entry[0])


def _size(report: Report) -> str:
    parts = ", ".join(f"{count:,} {part}" for part, count in report.rows.items())
    return f"{report.scores.n:,} test rows with {len(report.scores.labels)} labels ({parts})."


def _mistakes_title(scores: Scores, shown: int) -> str:
    if not scores.n_mistakes:
        return "No mistakes."
    if scores.n_mistakes <= shown:
        return "Its mistakes, the surest first:" if scores.n_mistakes > 1 else "Its only mistake:"
    return f"The {shown} surest of its {scores.n_mistakes} mistakes:"


# --- terminal -----------------------------------------------------------------------------------------------------


def as_text(report: Report, *, width: int = 100) -> str:
    """Return the report as lines for a terminal. Texts and labels from files are escaped."""
    scores = report.scores
    lines = [_size(report), "", *_aligned(_figures(scores), "<<"), ""]
    shown_labels = [(_label(label), *rest) for label, *rest in _label_rows(scores)]
    lines += _aligned([("label", "rows", "precision (95 %)", "recall (95 %)"), *shown_labels], "<>>>")
    lines += ["", *_matrix_lines(scores, width), "", _mistakes_title(scores, N_TERMINAL_MISTAKES)]
    for mistake in scores.mistakes[:N_TERMINAL_MISTAKES]:
        lines += [
            f"  {_label(mistake.label)}, predicted {_label(mistake.predicted)} with {mistake.probability:.1%} "
            f"({one_line(mistake.where)}):",
            f"    {shorten(one_line(mistake.text), max(_TEXT_WIDTH, width - 5))}",
        ]
    lines += [one_line(f"note: {note}") for note in report.notes]
    return "\n".join(line.rstrip() for line in lines)


def _label(label: str, width: int = _LABEL_WIDTH) -> str:
    return shorten(visible(label), width)


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """Return the rows with their cells as wide as the widest of their column; `sides` has `<` or `>` for each."""
    from rich.cells import cell_len

    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = zip(row, gaps, sides, strict=True)
        lines.append("  ".join(cell + gap if side == "<" else gap + cell for cell, gap, side in cells))
    return lines


def _matrix_lines(scores: Scores, width: int) -> list[str]:
    """Return the confusion matrix as a table, or the commonest confusions where it would not fit."""
    labels = [_label(label, _COLUMN_WIDTH) for label in scores.labels]
    header = ("right \\ predicted", *labels)
    rows = [
        (_label(label), *(str(count) for count in row))
        for label, row in zip(scores.labels, scores.confusion, strict=True)
    ]
    table = _aligned([header, *rows], "<" + ">" * len(labels))
    if len(labels) <= MAX_MATRIX_LABELS and len(table[0]) <= width:
        return table
    found = confusions(scores)
    more = f" ({len(found) - N_CONFUSIONS} more kinds in {REPORT_JSON})" if len(found) > N_CONFUSIONS else ""
    lines = [(str(count), f"{_label(right)} predicted as {_label(wrong)}") for count, right, wrong in found]
    return [f"Commonest confusions{more}:", *_aligned(lines[:N_CONFUSIONS] or [("0", "none")], "><")]


# --- JSON ---------------------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON. Shares go from 0 to 1, and every interval covers 95 %."""
    scores = report.scores
    figures = {name: getattr(scores, name) for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {
        "n": scores.n,
        "rows": report.rows,
        "labels": list(scores.labels),
        **{name: estimate.value for name, estimate in figures.items()},
        "intervals": {name: _ends(estimate) for name, estimate in figures.items()},
        "commonest_label_accuracy": scores.commonest_share,
        "by_label": [
            {
                "label": found.label,
                "rows": found.rows,
                "predicted": found.predicted,
                "precision": None if found.precision is None else found.precision.value,
                "precision_interval": _ends(found.precision),
                "recall": None if found.recall is None else found.recall.value,
                "recall_interval": _ends(found.recall),
            }
            for found in scores.by_label
        ],
        "confusion": [list(row) for row in scores.confusion],
        "calibration": {
            "temperature": scores.temperature,
            "bins": N_BINS,
            "ece_before": scores.uncalibrated.expected_error,
            "ece_after": scores.calibrated.expected_error,
            "log_loss_before": scores.uncalibrated.log_loss,
            "log_loss_after": scores.calibrated.log_loss,
        },
        "n_mistakes": scores.n_mistakes,
        "mistakes": [asdict(mistake) for mistake in scores.mistakes],
        "notes": list(report.notes),
    }


def _ends(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None or estimate.interval is None else list(estimate.interval)


# --- Markdown -----------------------------------------------------------------------------------------------------


def as_markdown(report: Report, *, title: str) -> str:
    """Return the report as a Markdown page, with the picture beside it. Texts and labels from files are escaped."""
    scores = report.scores
    lines = [f"# {markdown(title)}", "", _size(report), ""]
    lines += _markdown_table(("figure", "value (95 % interval)"), _figures(scores))
    lines += ["## Labels", ""]
    rows = [(markdown(label), *rest) for label, *rest in _label_rows(scores)]
    lines += _markdown_table(("label", "rows", "precision", "recall"), rows)
    lines += ["## Confusion matrix", "", f"![Confusion matrix]({PICTURE_FILE})", ""]
    if len(scores.labels) <= MAX_MATRIX_LABELS:
        matrix = [(markdown(label), *map(str, row)) for label, row in zip(scores.labels, scores.confusion, strict=True)]
        lines += _markdown_table(("right \\\\ predicted", *map(markdown, scores.labels)), matrix)
    else:
        found = [(str(count), markdown(right), markdown(wrong)) for count, right, wrong in confusions(scores)]
        lines += _markdown_table(("rows", "right label", "predicted"), found[:N_CONFUSIONS])
    lines += ["## Mistakes", "", _mistakes_title(scores, len(scores.mistakes)), ""]
    if scores.mistakes:
        mistakes = [
            (f"{m.probability:.1%}", *map(markdown, (m.predicted, m.label, m.text, m.where))) for m in scores.mistakes
        ]
        lines += _markdown_table(("probability", "predicted", "right label", "text", "row"), mistakes)
    lines += [f"- {markdown(note)}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
