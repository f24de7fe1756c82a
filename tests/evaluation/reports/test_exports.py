"""CSV and JUnit: every row, no formula, no character that XML forbids."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.errors import SettingsError
from evaluation.answers.folder import AnswersFolder
from evaluation.judging.trust import Level
from evaluation.reports.exports import COLUMNS, JUDGE_CASE, JUNIT_START, as_csv, as_junit, write_export
from evaluation.reports.report import make_report_with_rows
from evaluation.reports.rows import ReportRow
from tests.support.hostile import HOSTILE
from tests.support.scored_answers import FOUR_ROWS, add_judgements, measured_answers, score_fields, trust_of


def row_of(text: str, **fields: object) -> ReportRow:
    values: dict[str, object] = {
        **{"id": "i", "row": 1, "source": "f.json", "category": text, "instruction": text, "input": text},
        **{"history": (), "reference": text, "response": text, "score": 40.0, "unscored": None, "origin": "judge"},
        **{"analysis": text, "detail": None, "metrics": None, "stop_reason": None, "num_tokens": 3, "looping": False},
        **{"seen_in_training": None, "reference_bits_per_byte": None},
    }
    return ReportRow(**(values | fields))  # type: ignore[arg-type]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def judged(tmp_path: Path) -> AnswersFolder:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers,
        {0: score_fields(5, "exact"), 1: score_fields(3, analysis="Meh."), 2: {"unscored": "timeout", "final": False}},
    )
    return answers


# --- CSV ----------------------------------------------------------------------------------------------------------


def test_csv_has_every_row_and_numbers_stay_numbers(judged: AnswersFolder) -> None:
    rows = read(as_csv(make_report_with_rows(judged.folder)[1]))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["score"] for row in rows] == ["100", "60", "", ""]
    assert [row["unscored"] for row in rows] == ["", "", "timeout", "not_judged"]
    assert [row["scored_by"] for row in rows] == ["exact", "judge", "", ""]
    assert rows[1]["reason"] == "Meh."
    assert rows[0]["response"] == "'\nParis."  # a spreadsheet may skip the line end
    assert [row["exact"] for row in rows] == ["1", "0", "0", "0"]
    assert float(rows[3]["chrf"]) > 50


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    row = read(as_csv([row_of(f'{start}HYPERLINK("http://x","y")')]))[0]
    assert row["response"].startswith(f"'{start}HYPERLINK")


@pytest.mark.parametrize("text", ["-5", "+3.5", "42", "a-b", "x = y"])
def test_harmless_cells_are_unchanged(text: str) -> None:
    assert read(as_csv([row_of(text)]))[0]["response"] == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
@settings(max_examples=60, deadline=None)
def test_texts_survive_and_never_start_a_formula(text: str) -> None:
    cell = read(as_csv([row_of(text)]))[0]["response"]
    assert cell.removeprefix("'") == text.removeprefix("'")
    assert cell[:1] not in {"=", "@", "\t", "\r"}


# --- JUnit --------------------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_row(judged: AnswersFolder) -> None:
    report, rows = make_report_with_rows(judged.folder)
    suite = ElementTree.fromstring(as_junit(report.name, rows))[0]
    assert {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"], ["skipped"]]
    assert suite[1][0].attrib["message"] == "score 60 of 100, expected at least 80"
    assert "response:\nfive" in (suite[1][0].text or "")
    assert suite[2][0].attrib["message"] == "no score: timeout"


def test_pass_mark_decides_what_fails(judged: AnswersFolder) -> None:
    report, rows = make_report_with_rows(judged.folder)
    assert ElementTree.fromstring(as_junit(report.name, rows, 60))[0].attrib["failures"] == "0"


def test_red_judge_fails_its_own_case(judged: AnswersFolder) -> None:
    _, rows = make_report_with_rows(judged.folder)
    outcomes = {}
    for level in get_args(Level):
        suite = ElementTree.fromstring(as_junit("n", rows, 60, trust_of(level, "It obeys orders.")))[0]
        assert (suite.attrib["tests"], suite[0].attrib["name"]) == ("5", JUDGE_CASE)
        outcomes[level] = ([child.tag for child in suite[0]], suite.attrib["failures"], suite.attrib["skipped"])
    assert outcomes == {
        "green": ([], "0", "1"),
        "amber": ([], "0", "1"),
        "red": (["failure"], "1", "1"),
        "untested": (["skipped"], "0", "2"),
    }


@given(text=st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_junit_of_any_text_is_xml(text: str) -> None:
    content = as_junit(text + HOSTILE, [row_of(text + HOSTILE)])
    case = ElementTree.fromstring(content.encode())[0][0]
    assert "document.title='HACKED'" in (case[0].text or "")
    assert content.startswith(JUNIT_START)


# --- files --------------------------------------------------------------------------------------------------------


def test_own_exports_are_replaced_and_other_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_export(path, "id,x\n1,2\n", "id,x")
    write_export(path, "id,x\n3,4\n", "id,x")
    assert path.read_text() == "id,x\n3,4\n"
    path.write_text("instruction,output\n")
    with pytest.raises(SettingsError, match="expected a name for a new file"):
        write_export(path, "id,x\n", "id,x")
    assert path.read_text() == "instruction,output\n"
