"""The report as one HTML page that works from a file: charts, and every row to filter and to open. No network.

The policy of the page allows only its own script and its own styles, by their hashes. Texts of rows are data: Python
makes hidden characters visible and the script only ever sets text, so that nothing in a row can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.escape import displayable, one_line, visible
from evaluation.answers.metrics import Metrics
from evaluation.figures import counted
from evaluation.reports import charts
from evaluation.reports.advice import next_step
from evaluation.reports.rows import ReportRow
from evaluation.reports.values import Report
from evaluation.reports.words import (
    METRIC_NAMES,
    category_table,
    control_table,
    metric_table,
    report_texts,
    shown_reasons,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
CHART_METRICS = ("chrf", "rouge_l", "f1")
MARK = "<!doctype html><!-- written by instruction-assistant -->"
"""The beginning of every page. A file that begins otherwise is not replaced."""


def as_html(report: Report, rows: Sequence[ReportRow]) -> str:
    """Return the page of one report with all its rows."""
    return render_page(
        "report.html.jinja",
        script="report.js",
        report=report,
        texts=report_texts(report),
        verdict=report.judge_verdict,
        reasons=shown_reasons(report.judge_verdict) if report.judge_verdict else [],
        controls=control_table(report),
        metrics=metric_table(report),
        categories=category_table(report),
        charts=_charts(report, rows),
        rows=safe_json([_row_data(row, report.responses.samples > 1) for row in rows]),
        n_rows=len(rows),
        next=next_step(report),
    )


def render_page(template: str, *, script: str | None = None, **values: object) -> str:
    """Fill a template. Adds the style sheet, the script and a policy that allows just these two."""
    style = _source("page.css")
    code = _source(script) if script else ""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(code)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _templates().get_template(template)
    return page.render(mark=MARK, policy=policy, style=style, script=code, **values)


def safe_json(value: object) -> str:
    """Return JSON that may stand inside a `script` element: no character in it can end the element or a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["visible"] = visible
    return templates


@cache
def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- rows ---------------------------------------------------------------------------------------------------------


def _row_data(row: ReportRow, has_samples: bool) -> Mapping[str, object]:
    """Return what the script shows of a row. Every character is visible; empty values are left out."""
    marks = {
        "looping": row.looping,
        "cut": row.cut,
        "seen in training": row.seen_in_training,
        "no reference": not row.reference,
    }
    flags = [name for name, is_set in marks.items() if is_set]
    values: dict[str, object] = {
        "id": row.id,
        "row": row.row,
        "category": visible(row.category) if row.category is not None else None,
        "source": visible(row.source),
        "instruction": displayable(row.instruction),
        "input": displayable(row.input),
        "history": [[displayable(turn.user), displayable(turn.assistant)] for turn in row.history],
        "reference": displayable(row.reference),
        "response": None if row.response is None else displayable(row.response) or "(empty)",
        "score": None if row.score is None else round(row.score, 2),
        "unscored": row.unscored,
        "origin": row.origin,
        "reason": displayable(row.analysis or ""),
        "doubt": displayable(row.doubt or ""),
        "questions": [[displayable(question), "yes" if answer else "no"] for question, answer in row.answers],
        "label": None if row.label is None else round(row.label, 2),
        "sample": row.sample + 1 if has_samples else None,
        "bits": None if row.reference_bits_per_byte is None else round(row.reference_bits_per_byte, 3),
        "detail": one_line(row.detail or ""),
        "flags": flags,
        "tokens": row.num_tokens,
        "stop": row.stop_reason,
        "metrics": _metric_words(row.metrics),
        "chrf": None if row.metrics is None else round(row.metrics.chrf, 1),
    }
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def _metric_words(metrics: Metrics | None) -> str:
    if metrics is None:
        return ""
    numbers = [f"{METRIC_NAMES[name]} {getattr(metrics, name):.0f}" for name in ("f1", "rouge_l", "chrf")]
    exact = (
        "exact match" if metrics.exact else "exact match, normalised" if metrics.normalised_exact else "no exact match"
    )
    return ", ".join([exact, *numbers])


# --- charts -------------------------------------------------------------------------------------------------------


def _charts(report: Report, rows: Sequence[ReportRow]) -> list[tuple[str, str, str]]:
    """Return each chart as (title, explanation, SVG). Rows without a reference are left out."""
    rows = [row for row in rows if row.reference]
    scored = [(row, row.score) for row in rows if row.score is not None]
    shown = [("Scores", f"{len(scored)} rows with a score", charts.score_histogram([score for _, score in scored]))]
    judged = [(row.metrics, score) for row, score in scored if row.metrics and row.origin == "judge"]
    if judged:
        for name in CHART_METRICS:
            points = [(float(getattr(metrics, name)), score) for metrics, score in judged]
            words = f"judged rows only, {_correlation(points)}"
            shown.append(
                (f"Judge against {METRIC_NAMES[name]}", words, charts.bubbles_of_scores(points, METRIC_NAMES[name]))
            )
    lengths = [(len(row.reference.split()), len(row.response.split())) for row in rows if row.response is not None]
    if lengths:
        longer = sum(response > 2 * reference for reference, response in lengths)
        words = f"{longer} responses have more than twice the words of their reference"
        shown.append(("Length against reference", words, charts.bubbles_of_lengths(lengths)))
    if report.categories:
        bars = [
            (
                "(none)" if category.name is None else category.name,
                category.mean,
                category.interval,
                counted(category.n),
            )
            for category in report.categories
        ]
        shown.append(("Categories", "mean score and 95 % interval", charts.interval_bars(bars)))
    return shown


def _correlation(points: Sequence[tuple[float, float]]) -> str:
    if any(len({point[axis] for point in points}) < 2 for axis in (0, 1)):
        return "no rank correlation, because all values are equal"
    from scipy.stats import spearmanr

    result = spearmanr([x for x, _ in points], [y for _, y in points])
    return f"rank correlation {float(result.statistic):.2f}"
