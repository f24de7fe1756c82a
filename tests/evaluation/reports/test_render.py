"""The report on the terminal and in Markdown: missing figures, categories, and escaping of hostile text."""

from __future__ import annotations

import html
import re
import unicodedata
from io import StringIO
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from assistant.jsonl import AppendOnly
from evaluation.answers.folder import RESPONSES_FILE, read_answers
from evaluation.judging.ledger import JudgeLine, Judgement
from evaluation.judging.rubric import Method, Rubric
from evaluation.judging.scoring import LEDGER_FILE, write_metrics
from evaluation.judging.trust import ControlFinding
from evaluation.reports.render import as_markdown, terminal
from evaluation.reports.report import make_report
from evaluation.reports.values import Report
from tests.support.evaluation_command import evaluation
from tests.support.scored_answers import (
    FOUR_ROWS,
    IDENTITY,
    ROWS_WITH_CATEGORIES,
    add_judgements,
    judgement,
    measured_answers,
    score_fields,
    trust_of,
)


def on_screen(report: Report, width: int = 80) -> str:
    """Return the report as a terminal without colours shows it."""
    output = StringIO()
    console = Console(file=output, width=width, force_terminal=False, highlight=False)
    console.print(terminal(report))
    return output.getvalue()


def control_characters(text: str) -> list[str]:
    return [character for character in text if unicodedata.category(character) in {"Cc", "Cf"} and character != "\n"]


def test_markdown_page_starts_with_title_and_score(tmp_path: Path) -> None:
    page = as_markdown(make_report(measured_answers(tmp_path, FOUR_ROWS).folder))
    assert page.startswith("# answers.json, 4 rows\n\n**Score 25.0 of 100 ")


def test_missing_score_is_shown_as_not_available(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS[:1])
    unanswered = answers.responses[0].model_copy(update={"response": None, "error": "too long"})
    (answers.folder / RESPONSES_FILE).write_text(unanswered.model_dump_json() + "\n")
    write_metrics(read_answers(answers.folder))
    report = make_report(answers.folder)
    assert "Score n/a of 100" in on_screen(report)
    assert "**Score n/a of 100" in as_markdown(report)


def test_next_command_is_never_broken_into_lines(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    answers = measured_answers(folder, FOUR_ROWS)
    out = evaluation("report", answers.folder).out
    assert out.endswith(f":\n  evaluation score {answers.folder} --judge llama3.1\n")


@pytest.mark.parametrize(
    ("rubric", "words"),
    [
        (Method().hash, "Judge: a score from 0 to 5, times 20."),
        (Method(name="quick").hash, "Judge: the expected score over the probabilities of the digits 0 to 5"),
        (Method(name="book").hash, "Judge: a whole number from 0 to 100, with the prompt of the book."),
        (Method(rubric=Rubric(rules=("Be kind.",))).hash, "Judge: asked with a rubric or a prompt of your own"),
    ],
)
def test_page_says_how_the_judge_was_asked(tmp_path: Path, rubric: str, words: str) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {1: score_fields(1)}, IDENTITY.model_copy(update={"rubric": rubric}))
    assert words in as_markdown(make_report(answers.folder))


def test_headline_names_the_judge_that_failed(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: {"unscored": "unparsable"}, 3: {"unscored": "timeout"}})
    report = make_report(answers.folder)
    headline = "No score: the judge m failed on every row that needed it"
    assert headline in " ".join(on_screen(report).split())
    assert headline in as_markdown(report)
    assert "Score 2" not in on_screen(report)


def test_categories_are_shown_with_a_name_for_rows_without_one(tmp_path: Path) -> None:
    report = make_report(measured_answers(tmp_path, ROWS_WITH_CATEGORIES).folder)
    for text in (on_screen(report), as_markdown(report)):
        assert "letters" in text
        assert "(none)" in text


# --- escaping -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "\x1b[31mred\x1b]8;;http://x\x07 \r\x9b2J \u202eabc\u2066 | a `b` **c** [d](javascript:e) "
    "<img src=x> &lt; [bold]f[/]"
)


def test_hostile_text_is_escaped_on_the_terminal_and_in_markdown(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("x", HOSTILE, HOSTILE + " category"), ("y", "y", "b")])
    report = make_report(answers.folder)
    screen = on_screen(report, width=300)
    assert not control_characters(screen)
    assert "␛[31mred" in screen
    assert "\\u202eabc" in screen
    assert "[bold]f[/]" in screen
    page = as_markdown(report)
    assert not control_characters(page)
    assert "<img" not in page
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert re.findall(r"<(?!/?(?:h[12]|p|strong|ul|li|table|thead|tbody|tr|t[hd]))[^>]*>", rendered) == []
    assert HOSTILE.split("<")[0][-12:] in html.unescape(rendered).replace("\n", "")


def test_terminal_report_fits_into_80_columns(tmp_path: Path) -> None:
    rows = [("x" * 500, "long " * 200, "category " * 30), ("東京" * 100, "\n\n\n" * 50 + "z", "b")]
    report = make_report(measured_answers(tmp_path, rows).folder)
    assert max(len(line) for line in on_screen(report).splitlines()) <= 80


def test_first_line_of_the_score_names_a_red_judge_and_the_rest_of_the_reasons_is_in_the_table(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    add_judgements(answers, {0: score_fields(5, "exact"), 1: score_fields(5), 3: score_fields(5)})
    trust = trust_of("red", *(f"Reason {number}." for number in range(1, 7)))
    trust = trust.model_copy(update={"findings": (ControlFinding(kind="echo", n=8, right=1, mean=80),)})
    report = make_report(answers.folder).model_copy(update={"judge_verdict": trust})
    screen = on_screen(report)
    line = next(line for line in screen.splitlines() if line.startswith("Score "))
    assert "but the judge is red" in line
    assert "the task repeated under 80 1 of 8 80.0" in " ".join(screen.split())
    for text in (screen, as_markdown(report)):
        assert "Reason 3. The table of control items has the rest." in " ".join(text.split())
        assert "Reason 4" not in text
    assert "can be chance" not in screen


def test_responses_to_one_row_do_not_count_as_rows_of_the_corrected_rate(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [("yes", f"no {number}") for number in range(12)])
    records = [record.model_copy(update={"sample": k}) for record in answers.responses for k in range(4)]
    controls = {"control:reference": 5, "control:colon": 0, "control:echo": 0, "control:order": 0}
    lines = [
        judgement(id=f"{purpose} {number}", purpose=purpose, score=score, points=20 * score, source="judge")
        for purpose, score in controls.items()
        for number in range(8)
    ]
    add_judgements(answers, {number: score_fields(number % 6) for number in range(12)})
    with AppendOnly[JudgeLine | Judgement](answers.folder / LEDGER_FILE) as file:
        file.append(lines)
    one = make_report(answers.folder).corrected_rate
    (answers.folder / RESPONSES_FILE).write_text("\n".join(record.model_dump_json() for record in records) + "\n")
    write_metrics(read_answers(answers.folder))
    assert one is not None
    assert one.corrected is not None
    assert make_report(answers.folder).corrected_rate == one
