"""The next command worth typing after a report: every report and page ends with it.

Does not know how a command is shown. Paths and names are quoted for a shell, but not escaped.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from evaluation.judging.judge_options import JudgeOptions
from evaluation.judging.judgement import TRANSIENT
from evaluation.judging.rubric import MethodName, method_of
from evaluation.next_command import DEFAULT_JUDGE, N_LABELS, Advice
from evaluation.reports.values import JudgeSummary, Report

OLLAMA_URL = "http://127.0.0.1:11434"


def next_step(report: Report) -> Advice:
    """Return the command that adds most to what the report knows."""
    folder = shlex.quote(report.run)
    label = f"evaluation label {folder} --count {N_LABELS}"
    if report.judge is None:
        return Advice(
            command=f"evaluation score {folder} --judge {DEFAULT_JUDGE}",
            purpose="let a local judge score the answers that are no exact match",
        )
    # More scores of a red judge are worth nothing, so this comes before the rows that have none.
    if report.judge_verdict is not None and report.judge_verdict.level == "red":
        can_change = report.judge.api == "ollama" and report.judge.model.partition(":")[0] != DEFAULT_JUDGE
        other = JudgeOptions(judge=DEFAULT_JUDGE, host=_hosts(report.judge)).words()
        return Advice(
            command=shlex.join(["evaluation", "score", report.run, *other]) if can_change else label,
            purpose="ask another judge or yourself, because this judge cannot be trusted",
        )
    if {*TRANSIENT, "not_judged"} & set(report.unscored):
        method = method_of(report.judge.rubric)
        again = _as_before(report.judge, method or "explain").words()
        own = "" if method else ", with your --method, --rubric and --prompt"
        return Advice(
            command=shlex.join(["evaluation", "score", report.run, *again]),
            purpose=f"ask about the rows that have no score yet{own}",
        )
    if report.agreement is not None and report.agreement.labels >= N_LABELS:
        parent = shlex.quote(str(Path(report.run).parent))
        return Advice(command=f"evaluation runs {parent}", purpose="see this run beside the others")
    return Advice(command=label, purpose=f"score {N_LABELS} rows yourself, to see how far the judge is right")


def _as_before(judge: JudgeSummary, method: MethodName) -> JudgeOptions:
    """Return the options that make the same judge go on. Other options would make it another judge."""
    given = {"num_ctx": judge.options["num_ctx"]} if "num_ctx" in judge.options else {}
    return JudgeOptions.model_validate(
        {"judge": judge.model, "host": _hosts(judge), "api": judge.api, "method": method, **given}
    )


def _hosts(judge: JudgeSummary) -> tuple[str, ...]:
    """Return the addresses to name. Without any, this machine's Ollama is asked."""
    return () if judge.url == OLLAMA_URL and judge.api == "ollama" else tuple(judge.url.split(", "))
