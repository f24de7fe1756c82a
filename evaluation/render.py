"""A report as text to read: for the terminal and as a Markdown page. Texts from models and files are escaped.

Does not print and computes no figures. Terminal output consists of `rich` renderables made of `Text`, never of markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant.escape import visible
from assistant.statistics import Interval
from evaluation.advice import next_step
from evaluation.escape import markdown, shorten
from evaluation.figures import Mean
from evaluation.report_values import Category, Report, ShownRow
from evaluation.trust import Level

N_WORST_ON_TERMINAL = 3
CELL_LENGTH = 300
"""Longest text in a Markdown table cell, in characters."""
CATEGORY_LENGTH = 30
"""Longest name of a category on the terminal, in characters."""

METRIC_HEADER = ("metric, 0-100", "mean", "95 % interval", "rows")
CATEGORY_HEADER = ("category", "score", "95 % interval", "rows", "exact", "chrF", "ended")
VERDICT_STYLES: dict[Level, str] = {"green": "green", "amber": "yellow", "red": "bold red", "untested": "yellow"}
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
    if report.judge_failed and report.judge:
        failed = _counts((reason, count) for reason, count in report.unscored.items() if reason != "no_response")
        return f"No score: the judge {report.judge.model} failed on every row that needed it ({failed})."
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


def _settings(options: dict[str, bool | int | float]) -> str:
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
    facts += _response_facts(report)
    if report.ceiling is not None:
        ceiling = report.ceiling
        lowest = "" if ceiling.lowest is None else f", lowest {ceiling.lowest:.0f}"
        judged = f"{ceiling.judged} of {ceiling.rows} judged"
        facts.append(("judge on exact matches", f"mean {_number(ceiling.mean)}{lowest} ({judged}, not in the score)"))
    if report.judge is not None:
        judge = report.judge
        server = "Ollama" if judge.api == "ollama" else "server"
        version = judge.server_version or "of unknown version"
        facts.append(("judge", f"{judge.model}, digest {judge.digest[:12]}, {server} {version}"))
        facts.append(("judge fingerprint", judge.judge_fingerprint))
    return facts + _trust_facts(report) + _label_facts(report)


def _trust_facts(report: Report) -> list[tuple[str, str]]:
    """Return what the control items say, and the corrected rate."""
    trust, rate, facts = report.judge_verdict, report.corrected_rate, []
    if trust is not None and trust.findings:
        hits = f"{trust.tpr.right} of {trust.tpr.n} references and {trust.tnr.n - trust.tnr.right} of {trust.tnr.n}"
        facts.append(("control items called right", f"{hits} wrong responses, from {trust.pass_mark:g} of 100"))
    if rate is not None and rate.raw is not None:
        words = f"{100 * rate.raw:.0f} %"
        if rate.corrected is not None and rate.interval is not None:
            low, high = 100 * rate.interval.low, 100 * rate.interval.high
            words += f"; {100 * rate.corrected:.0f} % corrected for the judge's errors"
            words += f" (95 % interval {low:.0f} to {high:.0f})"
        elif rate.refused:
            words += f"; not corrected: {rate.refused}"
        facts.append(("right rows", words))
    return facts


def _label_facts(report: Report) -> list[tuple[str, str]]:
    """Return how people's labels agree with the scores, and the mean that they correct."""
    if report.agreement is None:
        return []
    agreement = report.agreement
    figures = (
        ("kappa", agreement.kappa, ".2f"),
        ("Spearman", agreement.spearman, ".2f"),
        ("mean error", agreement.mean_absolute_error, ".0f"),
    )
    words = [f"{agreement.labels} labels"] + [
        f"{name} {figure.value:{form}}" for name, figure, form in figures if figure is not None
    ]
    facts = [("people and scores", ", ".join(words))]
    if agreement.corrected is not None:
        mean = agreement.corrected
        interval = f"95 % interval {_interval(mean.interval)}; without labels {_number(mean.raw_mean)}"
        facts.append(("mean corrected by people", f"{_number(mean.mean)} ({interval})"))
    return facts


def _response_facts(report: Report) -> list[tuple[str, str]]:
    responses, free, facts = report.responses, report.reference_free, []
    bits = responses.reference_bits_per_byte
    if responses.samples > 1:
        facts.append(("responses a row", str(responses.samples)))
    if bits.mean is not None:
        interval = f", 95 % interval {bits.interval.low:.3f} to {bits.interval.high:.3f}" if bits.interval else ""
        facts.append(("reference bits a byte", f"{bits.mean:.3f}{interval} ({_rows(bits.n)}; lower is better)"))
    if free.n:
        score = f"{_number(free.mean)} (95 % interval {_interval(free.interval)})"
        facts.append(("rows without reference", f"score {score}, {_rows(free.n)}, not in the score above"))
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
    sentences = [f"Intervals: {report.interval_method}. For a rate, this is Clopper and Pearson's interval itself."]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportTexts:
    """What every form of a report says in the same words. Nothing is escaped yet."""

    title: str
    headline: str
    difference: str | None
    facts: list[tuple[str, str]]
    method: list[str]


def report_texts(report: Report) -> ReportTexts:
    """Return the sentences of a report, for the HTML pages."""
    return ReportTexts(
        title=_title(report),
        headline=_headline(report),
        difference=_difference(report),
        facts=_facts(report),
        method=_method(report),
    )


def number_text(value: float | None) -> str:
    """Return a score with one decimal, or n/a."""
    return _number(value)


def interval_text(interval: Interval | None) -> str:
    """Return the limits of an interval, or n/a."""
    return _interval(interval)


def metric_table(report: Report) -> list[tuple[str, ...]]:
    """Return the table of metrics with its header, as text."""
    return [METRIC_HEADER, *((METRIC_NAMES[name], *_mean_cells(mean)) for name, mean in report.metrics.items())]


def category_table(report: Report) -> list[tuple[str, ...]]:
    """Return the table of categories with its header, as text. Names are not escaped."""
    rows = [(_category_name(category), *_category_cells(category)) for category in report.categories]
    return [CATEGORY_HEADER, *rows] if rows else []


def _verdict(report: Report) -> str | None:
    """Return the verdict on the judge in one line."""
    verdict = report.judge_verdict
    return None if verdict is None else " ".join([f"Judge: {verdict.level}.", *verdict.reasons])


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
    if report.judge_verdict and (verdict := _verdict(report)):
        parts.append(Text(visible(verdict), style=VERDICT_STYLES[report.judge_verdict.level]))
    parts += [Text(f"Note: {visible(note)}", style="yellow") for note in report.notes]
    step = next_step(report)
    parts += [Text(f"Next, to {step.purpose}:"), Text(f"  {visible(step.command)}")]
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
    sentences = [_difference(report), _verdict(report), *report.notes]
    lines += [f"- {markdown(sentence)}" for sentence in sentences if sentence]
    lines += ["", "## Metrics", "", *_markdown_metrics(report.metrics)]
    lines += ["", "## Facts", "", *_markdown_table(["", ""], _facts(report))]
    if report.categories:
        lines += ["", "## Categories", "", *_markdown_categories(report.categories)]
    if report.worst:
        lines += ["", f"## The {len(report.worst)} worst rows", "", *_markdown_worst(report.worst)]
    lines += ["", "## How it was computed", ""]
    lines += [f"- {markdown(sentence)}" for sentence in _method(report)]
    step = next_step(report)
    lines += ["", f"Next, to {markdown(step.purpose)}: {markdown(step.command)}"]
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
