"""What a reader must know before trusting the mean of a report, one sentence each."""

from __future__ import annotations

from evaluation.answers.response_facts import fact_notes
from evaluation.judging.judgement import UNVERIFIED, WITHOUT_JUDGE
from evaluation.judging.ledger import Ledger
from evaluation.reports.values import Report


def report_notes(report: Report, ledger: Ledger) -> list[str]:
    """Return the notes of a report, the most important first."""
    notes = _notes_on_judge(report, ledger)
    n_missing = report.n - report.scored
    if report.unanswered:
        notes.append(
            f"{report.unanswered} of {report.n} rows are not answered yet. Run evaluation respond again to continue."
        )
    if n_missing and report.bounds:
        low, high = report.bounds.low, report.bounds.high
        notes.append(
            f"{n_missing} of {report.n} rows have no score. With scores for all rows, the mean would be "
            f"from {low:.1f} to {high:.1f}."
        )
    if report.judge and set(report.unscored) - WITHOUT_JUDGE and report.sources.get("exact"):
        notes.append("Exact matches always have a score and some judged rows do not, so the mean is likely too high.")
    if report.ceiling and report.ceiling.mean is not None and report.ceiling.mean < 90:
        matches = f"{report.ceiling.judged} exact {'match' if report.ceiling.judged == 1 else 'matches'}"
        notes.append(f"The judge gave {matches} {report.ceiling.mean:.0f} on average: its scores may be too low.")
    if report.doubted:
        notes.append(
            f"The judge was unsure about {report.doubted} of {report.sources.get('judge', 0)} judged responses: "
            f"it gave the digits of the scale a small share of its probability."
        )
    notes += fact_notes(report.responses)
    if n_cut := report.stop_reasons.get("length"):
        notes.append(f"{n_cut} {'response was' if n_cut == 1 else 'responses were'} cut at the token limit.")
    if report.judge and (n_others := report.judge.other_judges):
        judges = "judge" if n_others == 1 else "judges"
        notes.append(f"The ledger also has scores of {n_others} other {judges}. They are not included.")
    return notes


def _notes_on_judge(report: Report, ledger: Ledger) -> list[str]:
    """Return who gave the scores, if the headline does not say it all."""
    notes = []
    if ledger.newest_judge is not None and report.judge is None:
        model = ledger.newest_judge.identity.model
        notes.append(f"The judge {model} scored no row, so the score is the rate of exact matches.")
    if report.judge_failed:
        notes.append("The judge gave no usable verdict, so there is no score. Exact matches alone do not make one.")
    if report.judge and report.judge.other_versions:
        counts = ", ".join(
            f"{count} of {version or 'unknown'}" for version, count in report.judge.other_versions.items()
        )
        notes.append(
            f"Not all verdicts are of the server's version {report.judge.server_version or 'unknown'}: {counts}. "
            f"evaluation score with --rejudge asks about them again."
        )
    if report.judge and report.judge.digest == UNVERIFIED:
        notes.append("The server names no digest of the judge, so nobody can check that it stayed the same model.")
    if report.judge is None and ledger.newest_judge is None:
        notes.append("No judge has scored the answers, so correct paraphrases count as wrong.")
    return notes
