"""The commands `evaluation check-judge` and `evaluation compare`. Prints, as `evaluation.cli.app` does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.console import EXIT_FAILURE, interrupt_exit_code, note, print_json
from assistant.cli.datasets import read_data
from assistant.cli.options import Json, derive_options
from assistant.errors import AssistantError, SettingsError
from assistant.escape import visible
from assistant.settings import DataSettings
from assistant.shipped import shipped
from evaluation.cli.progress import Bar
from evaluation.cli.reports import PassMark
from evaluation.figures import PASS_MARK
from evaluation.judging.judge_options import JudgeOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

    from assistant.statistics import Interval
    from evaluation.judging.check_findings import JudgeCheck
    from evaluation.judging.judge_check import CheckPlan
    from evaluation.judging.judgement import JudgeSettings
    from evaluation.judging.pair_runs import PairPlan, PairwiseComparison


@derive_options()
def check_judge(
    asked: JudgeOptions,
    reading: DataSettings,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Instruction file with your own rows; may be repeated.", metavar="FILE"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="How often some control items are asked again.", min=1)] = 2,
    as_json: Json = False,
) -> None:
    """Check a judge on this machine before you trust it.

    It gets responses whose right score is known, some of them again, and pairs in both orders. By default they come
    from the shipped instructions. The exit status is 1 if the judge is red.
    """
    from evaluation.judging.check_findings import next_steps
    from evaluation.judging.judge_check import check

    settings, method = asked.settings(), asked.read_method()
    if not asked.controls:
        raise SettingsError("--controls: expected 1 or more to check a judge, got 0. Leave it out.")
    examples = read_data(data or [shipped("instructions.json")], reading).examples
    try:
        with Bar("asked") as bar:
            found = check(
                examples,
                settings,
                method,
                per_kind=asked.controls,
                repeats=repeats,
                on_start=partial(_announce, settings.model, bar),
                on_step=bar.step,
            )
    except KeyboardInterrupt as error:
        note("interrupted: the verdicts so far are kept. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(error)) from None
    steps = next_steps(found.level, asked)
    if as_json:
        advice = [{"command": step.command, "purpose": step.purpose} for step in steps]
        print_json({**found.model_dump(mode="json"), "next": advice})
    else:
        from rich.console import Console

        Console(highlight=False).print(check_view(found))
        for step in steps:
            typer.echo(visible(f"Next, to {step.purpose}: {step.command}"))
    if found.level == "red":
        raise typer.Exit(EXIT_FAILURE)


@derive_options(leave_out={"method", "rubric", "prompt", "controls"})
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Scored answers folders; the first is the baseline.", metavar="DIR...")
    ],
    asked: JudgeOptions,
    different_judges: Annotated[
        bool, typer.Option("--different-judges", help="Compare scores of different judges all the same.")
    ] = False,
    pass_mark: PassMark = PASS_MARK,
    as_json: Json = False,
) -> None:
    """Compare runs on the same rows: is it better, or is that noise?

    With --judge, the judge also chooses the better response to each row, in both orders.
    """
    from evaluation.reports.compare import compare_runs

    settings = asked.settings() if asked.judge is not None else None
    if settings is None and asked != JudgeOptions():
        note("note: --host and the other options of a judge do nothing without --judge.")
    comparison = compare_runs(runs, different_judges=different_judges, pass_mark=pass_mark)
    pairwise: list[PairwiseComparison] = []
    ending: AssistantError | KeyboardInterrupt | None = None
    if settings is not None:
        try:
            pairwise = _choose(runs, settings)
        except (AssistantError, KeyboardInterrupt) as error:
            ending = error
    if as_json:
        choices = {"pairwise": [one.model_dump(mode="json") for one in pairwise]} if pairwise else {}
        print_json({**comparison.model_dump(mode="json"), **choices})
    else:
        from rich.console import Console

        from evaluation.reports.comparison_view import terminal

        Console(highlight=False).print(terminal(comparison, pairwise))
    if isinstance(ending, KeyboardInterrupt):
        note("interrupted: the judge's choices so far are kept. Give the same command again to continue.")
        raise typer.Exit(interrupt_exit_code(ending))
    if ending is not None:
        raise ending


def _choose(runs: list[Path], settings: JudgeSettings) -> list[PairwiseComparison]:
    """Let the judge choose between every run and the first one, and show how far it is."""
    from evaluation.judging.pair_runs import compare_pairwise

    with Bar("asked") as bar:
        return compare_pairwise(runs, settings, on_start=partial(_announce, settings.model, bar), on_step=bar.step)


def _announce(model: str, bar: Bar, plan: CheckPlan | PairPlan) -> None:
    """Say what the judge is about to be asked, and start the bar."""
    bar.start(0)  # ends that of the run before
    for sentence in plan.notes:
        note(f"note: {sentence}")
    if plan.reused:
        note(f"judge {model}: {plan.reused} verdicts are known from earlier runs.")
    if plan.total:
        note(f"judge {model} at {', '.join(plan.urls)}: {plan.total} to ask. The server loads the model first.")
    bar.start(plan.total)


def check_view(found: JudgeCheck) -> RenderableType:
    """Return a check for a terminal: a table, and the verdict."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from evaluation.reports.render import VERDICT_STYLES

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("response", "should", "does", "95 % interval", "mean"):
        is_number = name in {"does", "mean"}
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
    for row in _table_rows(found):
        table.add_row(*map(Text, row))
    parts: list[RenderableType] = [table, Text()]
    facts = [] if found.seconds_each is None else [f"A question takes {found.seconds_each:.1f} s."]
    if found.unscored:
        facts.append(f"{found.unscored} verdicts were not valid and are left out above.")
    if facts:
        parts += [Text(" ".join(facts)), Text()]
    parts.append(Text(visible(found.sentence), style=VERDICT_STYLES[found.level]))
    parts += [Text(f"- {visible(reason)}") for reason in found.reasons[1:]]
    return Group(*parts)


def _table_rows(found: JudgeCheck) -> list[tuple[str, str, str, str, str]]:
    from assistant.statistics import rate_interval
    from evaluation.reports.words import CONTROL_NAMES

    def row(name: str, should: str, right: int, n: int, mean: str = "") -> tuple[str, str, str, str, str]:
        return name, should, f"{right} of {n}" if n else "n/a", _interval(rate_interval(right, n)), mean

    mark = found.trust.pass_mark
    rows = []
    for finding in found.trust.findings:
        should = f"get {mark:g} or more" if finding.kind == "reference" else f"get less than {mark:g}"
        mean = "n/a" if finding.mean is None else f"{finding.mean:.0f}"
        rows.append(row(CONTROL_NAMES[finding.kind], should, finding.right, finding.n, mean))
    repeated, pairs = found.repeatability, found.pairs
    equal = round((repeated.equal or 0) * repeated.items / 100)
    sd = "" if repeated.sd is None else f"sd {repeated.sd:.1f}"
    rows.append(row("some of them, asked again", "get equal scores", equal, repeated.items, sd))
    n = pairs.flips.n
    rows.append(row("pairs, in both orders", "win by content", n - pairs.flips.flips, n))
    rows.append(row("the reference, in pairs", "win both times", pairs.reference_won, n))
    return rows


def _interval(interval: Interval | None) -> str:
    return "n/a" if interval is None else f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %"
