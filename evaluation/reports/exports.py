"""All rows of a report for other programs: CSV for spreadsheets, JUnit XML for CI.

Texts are hostile: a cell that a spreadsheet would run as a formula gets an apostrophe, and characters that XML cannot
hold are left out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from assistant.errors import SettingsError
from assistant.escape import encodable, shorten, visible
from assistant.files import write_atomic
from evaluation.answers.metrics import Metrics
from evaluation.figures import PASS_MARK
from evaluation.judging.judgement import Reason
from evaluation.judging.trust import Trust
from evaluation.reports.rows import ReportRow

COLUMNS = (
    *("id", "source", "row", "category", "instruction", "input", "reference", "response"),
    *("score", "unscored", "scored_by", "reason", "detail", "stop_reason", "tokens", "looping"),
    *("seen_in_training", "reference_bits_per_byte", "sample", "label", "doubt"),
    *Metrics.model_fields,
)
NAME_LENGTH = 80
JUDGE_CASE = "the judge can be trusted"
"""Name of the test case of the judge."""
JUNIT_START = "<?xml version='1.0' encoding='utf-8'?>\n<testsuites name=\"evaluation\""
NOT_ASKED: frozenset[Reason] = frozenset({"not_judged"})
"""Rows that nobody was asked about are skipped, not errors."""

# "=" and the others start a formula in spreadsheets, also as their full-width forms and after a tab or a line end.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# --- CSV ----------------------------------------------------------------------------------------------------------


def as_csv(rows: Sequence[ReportRow]) -> str:
    """Return all rows as CSV with a header. A missing value is an empty cell."""
    output = io.StringIO()
    writer = csv.writer(output)  # ends lines with CR LF, and so quotes a CR within a cell
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(value) for value in _values(row)])
    return output.getvalue()


def _values(row: ReportRow) -> list[object]:
    texts: list[object] = [row.id, row.source, row.row, row.category, row.instruction, row.input]
    texts += [row.reference, row.response]
    verdict = [row.score, row.unscored, row.origin, row.analysis, row.detail]
    answer = [row.stop_reason, row.num_tokens, row.looping, row.seen_in_training, row.reference_bits_per_byte]
    answer += [row.sample, row.label, row.doubt]
    metrics = [getattr(row.metrics, name) if row.metrics else None for name in Metrics.model_fields]
    return [*texts, *verdict, *answer, *metrics]


def _cell(value: object) -> str:
    """Return a cell. A text that would be a formula gets an apostrophe; a plain number stays one."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    text = encodable(str(value)).replace("\0", "␀")
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


# --- JUnit --------------------------------------------------------------------------------------------------------


def as_junit(
    name: str, rows: Sequence[ReportRow], pass_mark: float = PASS_MARK, judge_verdict: Trust | None = None
) -> str:
    """Return a suite with a test case for every row: a failure under the pass mark, an error without a score.

    With a judge, the first case is the judge itself: it fails if the judge is red.

    Rows that nobody was asked about yet are skipped.
    """
    suite = ElementTree.Element("testsuite", name=_attribute(name))
    counts = {"tests": len(rows), "failures": 0, "errors": 0, "skipped": 0}
    if judge_verdict is not None:
        counts["tests"] += 1
        case = ElementTree.SubElement(suite, "testcase", {"name": JUDGE_CASE, "classname": "evaluation"})
        reasons = " ".join(judge_verdict.reasons)
        if judge_verdict.level == "red":
            counts["failures"] += 1
            _child(case, "failure", "the judge is red: do not rely on its scores", reasons)
        elif judge_verdict.level == "untested":
            counts["skipped"] += 1
            _child(case, "skipped", "no control items were asked", reasons)
    for row in rows:
        title = f"row {row.row}: {shorten(visible(row.instruction), NAME_LENGTH)}"
        attributes = {"name": _attribute(title), "classname": _attribute(row.category or row.source)}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if row.score is None:
            tag = "skipped" if row.unscored in NOT_ASKED else "error"
            counts["skipped" if tag == "skipped" else "errors"] += 1
            _child(case, tag, f"no score: {row.unscored}", row.detail or "")
        elif row.score < pass_mark:
            counts["failures"] += 1
            _child(case, "failure", f"score {row.score:g} of 100, expected at least {pass_mark:g}", _material(row))
    for key, count in counts.items():
        suite.set(key, str(count))
    suites = ElementTree.Element("testsuites", {"name": "evaluation"})
    suites.append(suite)
    ElementTree.indent(suites)
    content: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content.decode("utf-8") + "\n"


def _child(case: ElementTree.Element, tag: str, message: str, text: str) -> None:
    child = ElementTree.SubElement(case, tag, {"message": _attribute(message)})
    child.text = _NOT_XML.sub("", text)


def _material(row: ReportRow) -> str:
    parts = [("instruction", row.instruction), ("input", row.input), ("reference", row.reference)]
    parts += [("response", row.response or ""), ("judge", row.analysis or ""), ("doubt", row.doubt or "")]
    return "\n\n".join(f"{name}:\n{text}" for name, text in parts if text)


def _attribute(text: str) -> str:
    return _NOT_XML.sub("", visible(text))


# --- files --------------------------------------------------------------------------------------------------------


def write_export(path: Path, content: str, start: str) -> None:
    """Write an export in one step. A file that this program wrote before is replaced; its beginning shows that.

    Raises:
        SettingsError: another file is in the way.
    """
    is_new = not path.exists() and not path.is_symlink()
    if not is_new and not (path.is_file() and path.read_bytes().startswith(start.encode())):
        raise SettingsError(
            f"{path}: expected a name for a new file, or for an earlier export, got something else. "
            f"Choose another name."
        )
    write_atomic(path, content)
