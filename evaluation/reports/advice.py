"""The next command worth typing after a report: every report and page ends with it.

Does not know how a command is shown. Paths and names are quoted for a shell, but not escaped.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from evaluation.judging.judgement import TRANSIENT
from evaluation.next_command import DEFAULT_JUDGE, N_LABELS, Advice
from evaluation.reports.values import Report

OLLAMA_URL = "http://127.0.0.1:11434"


def next_step(report: Report) -> Advice:
    """Return the command that adds most to what the report knows."""
    folder = shlex.quote(report.run)
    if report.judge is None:
        return Advice(
            command=f"evaluation score {folder} --judge {DEFAULT_JUDGE}",
            purpose="let a local judge score the answers that are no exact match",
        )
    if {*TRANSIENT, "not_judged"} & set(report.unscored):
        host = "" if report.judge.url == OLLAMA_URL else f" --host {shlex.quote(report.judge.url)}"
        return Advice(
            command=f"evaluation score {folder} --judge {shlex.quote(report.judge.model)}{host}",
            purpose="ask again about the rows without a score",
        )
    if report.judge_verdict is not None and report.judge_verdict.level == "red":
        return Advice(
            command=f"evaluation score {folder} --judge {DEFAULT_JUDGE}"
            if report.judge.model.partition(":")[0] != DEFAULT_JUDGE
            else f"evaluation label {folder} --count {N_LABELS}",
            purpose="ask another judge or yourself, because this judge cannot be trusted",
        )
    if report.agreement is not None and report.agreement.labels >= N_LABELS:
        parent = shlex.quote(str(Path(report.run).parent))
        return Advice(command=f"evaluation runs {parent}", purpose="see this run beside the others")
    return Advice(
        command=f"evaluation label {folder} --count {N_LABELS}",
        purpose=f"score {N_LABELS} rows yourself, to see how far the judge is right",
    )
