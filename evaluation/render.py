"""A report as text to read: for the terminal and as a Markdown page. Texts from models and files are escaped.

Does not print and computes no figures. Terminal output consists of `rich` renderables made of `Text`, never of markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant.escape import visible
from assistant.statistics import Interval
from evaluation.escape import markdown, shorten
from evaluation.figures import Mean
from evaluation.report import Category, Report, ShownRow

N_WORST_ON_TERMINAL = 3
CELL_LENGTH = 300
"""Longest text in a Markdown table cell, in characters."""
CATEGORY_LENGTH = 30
"""Longest name of a category on the terminal, in characters."""

METRIC_HEADER = ("metric, 0-100", "mean", "95 % interval", "rows")
CATEGORY_HEADER = ("category", "score", "95 % interval", "rows", "exact", "chrF", "ended")
METRIC_NAMES = {
    "exact": "exact match",
    "normalised_exact": "exact, normalised",
    "f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}


# --- texts for both -----------------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _interval(interval: Interval | None) -> str:
    return "n/a" if interval is None else f"{interval.low:.1f} to {interval.high:.1f}"


def _title(report: Report) -> str:
    if report.kind == "file":
        return f"{report.name}, {_rows(report.n)}"
    part = "all rows" if report.part == "all" else f"the {report.part} part"
    template = f", template {report.template}" if report.template else ""
    files = ", ".join(Path(name).name for name in report.data_files)
    return f"{report.name}{template}, on {part} of {files}: {_rows(report.n)}"


def _headline(report: Report) -> str:
    origin = f"judge {report.judge.model}" if report.judge else "exact matches"
    rows = _rows(report.n) if report.scored == report.n else f"{report.scored} of {_rows(report.n)}"
    return f"Score {_number(report.mean)} of 100 (95 % interval {_interval(report.interval)}): {origin}, {rows}."


def _difference(report: Report) -> str | None:
    if report.smallest_difference is None:
        return None
    points = report.smallest_difference.points
    return f"A difference of less than about {points:.0f} points to another run on the same rows can be chance."


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _settings(options: dict[str, int | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts)


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return short facts as pairs of name and value. Values are not escaped yet (a model's name can be hostile)."""
    facts = [("exact matches", f"{report.exact_matches} of {report.n}")]
    if report.sources:
        facts.append(("scores from", _counts(sorted(report.sources.items()))))
    if report.unscored:
        facts.append(("without a score", _counts(report.unscored.items())))
    if report.stop_reasons:
        facts.append(("responses ended", _counts(sorted(report.stop_reasons.items()))))
    if report.ceiling is not None:
        ceiling = report.ceiling
        lowest = "" if ceiling.lowest is None else f", lowest {ceiling.lowest:.0f}"
        judged = f"{ceiling.judged} of {ceiling.rows} judged"
        facts.append(("judge on exact matches", f"mean {_number(ceiling.mean)}{lowest} ({judged}, not in the score)"))
    if report.judge is not None:
        judge = report.judge
        facts.append(("judge", f"{judge.model}, digest {judge.digest[:12]}, Ollama {judge.server_version}"))
        facts.append(("judge fingerprint", judge.judge_fingerprint))
    return facts


def _mean_cells(mean: Mean) -> tuple[str, ...]:
    return _number(mean.mean), _interval(mean.interval), str(mean.n)


def _category_name(category: Category) -> str:
    return "(none)" if category.name is None else category.name


def _category_cells(category: Category) -> tuple[str, ...]:
    rows = str(category.rows) if category.n == category.rows else f"{category.n} of {category.rows}"
    return (
        _number(category.mean),
        _interval(category.interval),
        rows,
        str(category.exact_matches),
        _number(category.chrf),
        str(category.ended),
    )


def _worst_fields(row: ShownRow) -> list[tuple[str, str]]:
    fields = [
        (f"row {row.row}", f"score {row.score:g}, chrF {row.chrf:.0f}"),
        ("  instruction", row.instruction),
        ("  input", row.input),
        ("  reference", row.reference),
        ("  response", row.response or "(empty)"),
        ("  judge", row.analysis or ""),
    ]
    return [(name, value) for name, value in fields if value]


def _method(report: Report) -> list[str]:
    """Return how the figures were computed, one sentence each."""
    sentences = [
        f"Interval of the score: {report.interval_method}. Rates have Wilson's interval, other means the beta interval."
    ]
    if report.smallest_difference is not None:
        correlation = report.smallest_difference.assumed_correlation
        sentences.append(
            f"Smallest difference: two-sided 5 %, 80 % power, paired by row, "
            f"assuming that two runs' scores correlate by {correlation}."
        )
    sentences.append("ROUGE-L and F1 compare words, chrF is sacrebleu's chrF2; all use the one reference.")
    if report.judge is not None:
        sentences.append(
            "Judge: a score from 0 to 5, times 20. Exact matches get 100 and empty responses 0 without asking it. "
            f"Options: {_settings(report.judge.options)}; rubric {report.judge.rubric}."
        )
    return sentences


# --- the terminal -------------------------------------------------------------------------------------------------


def terminal(report: Report) -> RenderableType:
    """Return the report for a terminal of 80 columns. The headline comes last, where it stays visible."""
    parts: list[RenderableType] = []
    if report.worst:
        parts += [*_worst_section(report), Text()]
    if report.categories:
        parts += [*_categories_section(report), Text()]
    parts += [_metrics_table(report), Text(), _facts_table(report), Text()]
    parts += [Text(visible(_title(report)), style="bold"), Text(visible(_headline(report)), style="bold")]
    if difference := _difference(report):
        parts.append(Text(difference))
    parts += [Text(f"Note: {visible(note)}", style="yellow") for note in report.notes]
    return Group(*parts)


def _plain_table(*columns: str) -> Table:
    """Return an empty table without lines. The first column is for text, the others are for numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=True, overflow="ellipsis")
    return table


def _metrics_table(report: Report) -> Table:
    table = _plain_table(*METRIC_HEADER)
    for name, mean in report.metrics.items():
        table.add_row(Text(METRIC_NAMES[name]), *_mean_cells(mean))
    return table


def _facts_table(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(report):
        table.add_row(Text(name), Text(visible(value)))
    return table


def _categories_section(report: Report) -> list[RenderableType]:
    table = _plain_table(*CATEGORY_HEADER)
    for category in report.categories:
        name = Text(shorten(visible(_category_name(category)), CATEGORY_LENGTH))
        table.add_row(name, *_category_cells(category))
    return [table]


def _worst_section(report: Report) -> list[RenderableType]:
    shown = report.worst[:N_WORST_ON_TERMINAL]
    n_hidden = len(report.worst) - len(shown)
    title = "The worst rows" + (f" ({n_hidden} more in report.md)" if n_hidden else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    for row in shown:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim", min_width=len("  instruction"))
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, value in _worst_fields(row):
            table.add_row(Text(name), Text(visible(value.strip())))
        parts.append(table)
    return parts


# --- Markdown -----------------------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    lines = [f"# {markdown(_title(report))}", "", f"**{markdown(_headline(report))}**", ""]
    lines += [f"- {markdown(sentence)}" for sentence in [_difference(report), *report.notes] if sentence]
    lines += ["", "## Metrics", "", *_markdown_metrics(report.metrics)]
    lines += ["", "## Facts", "", *_markdown_table(["", ""], _facts(report))]
    if report.categories:
        lines += ["", "## Categories", "", *_markdown_categories(report.categories)]
    if report.worst:
        lines += ["", f"## The {len(report.worst)} worst rows", "", *_markdown_worst(report.worst)]
    lines += ["", "## How it was computed", ""]
    lines += [f"- {markdown(sentence)}" for sentence in _method(report)]
    return "\n".join(lines) + "\n"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_numeric: int = 0) -> list[str]:
    """Return the lines of a table. The last `n_numeric` columns are right-aligned."""
    rule = ["---"] * (len(header) - n_numeric) + ["---:"] * n_numeric
    body = [[markdown(shorten(cell.strip(), CELL_LENGTH)) for cell in row] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in [list(header), rule, *body]]


def _markdown_metrics(means: dict[str, Mean]) -> list[str]:
    rows = [(METRIC_NAMES[name], *_mean_cells(mean)) for name, mean in means.items()]
    return _markdown_table(METRIC_HEADER, rows, n_numeric=len(METRIC_HEADER) - 1)


def _markdown_categories(categories: Sequence[Category]) -> list[str]:
    rows = [(_category_name(category), *_category_cells(category)) for category in categories]
    return _markdown_table(CATEGORY_HEADER, rows, n_numeric=len(CATEGORY_HEADER) - 1)


def _markdown_worst(rows: Sequence[ShownRow]) -> list[str]:
    """Return one table per row, because columns of long texts are hard to read."""
    lines: list[str] = []
    for row in rows:
        fields = _worst_fields(row)
        lines += ["", *_markdown_table([fields[0][0], fields[0][1]], fields[1:])]
    return lines[1:]
