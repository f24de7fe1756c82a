"""Compare scored runs on the same rows: is one better, or is that noise?

The first run is the baseline; every other run is compared with it. Does not print and does not ask a judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assistant.errors import DataError, SettingsError
from assistant.paired_statistics import (
    correlation,
    detectable_difference,
    holm,
    paired_bootstrap_interval,
    sign_flip_p_value,
    sign_test_p_value,
)
from assistant.settings import Frozen
from assistant.statistics import RESAMPLES, Interval, bounded_mean_interval
from evaluation.answers.folder import ResponseRecord, read_answers
from evaluation.figures import INTERVAL_METHOD as METHOD_OF_MEANS
from evaluation.figures import PASS_MARK, counted
from evaluation.judging.ledger import JudgeLine, read_ledger
from evaluation.judging.row_outcome import headline_score
from evaluation.judging.scoring import LEDGER_FILE, read_metrics
from evaluation.judging.trust import Level
from evaluation.reports.changed_rows import ChangedRow, changed_rows
from evaluation.reports.judge_findings import judge_with_scores, trust_in_judge

COMPARE_SEED = 123
SIGNIFICANCE = 0.05
TEST_METHOD = f"sign-flip test of the rows' differences, two-sided mid-p, seed {COMPARE_SEED}"
INTERVAL_METHOD = f"{METHOD_OF_MEANS}, of the rows' differences"
"""A paired bootstrap covers only 37 to 92 % where few of 10 to 60 rows differ; see benchmarks/RESULTS.md."""
BITS_INTERVAL_METHOD = f"paired bootstrap, 95 %, {RESAMPLES} resamples, seed {COMPARE_SEED}"

Verdict = Literal["better", "worse", "noise", "same"]
"""Of the other run against the baseline. `same`: every row has equal values."""


class ComparedRun(Frozen):
    """One run of a comparison."""

    run: str
    name: str
    rows: int
    scored: int
    judge: str | None
    """The judge's name. None if the scores are exact matches only."""
    judge_fingerprint: str | None
    judge_verdict: Level | None
    """How far the judge can be trusted. None without a judge."""


class Difference(Frozen):
    """The other run's mean minus the baseline's, over the rows that have a value in both."""

    n: int
    first_mean: float
    second_mean: float
    mean: float
    interval: Interval | None
    """Of bits per byte, a paired bootstrap: None if fewer than two rows differ."""
    p_value: float
    """The mid-p-value of the sign-flip test, which decides."""
    adjusted_p_value: float
    """By Holm over all comparisons with the baseline. Equal to `p_value` if there is only one."""
    sign_test_p_value: float
    wins: int
    """Rows on which the other run is better."""
    ties: int
    losses: int
    correlation: float | None
    """Measured correlation of the two runs over the rows."""
    smallest_difference: float | None
    """The smallest true difference that these rows show with 80 % power, from the measured correlation."""
    verdict: Verdict


class RunComparison(Frozen):
    """One run against the baseline."""

    first: str
    second: str
    shared: int
    only_first: int
    only_second: int
    unscored: int
    """Shared rows without a score in at least one of the two runs."""
    score: Difference
    bits_per_byte: Difference | None
    """Reference bits per byte, where less is better. None if the runs have none."""
    fixed: tuple[ChangedRow, ...]
    """Rows that only the other run got right, the largest gain first."""
    regressed: tuple[ChangedRow, ...]
    """Rows that only the baseline got right, the largest loss first."""
    sentence: str


class Comparison(Frozen):
    """Two or more runs. `comparisons` has one entry for every run after the first."""

    runs: tuple[ComparedRun, ...]
    pass_mark: float
    """A response is right from this number of points."""
    test_method: str = TEST_METHOD
    interval_method: str = INTERVAL_METHOD
    bits_interval_method: str = BITS_INTERVAL_METHOD
    comparisons: tuple[RunComparison, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    info: ComparedRun
    records: dict[str, ResponseRecord]
    scores: dict[str, float]
    bits: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Test:
    """A difference before the p-values of all comparisons are known."""

    first: list[float]
    second: list[float]
    differences: list[float]
    p_value: float
    sign: int
    """1 for scores, where more is better, and -1 for bits per byte, where less is."""


def compare_runs(
    folders: Sequence[Path], *, different_judges: bool = False, pass_mark: float = PASS_MARK
) -> Comparison:
    """Compare every run with the first one. A response is right from `pass_mark` points.

    Raises:
        SettingsError: there are fewer than two runs, or their scores come from different judges.
        DataError: a folder has no scored answers, or two runs share no row with a score.
    """
    if len(folders) < 2:
        raise SettingsError(f"runs: expected two or more answers folders, got {len(folders)}. Name a second one.")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SettingsError("runs: expected different answers folders, got the same folder twice. Leave one out.")
    runs = [_read_run(folder, pass_mark) for folder in folders]
    notes = _check_judges([run.info for run in runs], different_judges)
    baseline, others = runs[0], runs[1:]
    tests = [_test(_shared_values(baseline, other, "scores"), sign=1) for other in others]
    adjusted = holm([test.p_value for test in tests])
    bits = [_bits_test(baseline, other) for other in others]
    adjusted_bits = iter(holm([test.p_value for test in bits if test is not None]))
    comparisons = [
        _comparison(
            baseline,
            other,
            _difference(test, p_value),
            None if bits_test is None else _difference(bits_test, next(adjusted_bits)),
            pass_mark,
        )
        for other, test, p_value, bits_test in zip(others, tests, adjusted, bits, strict=True)
    ]
    return Comparison(
        runs=tuple(run.info for run in runs), pass_mark=pass_mark, comparisons=tuple(comparisons), notes=tuple(notes)
    )


# --- reading ------------------------------------------------------------------------------------------------------


def _read_run(folder: Path, pass_mark: float) -> _Run:
    answers = read_answers(folder)
    read_metrics(answers)  # refuses answers that were not scored yet
    ledger = read_ledger(answers.folder / LEDGER_FILE)
    judge: JudgeLine | None = judge_with_scores(answers, ledger)
    outcomes = ledger.outcomes(judge.fingerprint) if judge else None
    points: dict[str, list[float]] = {}
    for record in answers.responses:
        score, _ = headline_score(record, outcomes)
        if score is not None and not record.is_reference_free:
            points.setdefault(record.id, []).append(score)
    scores = {row_id: math.fsum(values) / len(values) for row_id, values in points.items()}
    values = {record.id: record.reference_bits_per_byte for record in answers.responses}
    return _Run(
        info=ComparedRun(
            run=str(folder),
            name=answers.info.name,
            rows=answers.info.rows,
            scored=len(scores),
            judge=judge.identity.model if judge else None,
            judge_fingerprint=judge.fingerprint if judge else None,
            judge_verdict=None if outcomes is None else trust_in_judge(outcomes, pass_mark).level,
        ),
        records={record.id: record for record in answers.responses if not record.is_reference_free},
        scores=scores,
        bits={row_id: float(value) for row_id, value in values.items() if value is not None},
    )


def _check_judges(runs: Sequence[ComparedRun], different_judges: bool) -> list[str]:
    """Return notes about the judges. Raises SettingsError if the scores cannot be compared."""
    unjudged = [run for run in runs if run.judge is None]
    if unjudged and len(unjudged) < len(runs):
        judged = next(run for run in runs if run.judge is not None)
        raise SettingsError(
            f"{unjudged[0].run}: expected scores of a judge, as in {judged.run}, got exact matches only. "
            f"Run: evaluation score {unjudged[0].run} --judge {judged.judge}"
        )
    notes = []
    if unjudged:
        notes.append("No judge has scored these runs, so only exact matches count as right.")
    other = next((run for run in runs if run.judge_fingerprint != runs[0].judge_fingerprint), None)
    if other is None:
        return notes
    if not different_judges:
        raise SettingsError(
            f"{other.run}: expected the judge of {runs[0].run} ({runs[0].judge}, {runs[0].judge_fingerprint}), "
            f"got {other.judge}, {other.judge_fingerprint}. Score both with the same judge and settings, or accept "
            f"that the difference may come from the judges with --different-judges."
        )
    return [*notes, "The runs have different judges, so a difference may come from the judges."]


def _shared_values(first: _Run, second: _Run, field: Literal["scores", "bits"]) -> tuple[list[float], list[float]]:
    """Return the values of the rows that have one in both runs, in the order of the first run."""
    left, right = (first.scores, second.scores) if field == "scores" else (first.bits, second.bits)
    shared = [row_id for row_id in left if row_id in right]
    if not shared and field == "scores":
        raise DataError(
            f"{second.info.run}: expected rows that {first.info.run} has a score for too, got none. "
            f"Answer the same data with both models: evaluation respond MODEL --data FILE --run DIR"
        )
    return [left[row_id] for row_id in shared], [right[row_id] for row_id in shared]


# --- testing ------------------------------------------------------------------------------------------------------


def _bits_test(first: _Run, second: _Run) -> _Test | None:
    values = _shared_values(first, second, "bits")
    return _test(values, sign=-1) if len(values[0]) >= 2 else None


def _test(values: tuple[list[float], list[float]], *, sign: int) -> _Test:
    first, second = values
    differences = [b - a for a, b in zip(first, second, strict=True)]
    p_value = sign_flip_p_value(differences, seed=COMPARE_SEED)
    return _Test(first=first, second=second, differences=differences, p_value=p_value, sign=sign)


def _difference(test: _Test, adjusted_p_value: float) -> Difference:
    n = len(test.differences)
    gains = [test.sign * difference for difference in test.differences]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    verdict: Verdict = "same" if wins + losses == 0 else "noise"
    if adjusted_p_value < SIGNIFICANCE:
        verdict = "better" if math.fsum(gains) > 0 else "worse"
    interval = (
        bounded_mean_interval(test.differences, low=-100, high=100)
        if test.sign > 0
        else paired_bootstrap_interval(test.differences, seed=COMPARE_SEED)
    )
    return Difference(
        n=n,
        first_mean=round(math.fsum(test.first) / n, 4),
        second_mean=round(math.fsum(test.second) / n, 4),
        mean=round(math.fsum(test.differences) / n, 4),
        interval=interval and interval.rounded(),
        p_value=test.p_value,
        adjusted_p_value=adjusted_p_value,
        sign_test_p_value=sign_test_p_value(wins, losses),
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        correlation=_rounded(correlation(test.first, test.second)),
        smallest_difference=_rounded(detectable_difference(test.differences)),
        verdict=verdict,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


# --- one run against the baseline ---------------------------------------------------------------------------------


def _comparison(
    first: _Run, second: _Run, score: Difference, bits: Difference | None, pass_mark: float
) -> RunComparison:
    shared = first.records.keys() & second.records.keys()
    changes = changed_rows(first.records, first.scores, second.scores, pass_mark)
    return RunComparison(
        first=first.info.run,
        second=second.info.run,
        shared=len(shared),
        only_first=len(first.records) - len(shared),
        only_second=len(second.records) - len(shared),
        unscored=len(shared) - score.n,
        score=score,
        bits_per_byte=bits,
        fixed=changes.fixed,
        regressed=changes.regressed,
        sentence=_sentence(first.info.run, second.info.run, score, bits) + _doubt(first.info, second.info),
    )


def _sentence(first: str, second: str, score: Difference, bits: Difference | None) -> str:
    """Return the answer to "is it better, or is that noise?" in one sentence."""
    rows = counted(score.n)
    if score.verdict == "same":
        answer = f"{second} and {first} have the same score on every one of {rows}"
    else:
        change = f"{score.mean:+.1f} points"
        if score.interval is not None:
            change += f", 95 % interval {score.interval.low:+.1f} to {score.interval.high:+.1f}"
        change += f", p {p_value_text(score.adjusted_p_value)}, {rows}"
        if score.verdict == "noise":
            answer = f"The difference of {second} to {first} may be noise ({change})"
            if score.smallest_difference is not None:
                answer += (
                    f": these rows can only show differences of about {score.smallest_difference:.1f} points or more"
                )
        else:
            answer = f"{second} is {score.verdict} than {first}, and that is more than noise ({change})"
            if score.interval is not None and score.interval.low <= 0 <= score.interval.high:
                answer += "; by how much, so few rows cannot say"
    if bits is None or score.verdict in {"better", "worse"}:
        return answer + "."
    if bits.verdict in {"better", "worse"}:
        holds = "more" if bits.verdict == "better" else "less"
        return (
            f"{answer}, but it holds the references {holds} likely, which is more than noise "
            f"({bits.mean:+.3f} bits per byte, p {p_value_text(bits.adjusted_p_value)})."
        )
    return answer + "; the likelihood of the references shows no difference either."


def _doubt(first: ComparedRun, second: ComparedRun) -> str:
    """Return what must follow the answer if it comes from a judge that cannot be trusted."""
    if "red" not in (first.judge_verdict, second.judge_verdict):
        return ""
    return " But the judge is red: do not rely on this answer."


def p_value_text(value: float) -> str:
    """Return a p-value with its sign of comparison, for example `= 0.031`."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
