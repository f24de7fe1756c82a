"""Limits for CI: the lowest score and the largest share of rows without a score that a report may have.

The score of a red judge keeps no lowest score, however high it is: nobody may take it for a pass.
"""

from __future__ import annotations

import re

from assistant.errors import SettingsError
from evaluation.reports.values import Report


def parse_limit(text: str) -> tuple[float, bool]:
    """Read `--max-unscored`: `2%` is a share of the rows, `5` a number of rows. Returns the number and whether it is a
    share in percent.

    Raises:
        SettingsError: the text is neither.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text, re.ASCII)
    value = float(match[1]) if match else -1.0
    is_share = bool(match and match[2])
    if match is None or (is_share and value > 100) or (not is_share and value != int(value)):
        raise SettingsError(f"--max-unscored: expected a share such as 2% or a number of rows such as 5, got {text!r}.")
    return value, is_share


def broken_limits(report: Report, fail_under: float | None, max_unscored: str | None) -> list[str]:
    """Return one sentence for every limit that the report does not keep.

    Raises:
        SettingsError: a limit cannot be read.
    """
    sentences = []
    if fail_under is not None and (report.mean is None or report.mean < fail_under):
        got = "no score" if report.mean is None else f"{report.mean:.2f}"
        sentences.append(f"--fail-under: expected a score of at least {fail_under:g}, got {got}.")
    if fail_under is not None and report.judge_verdict is not None and report.judge_verdict.level == "red":
        sentences.append(
            "--fail-under: expected a score by a judge that can be trusted, got one by a red judge. "
            "Score the answers with another judge."
        )
    if max_unscored is not None:
        value, is_share = parse_limit(max_unscored)
        n_unscored = report.n - report.scored
        got_value = 100.0 * n_unscored / report.n if is_share and report.n else float(n_unscored)
        if got_value > value:
            got = f"{n_unscored} of {report.n}" + (f" ({got_value:.1f} %)" if is_share else "")
            sentences.append(
                f"--max-unscored: expected at most {max_unscored.strip()} of the rows without a score, got {got}."
            )
    return sentences
