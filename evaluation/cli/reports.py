"""The commands `evaluation report` and `evaluation runs`: reports for people, other programs and CI."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.console import note, print_json
from assistant.cli.options import Json
from assistant.errors import DataError
from assistant.escape import displayable
from evaluation.figures import PASS_MARK

if TYPE_CHECKING:
    from evaluation.reports.index import Series
    from evaluation.reports.rows import ReportRow
    from evaluation.reports.values import Report

FailUnder = Annotated[
    float | None,
    typer.Option(help="Exit with status 1 if the score is lower, or by a red judge.", min=0, max=100, metavar="SCORE"),
]
MaxUnscored = Annotated[
    str | None,
    typer.Option(
        help="Exit with status 1 if more rows have no score: a share such as 2%, or a number.", metavar="SHARE"
    ),
]


PassMark = Annotated[float, typer.Option(help="Lowest score of a row that counts as right.", min=0, max=100)]


def report(
    folder: Annotated[Path, typer.Argument(help="Answers folder that was scored.", metavar="DIR")],
    html: Annotated[Path | None, typer.Option(help="Write the HTML page here, too.", metavar="FILE")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all rows as CSV.", metavar="FILE")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write all rows as JUnit XML.", metavar="FILE")] = None,
    pass_mark: PassMark = PASS_MARK,
    fail_under: FailUnder = None,
    max_unscored: MaxUnscored = None,
    as_json: Json = False,
) -> None:
    """Show the report of scored answers, and write it to report.html, report.md and report.json in their folder.

    report.html has every row to filter and to open, and works from a file.
    """
    check_limits(max_unscored)
    result, rows, page = write_reports(folder, pass_mark)
    show(result, folder, as_json)
    _write_exports(result, rows, page, html=html, csv=csv, junit=junit, pass_mark=pass_mark)
    enforce_limits(result, fail_under, max_unscored)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder with answers folders in it.", metavar="DIR")],
    pass_mark: PassMark = PASS_MARK,
    as_json: Json = False,
) -> None:
    """Show many runs: scores, trend, and the rows that each run fixed or broke.

    Also writes index.html into DIR. Reports that are older than their answers are made again; no judge is asked.
    """
    from evaluation.reports.exports import write_export
    from evaluation.reports.index import INDEX_FILE, as_html, as_values, read_index
    from evaluation.reports.page import MARK

    series = read_index(folder, lambda place: write_reports(place, pass_mark), pass_mark=pass_mark)
    write_export(folder / INDEX_FILE, as_html(folder, series), MARK)
    if as_json:
        print_json({"runs": as_values(series)})
    else:
        _show_runs(series)
    note(f"written: {folder / INDEX_FILE}")


def _show_runs(series: Sequence[Series]) -> None:
    """Show a table for each data set, oldest run first, and the next command."""
    from rich.console import Console

    from evaluation.reports.index import next_command, runs_table

    console = Console(highlight=False)
    for one in series:
        console.print(runs_table(one))
    command, purpose = next_command(series)
    typer.echo(f"Next, to {purpose}:\n  {displayable(command)}")


def write_reports(folder: Path, pass_mark: float = PASS_MARK) -> tuple[Report, tuple[ReportRow, ...], str]:
    """Make the report and write all its files. Returns the report, all rows, and the HTML page."""
    from evaluation.reports.page import as_html
    from evaluation.reports.render import as_markdown
    from evaluation.reports.report import make_report_with_rows, write_pages, write_report

    result, rows = make_report_with_rows(folder, pass_mark=pass_mark)
    page = as_html(result, rows)
    write_pages(folder, rows, page)
    write_report(folder, result, as_markdown(result))
    return result, rows, page


def show(result: Report, folder: Path, as_json: bool) -> None:
    """Show a report on the terminal, or print it as JSON."""
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    from rich.console import Console

    from evaluation.reports.render import next_command, terminal
    from evaluation.reports.siblings import earlier_run

    Console(highlight=False).print(terminal(result))
    typer.echo(next_command(result))
    if (before := earlier_run(folder)) is not None:
        command = f"evaluation compare {shlex.quote(str(before))} {shlex.quote(str(folder))}"
        typer.echo("Or, to see whether it is better than the run before, or whether that is noise:")
        typer.echo(f"  {displayable(command)}")
    note(f"written: {folder / 'report.html'}, {folder / 'report.md'}, {folder / 'report.json'}")


def check_limits(max_unscored: str | None) -> None:
    """Raise SettingsError if the limit cannot be read, before anything is asked or written."""
    from evaluation.reports.gates import parse_limit

    if max_unscored is not None:
        parse_limit(max_unscored)


def enforce_limits(result: Report, fail_under: float | None, max_unscored: str | None) -> None:
    """Raise DataError, which ends the command with status 1, if the report does not keep a limit."""
    from evaluation.reports.gates import broken_limits

    if broken := broken_limits(result, fail_under, max_unscored):
        raise DataError(broken)


def _write_exports(
    result: Report,
    rows: tuple[ReportRow, ...],
    page: str,
    *,
    html: Path | None,
    csv: Path | None,
    junit: Path | None,
    pass_mark: float,
) -> None:
    from evaluation.reports.exports import COLUMNS, JUNIT_START, as_csv, as_junit, write_export
    from evaluation.reports.page import MARK

    written = []
    if html is not None:
        write_export(html, page, MARK)
        written.append(html)
    if csv is not None:
        write_export(csv, as_csv(rows), ",".join(COLUMNS))
        written.append(csv)
    if junit is not None:
        write_export(junit, as_junit(result.name, rows, pass_mark, result.judge_verdict), JUNIT_START)
        written.append(junit)
    if written:
        note(f"written: {', '.join(map(str, written))}")
