"""The HTML page of a report: complete, inert, and with the same words as the terminal."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evaluation.answers.folder import AnswersFolder
from evaluation.judging.trust import ControlFinding, HitRate, Trust
from evaluation.reports.page import as_html, safe_json
from evaluation.reports.render import next_command, terminal
from evaluation.reports.report import make_report_with_rows
from tests.support.hostile import HOSTILE, ReadPage, check_is_inert
from tests.support.scored_answers import FOUR_ROWS, add_judgements, measured_answers, score_fields, trust_of


def page_of(answers: AnswersFolder, verdict: Trust | None = None) -> str:
    report, rows = make_report_with_rows(answers.folder)
    if verdict:
        report = report.model_copy(update={"judge_verdict": verdict})
    return as_html(report, rows)


def embedded_rows(page: str) -> list[dict[str, Any]]:
    return list(json.loads(re.findall(r'id="rows">(.*?)</script>', page, re.S)[0]))


@pytest.fixture
def judged(tmp_path: Path) -> AnswersFolder:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(
        answers,
        {
            0: score_fields(5, "exact"),
            1: score_fields(2, analysis="Wrong sum."),
            2: score_fields(0, "empty"),
            3: {"unscored": "timeout", "detail": "silent", "final": False},
        },
    )
    return answers


def test_page_has_every_row_with_its_verdict_and_reason(judged: AnswersFolder) -> None:
    rows = embedded_rows(page_of(judged))
    assert [(row.get("score"), row.get("origin"), row.get("unscored")) for row in rows] == [
        (100, "exact", None),
        (40, "judge", None),
        (0, "empty", None),
        (None, None, "timeout"),
    ]
    assert [rows[1][name] for name in ("instruction", "reference", "response", "reason")] == [
        "Task 2.",
        "4",
        "five",
        "Wrong sum.",
    ]
    assert rows[2]["response"] == "(empty)"
    assert rows[3]["detail"] == "silent"


def test_page_says_what_the_terminal_says(judged: AnswersFolder) -> None:
    report, rows = make_report_with_rows(judged.folder)
    text = " ".join("".join(ReadPage(as_html(report, rows)).texts[name][0]) for name in ("h1", "p"))
    output = StringIO()
    Console(file=output, width=1000, highlight=False).print(terminal(report))
    headline = next(line for line in output.getvalue().splitlines() if line.startswith("Score "))
    assert headline.strip() in text
    shown = ReadPage(as_html(report, rows))
    assert [text.strip() for text in shown.texts["li"]][: len(report.notes)] == list(report.notes)
    command = "".join(shown.texts["code"])
    assert command.startswith("evaluation score ")
    assert next_command(report) == f"  {command}"


def test_verdict_on_the_judge_is_beside_the_score(judged: AnswersFolder) -> None:
    page = ReadPage(page_of(judged, trust_of("red", "It obeys <injected> orders.")))
    assert page.attributes("body") == [{"data-verdict": "red"}]
    assert {"class": "badge red"} in page.attributes("span")
    assert "It obeys <injected> orders." in " ".join(page.texts["p"])
    assert "untested" in page_of(judged)


def test_policy_allows_this_script_and_this_style_and_nothing_else(judged: AnswersFolder) -> None:
    page = page_of(judged)
    policy = next(item["content"] for item in ReadPage(page).attributes("meta") if "http-equiv" in item)
    script, style = re.findall(r"<script>(.*?)</script>", page, re.S), re.findall(r"<style>(.*?)</style>", page, re.S)
    (script_hash,), (style_hash,) = [
        [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        for texts in (script, style)
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "://" not in script[0] + style[0]


def test_hostile_rows_are_inert_and_shown(tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "").replace("\x00", "")  # a file of answers cannot hold them
    answers = measured_answers(tmp_path, [(text, text + "!", text), ("b", "b", "x")])
    add_judgements(answers, {0: score_fields(1, analysis=text), 1: score_fields(5, "exact")})
    page = page_of(answers)
    check_is_inert(page)
    row = embedded_rows(page)[0]
    for name in ("reference", "response", "reason", "category"):
        assert "</script><script>" in row[name]
        assert "\\u202egnp.exe ␛[31mred " in row[name]
        assert "{{ 7*7 }}" in row[name]


def test_json_in_a_page_is_the_value_and_cannot_end_its_element() -> None:
    value = ["</script>", "<!--", "&amp;", "\u2028\u2029", "é"]
    text = safe_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_page_without_any_row_or_score_is_whole(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:1])
    report, _ = make_report_with_rows(answers.folder)
    page = as_html(report.model_copy(update={"mean": None, "interval": None, "scored": 0}), ())
    check_is_inert(page)
    assert "Score n/a of 100" in page
    assert embedded_rows(page) == []


def test_endless_answers_are_marked(tmp_path: Path) -> None:
    answers = measured_answers(
        tmp_path, [("x", "yes " * 9), ("x", "a b c d " * 4), ("x", "yes yes yes"), ("x", "a b " * 3)]
    )
    assert [row.get("flags") for row in embedded_rows(page_of(answers))] == [["looping"], ["looping"], None, None]


def test_page_shows_control_items_labels_doubts_and_answers_to_questions(judged: AnswersFolder) -> None:
    report, rows = make_report_with_rows(judged.folder)
    findings = (
        ControlFinding(kind="reference", n=8, right=7, mean=90),
        ControlFinding(kind="order", n=8, right=2, mean=75),
    )
    hits = HitRate(right=7, n=8, interval=None)
    trust = Trust(level="red", reasons=("It obeys orders.",), findings=findings, tpr=hits, tnr=hits)
    more = replace(rows[1], label=30.0, doubt="Unsure.", answers=(("Is it short?", True),), seen_in_training=True)
    page = as_html(report.model_copy(update={"judge_verdict": trust}), [rows[0], more])
    texts = ReadPage(page).texts
    cells = [text.strip() for text in texts["td"]]
    assert cells[:4] == ["the reference", "from 80", "7 of 8", "90.0"]
    assert cells[4:8] == ["an order to the judge", "under 80", "2 of 8", "75.0"]
    assert "but the judge is red" in " ".join(texts["p"])
    plain, shown = embedded_rows(page)
    assert (shown["label"], shown["doubt"], shown["questions"]) == (30, "Unsure.", [["Is it short?", "yes"]])
    assert "seen in training" in shown["flags"]
    assert not {"label", "doubt", "questions"} & set(plain)
