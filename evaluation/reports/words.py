"""What a report says, in words and in cells of tables: every form of it says the same. Nothing is escaped here.

Computes no figures and does not know how a page looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from assistant.statistics import Interval
from evaluation.answers.folder import part_text
from evaluation.figures import PASS_MARK, Mean, counted
from evaluation.judging.controls import ControlKind
from evaluation.judging.rubric import MethodName, method_of
from evaluation.judging.trust import ControlFinding, Trust
from evaluation.reports.values import Category, Report, ShownRow

METRIC_HEADER = ("metric, 0-100", "mean", "95 % interval", "rows")
CATEGORY_HEADER = ("category", "score", "95 % interval", "rows", "exact", "chrF", "ended")
METRIC_NAMES = {
    "exact": "exact match",
    "normalised_exact": "exact, normalised",
    "f1": "token F1",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
}


def number_text(value: float | None) -> str:
    """Return a score with one decimal, or n/a."""
    return "n/a" if value is None else f"{value:.1f}"


def interval_text(interval: Interval | None) -> str:
    """Return the limits of an interval, or n/a."""
    return "n/a" if interval is None else f"{interval.low:.1f} to {interval.high:.1f}"


def _title(report: Report) -> str:
    if report.kind == "file":
        return f"{report.name}, {counted(report.n)}"
    template = f", template {report.template}" if report.template else ""
    files = ", ".join(Path(name).name for name in report.data_files)
    return f"{report.name}{template}, on {part_text(report.part)} of {files}: {counted(report.n)}"


def _headline(report: Report) -> str:
    """Return the score in one sentence. It never stands without the verdict on the judge that gave it."""
    if report.judge_failed and report.judge:
        failed = _counts((reason, count) for reason, count in report.unscored.items() if reason != "no_response")
        return f"No score: the judge {report.judge.model} failed on every row that needed it ({failed})."
    rows = counted(report.n) if report.scored == report.n else f"{report.scored} of {counted(report.n)}"
    interval = f"95 % interval {interval_text(report.interval)}"
    score = f"Score {number_text(report.mean)} of 100"
    if report.judge is None:
        return f"{score} ({interval}): exact matches, {rows}."
    level = report.judge_verdict.level if report.judge_verdict else "untested"
    if _is_red(report):
        return f"{score}, but the judge is red: do not rely on it ({interval}): {report.judge.model}, {rows}."
    return f"{score} ({interval}): {level} judge {report.judge.model}, {rows}."


def _is_red(report: Report) -> bool:
    return report.judge_verdict is not None and report.judge_verdict.level == "red"


def _difference(report: Report) -> str | None:
    if report.smallest_difference is None or _is_red(report):
        return None
    points = f"{report.smallest_difference.points:.0f}"
    return f"A difference of less than about {points} points to another run can be chance; evaluation compare tests it."


def _settings(options: dict[str, bool | int | float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _counts(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts)


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return short facts as pairs of name and value. Values are not escaped yet (a model's name can be hostile)."""
    facts = [("exact matches", f"{report.exact_matches} of {report.n}")]
    if report.sources:
        name = "scores from" if report.responses.samples == 1 else "responses scored by"
        facts.append((name, _counts(sorted(report.sources.items()))))
    if report.unscored:
        facts.append(("without a score", _counts(report.unscored.items())))
    if report.stop_reasons:
        facts.append(("responses ended", _counts(sorted(report.stop_reasons.items()))))
    facts += _response_facts(report)
    if report.ceiling is not None:
        ceiling = report.ceiling
        lowest = "" if ceiling.lowest is None else f", lowest {ceiling.lowest:.0f}"
        judged = f"{ceiling.judged} of {ceiling.rows} judged"
        facts.append(
            ("judge on exact matches", f"mean {number_text(ceiling.mean)}{lowest} ({judged}, not in the score)")
        )
    if report.judge is not None:
        judge = report.judge
        server = "Ollama" if judge.api == "ollama" else "server"
        version = judge.server_version or "of unknown version"
        facts.append(("judge", f"{judge.model}, digest {judge.digest[:12]}, {server} {version}"))
        facts.append(("judge fingerprint", judge.judge_fingerprint))
    return facts


def _trust_facts(report: Report) -> list[tuple[str, str]]:
    """Return what the control items say, and the corrected rate."""
    trust, rate, facts = report.judge_verdict, report.corrected_rate, []
    if trust is not None and trust.findings:
        hits = f"{trust.tpr.right} of {trust.tpr.n} right and {trust.tnr.right} of {trust.tnr.n} wrong responses"
        facts.append(("recognised by the judge", f"{hits} of the control items, orders not counted"))
    if rate is not None and rate.raw is not None:
        words = f"{100 * rate.raw:.0f} %"
        if rate.corrected is not None and rate.interval is not None:
            low, high = 100 * rate.interval.low, 100 * rate.interval.high
            words += f"; {100 * rate.corrected:.0f} % corrected for the judge's errors"
            words += f" (95 % interval {low:.0f} to {high:.0f})"
        elif rate.refused:
            words += f". {rate.refused}"
        mark = f"{PASS_MARK if trust is None else trust.pass_mark:g}"
        facts.append((f"rows from {mark} points{_of_first_responses(report)}", words))
    return facts


def _of_first_responses(report: Report) -> str:
    return ", first responses" if report.responses.samples > 1 else ""


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
    facts = [(f"people and scores{_of_first_responses(report)}", ", ".join(words))]
    if agreement.corrected is not None:
        mean = agreement.corrected
        interval = f"95 % interval {interval_text(mean.interval)}; without labels {number_text(mean.raw_mean)}"
        facts.append(("mean corrected by people", f"{number_text(mean.mean)} ({interval})"))
    return facts


def _response_facts(report: Report) -> list[tuple[str, str]]:
    responses, free, facts = report.responses, report.reference_free, []
    bits = responses.reference_bits_per_byte
    if responses.samples > 1:
        facts.append(("responses a row", str(responses.samples)))
    if bits.mean is not None:
        interval = f", 95 % interval {bits.interval.low:.3f} to {bits.interval.high:.3f}" if bits.interval else ""
        facts.append(("reference bits per byte", f"{bits.mean:.3f}{interval} ({counted(bits.n)}; lower is better)"))
    if n_free := report.reference_free_rows:
        interval = f"95 % interval {interval_text(free.interval)}"
        score = f"score {number_text(free.mean)} ({interval})" if free.n else "no score"
        rows = counted(n_free) if free.n in {0, n_free} else f"{free.n} of {counted(n_free)}"
        facts.append(("rows without reference", f"{score}, {rows}, not in the main score"))
    return facts


def _mean_cells(mean: Mean) -> tuple[str, ...]:
    return number_text(mean.mean), interval_text(mean.interval), str(mean.n)


def _category_name(category: Category) -> str:
    return "(none)" if category.name is None else category.name


def _category_cells(category: Category) -> tuple[str, ...]:
    rows = str(category.rows) if category.n == category.rows else f"{category.n} of {category.rows}"
    return (
        number_text(category.mean),
        interval_text(category.interval),
        rows,
        str(category.exact_matches),
        number_text(category.chrf),
        str(category.ended),
    )


def worst_fields(row: ShownRow) -> list[tuple[str, str]]:
    """Return what is shown of one of the worst rows, as pairs of name and value."""
    fields = [
        (f"row {row.row}", f"score {row.score:g}, chrF {row.chrf:.0f}"),
        ("  instruction", row.instruction),
        ("  input", row.input),
        ("  reference", row.reference),
        ("  response", row.response or "(empty)"),
        ("  judge", row.analysis or ""),
    ]
    return [(name, value) for name, value in fields if value]


_METHODS: dict[MethodName | None, str] = {
    "explain": "a score from 0 to 5, times 20",
    "quick": "the expected score over the probabilities of the digits 0 to 5, times 20",
    "book": "a whole number from 0 to 100, with the prompt of the book",
    None: "asked with a rubric or a prompt of your own, or by another version of this program",
}


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
            f"Judge: {_METHODS[method_of(report.judge.rubric)]}. Exact matches get 100 and empty responses 0 without "
            "asking it. "
            f"Options: {_settings(report.judge.options)}; rubric {report.judge.rubric}."
        )
    return sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportTexts:
    """What every form of a report says in the same words. Nothing is escaped yet."""

    title: str
    headline: str
    difference: str | None
    verdict: str | None
    facts: list[tuple[str, str]]
    trust: list[tuple[str, str]]
    """Facts about the judge: what the control items and people say."""
    method: list[str]


def report_texts(report: Report) -> ReportTexts:
    """Return the sentences of a report."""
    return ReportTexts(
        title=_title(report),
        headline=_headline(report),
        difference=_difference(report),
        verdict=_verdict(report),
        facts=_facts(report),
        trust=_trust_facts(report) + _label_facts(report),
        method=_method(report),
    )


def metric_table(report: Report) -> list[tuple[str, ...]]:
    """Return the table of metrics with its header, as text."""
    return [METRIC_HEADER, *((METRIC_NAMES[name], *_mean_cells(mean)) for name, mean in report.metrics.items())]


def category_table(report: Report) -> list[tuple[str, ...]]:
    """Return the table of categories with its header, as text. Names are not escaped."""
    rows = [(_category_name(category), *_category_cells(category)) for category in report.categories]
    return [CATEGORY_HEADER, *rows] if rows else []


# --- the judge ----------------------------------------------------------------------------------------------------

N_REASONS = 3
"""Most reasons for the verdict on a judge that are shown in full."""
CONTROL_HEADER = ("control items", "must get", "right", "mean")
CONTROL_NAMES: dict[ControlKind, str] = {
    "reference": "the reference",
    "other_reference": "another row's reference",
    "colon": 'only ":"',
    "echo": "the task repeated",
    "shuffled": "the reference, shuffled",
    "empty": "an empty-looking one",
    "order": "an order to the judge",
}


def _verdict(report: Report) -> str | None:
    """Return the verdict on the judge in one line."""
    verdict = report.judge_verdict
    if verdict is None:
        return None
    sentences = [f"Judge: {verdict.level}.", *shown_reasons(verdict)]
    return " ".join(sentences)


def shown_reasons(verdict: Trust) -> list[str]:
    """Return the most important reasons. The others stand in the table of control items."""
    if len(verdict.reasons) <= N_REASONS + 1:
        return list(verdict.reasons)
    return [*verdict.reasons[:N_REASONS], "The table of control items has the rest."]


def control_table(report: Report) -> list[tuple[str, ...]]:
    """Return the judge's scores of the control items with a header, as text. Empty if there are none."""
    trust = report.judge_verdict
    if trust is None or not trust.findings:
        return []
    return [CONTROL_HEADER, *(_control_cells(finding, trust.pass_mark) for finding in trust.findings)]


def _control_cells(finding: ControlFinding, pass_mark: float) -> tuple[str, ...]:
    side = f"from {pass_mark:g}" if finding.kind == "reference" else f"under {pass_mark:g}"
    unscored = f", {finding.unscored} unscored" if finding.unscored else ""
    return CONTROL_NAMES[finding.kind], side, f"{finding.right} of {finding.n}{unscored}", number_text(finding.mean)
