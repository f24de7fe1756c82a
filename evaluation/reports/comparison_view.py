"""A comparison as text for the terminal. Texts from models and files are escaped. Does not print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant.escape import visible
from assistant.statistics import Interval
from evaluation.judging.pair_runs import PairwiseComparison
from evaluation.reports.changed_rows import ChangedRow
from evaluation.reports.compare import Comparison, Difference, RunComparison, p_value_text

N_CHANGED = 5
"""Most fixed rows, and most regressed rows, on the terminal. `--json` has all."""


def terminal(comparison: Comparison, pairwise: Sequence[PairwiseComparison] = ()) -> RenderableType:
    """Return the comparison for a terminal. The answer comes last, where it stays visible.

    `pairwise` holds a judge's choices between the same runs.
    """
    parts: list[RenderableType] = []
    by_run = {one.second: one for one in pairwise}
    for pair in comparison.comparisons:
        facts = _facts(pair, by_run.get(pair.second))
        parts += [Text(visible(f"{pair.second} against {pair.first}"), style="bold"), facts, Text()]
        parts += _changed(f"regressed: {len(pair.regressed)}", pair.regressed)
        parts += _changed(f"fixed: {len(pair.fixed)}", pair.fixed)
    parts += [Text(f"Note: {visible(note)}", style="yellow") for note in comparison.notes]
    parts += [Text(visible(pair.sentence), style="bold") for pair in comparison.comparisons]
    parts += [Text(visible(one.sentence), style="bold") for one in pairwise]
    return Group(*parts)


def _facts(pair: RunComparison, pairwise: PairwiseComparison | None) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _fact_texts(pair) + _pairwise_texts(pairwise):
        table.add_row(Text(name), Text(value))
    return table


def _fact_texts(pair: RunComparison) -> list[tuple[str, str]]:
    facts = [("rows in both", str(pair.shared))]
    if pair.only_first or pair.only_second:
        facts.append(("not in both", f"{pair.only_first} only in the first, {pair.only_second} only in the second"))
    if pair.unscored:
        facts.append(("without a score", f"{pair.unscored} of the rows in both; they are left out"))
    facts += _difference("score", pair.score, digits=1)
    if pair.bits_per_byte is not None:
        facts += _difference("reference bits per byte", pair.bits_per_byte, digits=3)
    return facts


def _pairwise_texts(pairwise: PairwiseComparison | None) -> list[tuple[str, str]]:
    if pairwise is None or pairwise.wins.rate is None:
        return []
    wins, flips = pairwise.wins, pairwise.flips
    facts = [
        ("win rate in pairs", f"{wins.rate:.1f} %{_share_interval(wins.interval)}, ties count half"),
        ("  wins, ties, losses", f"{wins.wins}, {wins.ties}, {wins.losses}; {pairwise.settled} of them without asking"),
    ]
    if flips.rate is not None:
        facts.append(
            ("  position flips", f"{flips.flips} of {flips.n}, {flips.rate:.1f} %{_share_interval(flips.interval)}")
        )
    if pairwise.unscored or pairwise.left_out:
        left = f"{pairwise.unscored} without a valid answer, {pairwise.left_out} without a response"
        facts.append(("  left out", left))
    return facts


def _share_interval(interval: Interval | None) -> str:
    return "" if interval is None else f" (95 % interval {interval.low:.1f} to {interval.high:.1f})"


def _difference(name: str, difference: Difference, *, digits: int) -> list[tuple[str, str]]:
    means = f"{difference.first_mean:.{digits}f} -> {difference.second_mean:.{digits}f}"
    facts = [
        (name, f"{means}, difference {difference.mean:+.{digits}f}{_interval(difference.interval, digits)}"),
        ("  wins, ties, losses", f"{difference.wins}, {difference.ties}, {difference.losses}"),
        ("  p-values", f"{_p(difference.p_value)} by sign flips, {_p(difference.sign_test_p_value)} by the sign test"),
    ]
    if difference.adjusted_p_value != difference.p_value:
        facts.append(("  p after Holm", _p(difference.adjusted_p_value)))
    if difference.smallest_difference is not None:
        correlation = "" if difference.correlation is None else f" (correlation {difference.correlation:.2f})"
        facts.append(("  smallest to be seen", f"{difference.smallest_difference:.{digits}f}{correlation}"))
    return facts


def _p(value: float) -> str:
    return p_value_text(value).removeprefix("= ")


def _interval(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return ""
    return f" (95 % interval {interval.low:+.{digits}f} to {interval.high:+.{digits}f})"


def _changed(title: str, rows: tuple[ChangedRow, ...]) -> list[RenderableType]:
    if not rows:
        return []
    hidden = f" ({len(rows) - N_CHANGED} more with --json)" if len(rows) > N_CHANGED else ""
    table = Table.grid(padding=(0, 2, 0, 0))
    numbers = [(f"  row {row.row}", f"{row.first_score:.0f} -> {row.second_score:.0f}") for row in rows[:N_CHANGED]]
    # Without a least width, a long instruction takes the place of the numbers.
    for cells in zip(*numbers, strict=True):
        table.add_column(no_wrap=True, min_width=max(map(len, cells)))
    table.add_column(no_wrap=True, overflow="ellipsis")
    for row, (number, scores) in zip(rows[:N_CHANGED], numbers, strict=True):
        table.add_row(Text(number), Text(scores), Text(" ".join(visible(row.task()).split())))
    return [Text(title + hidden, style="bold"), table, Text()]
