"""A report as a person reads it: on the terminal and as Markdown. Every text that a model or a file wrote is escaped.

Nothing here prints. The terminal gets `rich` renderables made of `Text`, never of markup.
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
from evaluation.report import FEW_ROWS, WORST, Category, Mean, Report, ShownRow

WORST_ON_TERMINAL = 3
CELL = 300
"""Characters of one text in a Markdown table."""

METRIC_NAMES = {
    "exact": "exact match",
    "normalised_exact": "exact, normalised",
    "f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}


# --- words both share ---------------------------------------------------------------------------------------------


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
    what = f"judge {report.judge.model}" if report.judge else "exact matches"
    rows = _rows(report.n) if report.scored == report.n else f"{report.scored} of {_rows(report.n)}"
    return f"Score {_number(report.mean)} of 100 (95 % interval {_interval(report.interval)}): {what}, {rows}."


def _difference(report: Report) -> str | None:
    if report.smallest_difference is None:
        return None
    points = report.smallest_difference.points
    return f"Another run on the same rows must differ by about {points:.0f} points to be told from chance."


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def _settings(options: dict[str, int | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts)


def _facts(report: Report) -> list[tuple[str, str]]:
    """Short facts in a fixed order: name and value. Values may hold hostile text (a model's name)."""
    facts = [("exact matches", f"{report.exact_matches} of {report.n}")]
    if report.sources:
        facts.append(("scores from", _counts(sorted(report.sources.items()))))
    if report.unscored:
        facts.append(("without a score", _counts(report.unscored.items())))
    if report.stop_reasons:
        facts.append(("responses ended", _counts(sorted(report.stop_reasons.items()))))
    if report.ceiling is not None:
        asked = f"{report.ceiling.judged} of {report.ceiling.rows} asked"
        lowest = "" if report.ceiling.lowest is None else f", lowest {report.ceiling.lowest:.0f}"
        facts.append(
            ("judge on exact matches", f"mean {_number(report.ceiling.mean)}{lowest} ({asked}, not in the score)")
        )
    if report.judge is not None:
        judge = report.judge
        facts.append(("judge", f"{judge.model}, digest {judge.digest[:12]}, Ollama {judge.server_version}"))
        facts.append(("judge fingerprint", judge.judge_fingerprint))
    return facts


def _category_name(category: Category) -> str:
    return "(none)" if category.name is None else category.name


# --- the terminal -------------------------------------------------------------------------------------------------


def terminal(report: Report) -> RenderableType:
    """The report for a terminal of 80 columns; the result stands last, where the eye is when it has scrolled by."""
    parts: list[RenderableType] = []
    if report.worst:
        parts += [*_worst_rows(report), Text()]
    if report.categories:
        parts += [*_categories_table(report), Text()]
    parts += [_metrics_table(report), Text(), _facts_table(report), Text()]
    parts += [Text(visible(_title(report)), style="bold"), Text(visible(_headline(report)), style="bold")]
    if difference := _difference(report):
        parts.append(Text(difference))
    parts += [Text(f"Note: {visible(note)}", style="yellow") for note in report.notes]
    return Group(*parts)


def _plain_table(*columns: str) -> Table:
    """A table without lines; the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=True, overflow="ellipsis")
    return table


def _metrics_table(report: Report) -> Table:
    table = _plain_table("metric, 0-100", "mean", "95 % interval", "rows")
    for name, mean in report.metrics.items():
        table.add_row(Text(METRIC_NAMES[name]), _number(mean.mean), _interval(mean.interval), str(mean.n))
    return table


def _facts_table(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(report):
        table.add_row(Text(name), Text(visible(value)))
    return table


def _categories_table(report: Report) -> list[RenderableType]:
    table = _plain_table(*CATEGORY_COLUMNS)
    for found in report.categories:
        name = Text(shorten(visible(_category_name(found)), 30))
        table.add_row(name, *_category_figures(found))
    return [table, *(Text(sentence, style="dim") for sentence in _about_categories(report))]


def _about_categories(report: Report) -> list[str]:
    few = any(found.interval is None and found.n for found in report.categories)
    return [f"No interval below {FEW_ROWS} rows."] if few else []


CATEGORY_COLUMNS = ("category", "score", "95 % interval", "rows", "exact", "chrF", "ended")


def _category_figures(category: Category) -> tuple[str, ...]:
    """What stands behind a category's name."""
    return (
        _number(category.mean),
        _interval(category.interval),
        _of(category),
        str(category.exact_matches),
        _number(category.chrf),
        str(category.ended),
    )


def _of(category: Category) -> str:
    return str(category.rows) if category.n == category.rows else f"{category.n} of {category.rows}"


def _worst_rows(report: Report) -> list[RenderableType]:
    shown = report.worst[:WORST_ON_TERMINAL]
    rest = len(report.worst) - len(shown)
    title = "The worst rows" + (f" ({rest} more in report.md)" if rest else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    for row in shown:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim", min_width=len("  instruction"))
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, value in _worst_fields(row):
            table.add_row(Text(name), Text(visible(value.strip())))
        parts.append(table)
    return parts


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


# --- Markdown -----------------------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """The report as a Markdown page."""
    lines = [f"# {markdown(_title(report))}", "", f"**{markdown(_headline(report))}**", ""]
    lines += [f"- {markdown(sentence)}" for sentence in [_difference(report), *report.notes] if sentence]
    lines += ["", "## Metrics", "", *_markdown_means(report.metrics)]
    lines += ["", "## Facts", "", *_markdown_table(["", ""], _facts(report))]
    if report.categories:
        lines += ["", "## Categories", "", *_markdown_categories(report.categories)]
        lines += [text for sentence in _about_categories(report) for text in ("", sentence)]
    if report.worst:
        lines += ["", f"## The {min(WORST, len(report.worst))} worst rows", "", *_markdown_worst(report.worst)]
    lines += ["", "## How it was computed", ""]
    lines += [f"- {markdown(sentence)}" for sentence in _method(report)]
    return "\n".join(lines) + "\n"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """The lines of a table; its last `numbers` columns are right-aligned."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    body = [[markdown(shorten(cell.strip(), CELL)) for cell in row] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in [list(header), rule, *body]]


def _markdown_means(means: dict[str, Mean]) -> list[str]:
    rows = [
        (METRIC_NAMES[name], _number(mean.mean), _interval(mean.interval), str(mean.n)) for name, mean in means.items()
    ]
    return _markdown_table(["metric, 0-100", "mean", "95 % interval", "rows"], rows, numbers=3)


def _markdown_categories(categories: Sequence[Category]) -> list[str]:
    rows = [(_category_name(found), *_category_figures(found)) for found in categories]
    return _markdown_table(CATEGORY_COLUMNS, rows, numbers=len(CATEGORY_COLUMNS) - 1)


def _markdown_worst(rows: Sequence[ShownRow]) -> list[str]:
    """One table a row of data: texts are long, and side by side they cannot be read."""
    lines: list[str] = []
    for row in rows:
        fields = _worst_fields(row)
        lines += ["", *_markdown_table([fields[0][0], fields[0][1]], fields[1:])]
    return lines[1:]


def _method(report: Report) -> list[str]:
    sentences = [
        f"Interval of the score: {report.interval_method}. Rates have Wilson's interval, other means a bootstrap."
    ]
    if report.smallest_difference is not None:
        assumed = report.smallest_difference.assumed_correlation
        sentences.append(
            f"Smallest difference: two-sided 5 %, 80 % power, paired by row, "
            f"assuming that two runs' scores correlate by {assumed}."
        )
    sentences.append("ROUGE-L and F1 compare words, chrF is sacrebleu's chrF2; all against the one reference.")
    if report.judge is not None:
        sentences.append(
            "Judge: a score from 0 to 5, times 20. Exact matches get 100 and empty responses 0 without asking it. "
            f"Sent with {_settings(report.judge.options)}; rubric {report.judge.rubric}."
        )
    return sentences
