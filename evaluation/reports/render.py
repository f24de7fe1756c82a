"""A report as text to read: for the terminal and as a Markdown page. Texts from models and files are escaped.

Does not print and computes no figures. Terminal output consists of `rich` renderables made of `Text`, never of markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant.escape import markdown, shorten, visible
from evaluation.judging.trust import Level
from evaluation.reports.advice import next_step
from evaluation.reports.values import Report, ShownRow
from evaluation.reports.words import category_table, control_table, metric_table, report_texts, worst_fields

N_WORST_ON_TERMINAL = 3
CELL_LENGTH = 300
"""Longest text in a Markdown table cell, in characters."""
NAME_LENGTH = 30
"""Longest name at the start of a table's line on the terminal, in characters."""

VERDICT_STYLES: dict[Level, str] = {"green": "green", "amber": "yellow", "red": "bold red", "untested": "yellow"}

# --- the terminal -------------------------------------------------------------------------------------------------


def terminal(report: Report) -> RenderableType:
    """Return the report for a terminal of 80 columns. The headline comes last, where it stays visible.

    After it comes `next_command`, which no terminal's width may break.
    """
    parts: list[RenderableType] = []
    if report.worst:
        parts += [*_worst_section(report), Text()]
    if report.categories:
        parts += [_table(category_table(report)), Text()]
    for lines in (control_table(report), metric_table(report)):
        parts += [_table(lines), Text()] if lines else []
    texts, level = report_texts(report), report.judge_verdict.level if report.judge_verdict else None
    headline_style = VERDICT_STYLES["red"] if level == "red" else "bold"
    parts += [_facts_table(texts.facts + texts.trust), Text()]
    parts += [Text(visible(texts.title), style="bold"), Text(visible(texts.headline), style=headline_style)]
    if texts.difference:
        parts.append(Text(texts.difference))
    if level and texts.verdict:
        parts.append(Text(visible(texts.verdict), style=VERDICT_STYLES[level]))
    parts += [Text(f"Note: {visible(note)}", style="yellow") for note in report.notes]
    parts.append(Text(f"Next, to {next_step(report).purpose}:"))
    return Group(*parts)


def next_command(report: Report) -> str:
    """Return the command that the last line of `terminal` announces. Broken into lines, it could not be copied."""
    return f"  {visible(next_step(report).command)}"


def _table(lines: Sequence[Sequence[str]]) -> Table:
    """Return a table without rules. The first line is the header; all columns but the first are for numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(lines[0]):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=True, overflow="ellipsis")
    for name, *cells in lines[1:]:
        table.add_row(Text(shorten(visible(name), NAME_LENGTH)), *cells)
    return table


def _facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(visible(value)))
    return table


def _worst_section(report: Report) -> list[RenderableType]:
    shown = report.worst[:N_WORST_ON_TERMINAL]
    n_hidden = len(report.worst) - len(shown)
    title = "The worst rows" + (f" ({n_hidden} more in report.md)" if n_hidden else "")
    parts: list[RenderableType] = [Text(title, style="bold")]
    for row in shown:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim", min_width=len("  instruction"))
        table.add_column(no_wrap=True, overflow="ellipsis")
        for name, value in worst_fields(row):
            table.add_row(Text(name), Text(visible(value.strip())))
        parts.append(table)
    return parts


# --- Markdown -----------------------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    texts = report_texts(report)
    lines = [f"# {markdown(texts.title)}", "", f"**{markdown(texts.headline)}**", ""]
    sentences = [texts.difference, texts.verdict, *report.notes]
    lines += [f"- {markdown(sentence)}" for sentence in sentences if sentence]
    tables = {"Metrics": metric_table(report), "Control items": control_table(report)}
    for name, table in tables.items():
        lines += ["", f"## {name}", "", *_markdown_numbers(table)] if table else []
    lines += ["", "## Facts", "", *_markdown_table(["", ""], texts.facts + texts.trust)]
    if table := category_table(report):
        lines += ["", "## Categories", "", *_markdown_numbers(table)]
    if report.worst:
        lines += ["", f"## The {len(report.worst)} worst rows", "", *_markdown_worst(report.worst)]
    lines += ["", "## How it was computed", ""]
    lines += [f"- {markdown(sentence)}" for sentence in texts.method]
    step = next_step(report)
    lines += ["", f"Next, to {markdown(step.purpose)}: {markdown(step.command)}"]
    return "\n".join(lines) + "\n"


def _markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, n_numeric: int = 0) -> list[str]:
    """Return the lines of a table. The last `n_numeric` columns are right-aligned."""
    rule = ["---"] * (len(header) - n_numeric) + ["---:"] * n_numeric
    body = [[markdown(shorten(cell.strip(), CELL_LENGTH)) for cell in row] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in [list(header), rule, *body]]


def _markdown_numbers(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table whose first column is text and whose other columns are numbers."""
    return _markdown_table(table[0], table[1:], n_numeric=len(table[0]) - 1)


def _markdown_worst(rows: Sequence[ShownRow]) -> list[str]:
    """Return one table per row, because columns of long texts are hard to read."""
    lines: list[str] = []
    for row in rows:
        fields = worst_fields(row)
        lines += ["", *_markdown_table([fields[0][0], fields[0][1]], fields[1:])]
    return lines[1:]
