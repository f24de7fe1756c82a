"""An index of many answers folders: scores over time, and the rows that a run fixed or broke against the run before.

Reads `report.json` and `row-scores.json` where they are newer than what they were made from, and makes the report again
where they are not. Never asks a judge. Whether a difference can be chance is a question for `evaluation compare`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant.errors import DataError
from assistant.escape import visible
from assistant.files import shown_path
from evaluation.answers.folder import RESPONSES_FILE, RUN_FILE, AnswersInfo, part_text
from evaluation.figures import PASS_MARK
from evaluation.judging.scoring import LEDGER_FILE, METRICS_FILE
from evaluation.reports import charts
from evaluation.reports.changed_rows import ChangedRow, Changes, changed_rows
from evaluation.reports.page import render_page
from evaluation.reports.report import HTML_FILE, REPORT_FILE
from evaluation.reports.rows import ROW_SCORES_FILE, BriefRow, read_row_scores
from evaluation.reports.values import Report
from evaluation.reports.words import interval_text, number_text

INDEX_FILE = "index.html"
DEPTH = 3
"""How many folders deep answers folders are looked for."""
MOST_CHANGED = 100
"""Most fixed rows, and most regressed rows, of one run on the page."""
INPUTS = (RUN_FILE, RESPONSES_FILE, METRICS_FILE, LEDGER_FILE)
"""What a report is made from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Rows against the run before on the same data, by the same judge. Only rows with a score in both count."""

    before: str
    """The name of the run before."""
    rows: Changes


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One answers folder with its report, or with the reason why it has none."""

    folder: Path
    name: str
    """The folder's name, from the folder of the index."""
    info: AnswersInfo
    report: Report | None
    fault: str | None
    rows: Mapping[str, BriefRow]
    """Every row by id, with its headline score."""
    change: Change | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The runs on one data set, oldest first."""

    data: str
    runs: tuple[Run, ...]
    pass_mark: float
    """A row is fixed or regressed if its score crosses this."""


def read_index(folder: Path, refresh: Callable[[Path], object], *, pass_mark: float = PASS_MARK) -> tuple[Series, ...]:
    """Read all answers folders below a folder, by data set. `refresh` writes the report of a folder again.

    A row is right from `pass_mark` points.

    Raises:
        DataError: the folder does not exist, or has no answers folder in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of answers folders, got no folder. Check the path.")
    runs = [run for place in _answers_folders(folder) if (run := _read_run(place, folder, refresh)) is not None]
    if not runs:
        raise DataError(
            f"{folder}: expected answers folders in it, got none. To write one, run: "
            f"evaluation respond MODEL --data FILE --run {folder}/NAME"
        )
    by_data: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.info.created.timestamp(), run.name)):
        by_data.setdefault((run.info.data_fingerprint, run.info.rows), []).append(run)
    series = [
        Series(data=_data_name(runs[0].info), runs=_with_changes(runs, pass_mark), pass_mark=pass_mark)
        for runs in by_data.values()
    ]
    return tuple(sorted(series, key=lambda one: -one.runs[-1].info.created.timestamp()))


# --- reading ------------------------------------------------------------------------------------------------------


def _answers_folders(folder: Path) -> Iterator[Path]:
    """Yield the answers folders below a folder, and the folder itself if it is one. Links are not followed."""
    for place, names, files in os.walk(folder):
        if RUN_FILE in files and RESPONSES_FILE in files:
            yield Path(place)
            names.clear()
        elif len(Path(place).relative_to(folder).parts) >= DEPTH:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


def _read_run(place: Path, top: Path, refresh: Callable[[Path], object]) -> Run | None:
    """Return None for a `run.json` of another program."""
    try:
        info = AnswersInfo.model_validate_json((place / RUN_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    report, rows, fault = _fresh_report(place), read_row_scores(place), None
    if report is None or rows is None:
        try:
            refresh(place)
            report, rows = _fresh_report(place), read_row_scores(place)
        except (DataError, OSError) as error:
            report, rows, fault = None, None, str(error)
    name = shown_path(place.relative_to(top)) if place != top else shown_path(place.absolute()).rpartition("/")[2]
    return Run(folder=place, name=name, info=info, report=report, fault=fault, rows=rows or {})


def _fresh_report(place: Path) -> Report | None:
    """Return the stored report. None if it is missing, of another version, or older than what it was made from."""
    try:
        written = min((place / name).stat().st_mtime_ns for name in (REPORT_FILE, ROW_SCORES_FILE, HTML_FILE))
        inputs = [place / name for name in INPUTS if (place / name).exists()]
        if any(path.stat().st_mtime_ns > written for path in inputs):
            return None
        return Report.model_validate_json((place / REPORT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _data_name(info: AnswersInfo) -> str:
    files = ", ".join(Path(name).name for name in info.data_files)
    return f"{files}, {part_text(info.part)}, {info.rows} rows"


# --- changes ------------------------------------------------------------------------------------------------------


def _with_changes(runs: Sequence[Run], pass_mark: float) -> tuple[Run, ...]:
    """Compare each run with the one before it that has scores of the same kind."""
    newest: dict[str, Run] = {}
    changed = []
    for run in runs:
        scorer = _scorer(run)
        before = newest.get(scorer) if scorer else None
        change = _change(before, run, pass_mark) if before else None
        changed.append(replace(run, change=change))
        if scorer:
            newest[scorer] = run
    return tuple(changed)


def _scorer(run: Run) -> str | None:
    """Return who gave the scores. None for a run without a score."""
    return None if run.report is None or run.report.mean is None else run.report.scorer


def _change(before: Run, run: Run, pass_mark: float) -> Change:
    first, second = (
        {row_id: row.score for row_id, row in one.rows.items() if row.score is not None} for one in (before, run)
    )
    return Change(before=before.name, rows=changed_rows(run.rows, first, second, pass_mark))


# --- showing ------------------------------------------------------------------------------------------------------

RED_NOTE = "A score with a question mark is by a red judge: do not rely on it."
HEADER = ("run", "score", "95 % interval", "fixed", "regressed", "judge", "model", "answered")


def cells(run: Run) -> tuple[str, ...]:
    """Return the line of a run in a table, as text that is not escaped yet."""
    report = run.report
    change = [str(len(rows)) for rows in run.change.rows] if run.change else ["", ""]
    figures = (score_text(report), interval_text(report.interval)) if report else ("n/a", "n/a")
    judge = judge_text(report) if report else "no report"
    return (run.name, *figures, *change, judge, run.info.name, f"{run.info.created:%Y-%m-%d %H:%M}")


def score_text(report: Report) -> str:
    """Return the score. That of a red judge has a question mark wherever it stands."""
    is_red = report.judge_verdict is not None and report.judge_verdict.level == "red"
    return number_text(report.mean) + ("?" if is_red and report.mean is not None else "")


def judge_text(report: Report) -> str:
    """Return who gave the scores, with the verdict on the judge."""
    if report.judge is None:
        return "exact matches"
    verdict = report.judge_verdict.level if report.judge_verdict else "untested"
    return f"{report.judge.model} ({verdict})"


def runs_table(series: Series) -> RenderableType:
    """Return the runs on one data set as a table for a terminal of 80 columns, newest last."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("run", "model", "judge"):
        table.add_column(name, overflow="fold", min_width=8)
    for name, width in (("answered", 10), ("score (95 %)", 12), ("fixed", 5), ("regressed", 9)):
        table.add_column(name, no_wrap=True, justify="right", min_width=width)
    for run in series.runs:
        name, score, _, fixed, regressed, judge, model, day = map(visible, cells(run))
        interval = run.report.interval if run.report else None
        spread = f"{score} ({interval.low:.0f}–{interval.high:.0f})" if interval else score
        texts = (name, model, judge, day.partition(" ")[0], spread, fixed, regressed)
        table.add_row(*map(Text, texts))
    faults = [Text(f"Note: {visible(name)}: {visible(fault)}", style="yellow") for name, fault in _faults(series)]
    if any(run.report and score_text(run.report).endswith("?") for run in series.runs):
        faults.append(Text(RED_NOTE, style="bold red"))
    return Group(Text(visible(series.data), style="bold"), table, *faults, Text())


def as_values(series: Sequence[Series]) -> list[dict[str, object]]:
    """Return the index for `--json`: one value for each run."""
    return [
        {
            "run": str(run.folder),
            "model": run.info.name,
            "data": one.data,
            "created": run.info.created.isoformat(),
            "mean": run.report.mean if run.report else None,
            "interval": list(run.report.interval) if run.report and run.report.interval else None,
            "scored": run.report.scored if run.report else None,
            "n": run.info.rows,
            "judge": run.report.judge.model if run.report and run.report.judge else None,
            "verdict": run.report.judge_verdict.level if run.report and run.report.judge_verdict else None,
            "before": run.change.before if run.change else None,
            "fixed": len(run.change.rows.fixed) if run.change else None,
            "regressed": len(run.change.rows.regressed) if run.change else None,
            "fixed_rows": _row_values(run.change.rows.fixed) if run.change else None,
            "regressed_rows": _row_values(run.change.rows.regressed) if run.change else None,
            "fault": run.fault,
        }
        for one in series
        for run in one.runs
    ]


def _row_values(rows: Sequence[ChangedRow]) -> list[dict[str, object]]:
    return [row.model_dump(include={"id", "row", "source", "first_score", "second_score"}) for row in rows]


def next_command(series: Sequence[Series]) -> tuple[str, str]:
    """Return the command worth typing after an index, and what it is good for."""
    for one in series:
        scored = [run for run in one.runs if _scorer(run) is not None]
        alike = [run for run in scored if _scorer(run) == _scorer(scored[-1])]  # others cannot be compared
        if len(alike) >= 2:
            folders = " ".join(shlex.quote(str(run.folder)) for run in alike[-2:])
            return f"evaluation compare {folders}", "see whether the newest run is better, or whether that is chance"
    newest = series[0].runs[-1]
    if newest.report is None:
        return f"evaluation score {shlex.quote(str(newest.folder))}", "score the newest run"
    return f"evaluation report {shlex.quote(str(newest.folder))}", "see the report of the newest run"


def as_html(folder: Path, series: Sequence[Series]) -> str:
    """Return the index as one HTML page. Links go to the reports beside it."""
    command, purpose = next_command(series)
    return render_page(
        "runs.html.jinja",
        name=shown_path(folder),
        header=HEADER,
        red_note=RED_NOTE,
        series=[(one.data, _trend(one), _lines(folder, one), _changes(folder, one), _faults(one)) for one in series],
        n_runs=sum(len(one.runs) for one in series),
        pass_mark=f"{series[0].pass_mark:g}",
        most=MOST_CHANGED,
        command=command,
        purpose=purpose,
    )


def _faults(series: Series) -> list[tuple[str, str]]:
    return [(run.name, run.fault) for run in series.runs if run.fault]


def _trend(series: Series) -> str | None:
    """Return the scores over the runs, with a line for each judge. None for fewer than two scores."""
    judges: dict[str, str] = {}
    points = []
    for run in series.runs:
        report = run.report
        if report is not None and report.mean is not None:
            judges.setdefault(report.scorer, report.judge.model if report.judge else "exact matches")
            verdict = report.judge_verdict.level if report.judge_verdict else "none"
            point = charts.TrendPoint(
                name=f"{run.name}, {judge_text(report)}",
                mean=report.mean,
                interval=report.interval,
                verdict=verdict,
                line=list(judges).index(report.scorer),
            )
            points.append(point)
    names = [
        f"{name} ({scorer[:8]})" if list(judges.values()).count(name) > 1 else name for scorer, name in judges.items()
    ]
    return charts.trend(points, names) if len(points) > 1 else None


def _lines(folder: Path, series: Series) -> list[tuple[str | None, str, tuple[str, ...], str]]:
    """Return the lines of a table, newest first: (link, class of the verdict, cells, note)."""
    lines: list[tuple[str | None, str, tuple[str, ...], str]] = []
    for run in reversed(series.runs):
        link = _link(folder, run) if run.report is not None else None
        verdict = run.report.judge_verdict.level if run.report and run.report.judge_verdict else "none"
        against = f"against {run.change.before}" if run.change else ""
        lines.append((link, verdict, cells(run), against))
    return lines


def _changes(folder: Path, series: Series) -> list[tuple[str, str, list[tuple[str, tuple[ChangedRow, ...]]]]]:
    """Return what each run changed, newest first: (title, link to its report, rows by kind)."""
    changes = []
    for run in reversed(series.runs):
        if run.change is not None and any(run.change.rows):
            fixed, regressed = run.change.rows
            title = f"{run.name} against {run.change.before}: {len(fixed)} fixed, {len(regressed)} regressed"
            kinds = [(name, rows) for name, rows in (("regressed", regressed), ("fixed", fixed)) if rows]
            changes.append((title, _link(folder, run), kinds))
    return changes


def _link(folder: Path, run: Run) -> str:
    """Return a relative link. "./" and the quoting keep a folder's name from being another scheme or address."""
    parts = (*run.folder.relative_to(folder).parts, HTML_FILE)
    return "./" + "/".join(quote(os.fsencode(part), safe="") for part in parts)
