"""The report's figures, what it says where data are missing, and how it shows hostile text."""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from assistant.errors import DataError
from assistant.escape import visible
from assistant.jsonl import AppendOnly
from evaluation.escape import encodable, markdown, shorten
from evaluation.judgement import JudgeIdentity
from evaluation.ledger import JudgeLine, Judgement, now
from evaluation.render import as_markdown, terminal
from evaluation.report import Report, make_report, write_report
from evaluation.responses import RESPONSES_FILE, ResponseRecord, Run, import_answers, read_run
from evaluation.scoring import LEDGER_FILE, ceiling_sample, write_metrics
from tests.conftest import shared_file

IDENTITY = JudgeIdentity(model="m", digest="d" * 64, server_version="1", client_version="2", options={}, rubric="r")


def make_run(folder: Path, rows: Sequence[tuple[str, str] | tuple[str, str, str]]) -> Run:
    """A scored run of (reference, response) or (reference, response, category)."""
    values = [
        {"instruction": f"Task {number}.", "output": row[0], "model_response": row[1]}
        | ({"category": row[2]} if len(row) == 3 else {})
        for number, row in enumerate(rows, start=1)
    ]
    path = folder / "answers.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    import_answers(path, folder / "run")
    run = read_run(folder / "run")
    write_metrics(run)
    return run


def judge_rows(run: Run, outcomes: dict[int, dict[str, Any]], identity: JudgeIdentity = IDENTITY) -> None:
    """Put judgements into the ledger, by index of the row."""
    line = JudgeLine(fingerprint=identity.fingerprint, identity=identity, url="http://127.0.0.1:1", created=now())
    lines: list[JudgeLine | Judgement] = [line]
    for index, fields in outcomes.items():
        record = run.responses[index]
        known = {"id": record.id, "response_hash": record.response_hash, "fingerprint": identity.fingerprint}
        lines.append(Judgement.model_validate(known | {"created": now()} | fields))
    with AppendOnly[JudgeLine | Judgement](run.folder / LEDGER_FILE) as file:
        file.append(lines)


def scored(score: int, source: str = "judge", **fields: Any) -> dict[str, Any]:
    return {"score": score, "source": source} | fields


def on_screen(report: Report, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(terminal(report))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


FOUR = [("Paris.", "\nParis."), ("4", "five"), ("Blue.", ""), ("A long answer.", "A long answer, nearly.")]


# --- figures ------------------------------------------------------------------------------------------------------


def test_without_a_judge_the_score_is_the_rate_of_exact_matches(tmp_path: Path) -> None:
    report = make_report(make_run(tmp_path, FOUR).folder)
    assert (report.score, report.n, report.scored, report.mean) == ("exact", 4, 4, 25.0)
    assert report.exact_matches == 1
    assert report.interval == pytest.approx((4.56, 69.94), abs=0.01)  # Wilson for 1 of 4
    assert report.unscored == {}
    assert report.judge is None
    assert any("No judge was asked" in note for note in report.notes)


def test_the_books_file(tmp_path: Path) -> None:
    import_answers(shared_file("data/book-responses.json"), tmp_path)
    write_metrics(read_run(tmp_path))
    report = make_report(tmp_path)
    assert (report.n, report.exact_matches, report.mean) == (110, 17, pytest.approx(100 * 17 / 110, abs=1e-3))
    assert report.interval == pytest.approx((9.88, 23.36), abs=0.01)
    assert report.metrics["exact"].mean == report.mean
    low, high = report.metrics["f1"].interval or (0, 0)
    assert low < (report.metrics["f1"].mean or 0) < high
    assert len(report.worst) == 10
    assert make_report(tmp_path) == report


def test_with_a_judge_the_score_is_its_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    judge_rows(run, {0: scored(5, "exact"), 1: scored(0), 2: scored(0, "empty"), 3: scored(4)})
    report = make_report(run.folder)
    assert (report.score, report.mean, report.scored) == ("judge", 45.0, 4)
    assert report.sources == {"exact": 1, "judge": 2, "empty": 1}
    assert report.bounds is not None
    assert (report.bounds.low, report.bounds.high) == (45, 45)
    assert report.interval is not None
    assert report.interval.low < 45 < report.interval.high
    assert report.standard_deviation == pytest.approx(math.sqrt((55**2 + 45**2 + 45**2 + 35**2) / 3), abs=1e-3)
    assert report.judge is not None
    assert (report.judge.model, report.judge.judge_fingerprint) == ("m", IDENTITY.fingerprint)


def test_a_row_without_a_score_is_left_out_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    judge_rows(run, {0: scored(5, "exact"), 1: {"unscored": "timeout", "final": False}, 3: scored(4)})
    report = make_report(run.folder)
    assert report.unscored == {"not_judged": 1, "timeout": 1}
    assert report.scored + sum(report.unscored.values()) == report.n == 4
    assert report.mean == 90
    assert report.bounds is not None
    assert (report.bounds.low, report.bounds.high) == (45, 95)
    assert any("from 45.0 to 95.0" in note for note in report.notes)
    assert any("leans upward" in note for note in report.notes)


def test_a_judge_that_scored_nothing_does_not_make_exact_matches_the_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    judge_rows(run, {0: scored(5, "exact"), 1: {"unscored": "unreachable", "final": False}})
    report = make_report(run.folder)
    assert (report.score, report.mean) == ("exact", 25.0)
    assert any("The judge m scored no row" in note for note in report.notes)


def test_judges_are_not_mixed(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR[:2])
    judge_rows(run, {0: scored(5, "exact"), 1: scored(5)})
    newer = IDENTITY.model_copy(update={"digest": "e" * 64})
    judge_rows(run, {0: scored(5, "exact"), 1: scored(1)}, newer)
    report = make_report(run.folder)
    assert report.mean == 60
    assert report.judge is not None
    assert (report.judge.judge_fingerprint, report.judge.other_judges) == (newer.fingerprint, 1)
    assert any("1 other judge" in note for note in report.notes)


def test_a_score_of_another_response_is_not_taken(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR[:2])
    judge_rows(run, {0: scored(5, "exact"), 1: scored(5, response_hash="0" * 16)})
    assert make_report(run.folder).mean == 50  # exact matches: no verdict for this response


def test_rows_that_were_not_answered_have_no_score(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    lines = (run.folder / RESPONSES_FILE).read_text().splitlines()
    refused = json.loads(lines[1]) | {"response": None, "error": "too long"}
    (run.folder / RESPONSES_FILE).write_text("\n".join([lines[0], json.dumps(refused), lines[2]]) + "\n")
    write_metrics(read_run(run.folder))
    report = make_report(run.folder)
    assert (report.n, report.scored, report.unanswered) == (4, 2, 1)
    assert report.unscored == {"no_response": 2}
    assert report.mean == 50
    assert any("1 of 4 rows are not answered yet" in note for note in report.notes)


def test_no_score_at_all_is_null_and_not_0(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR[:1])
    line = json.loads((run.folder / RESPONSES_FILE).read_text()) | {"response": None, "error": "too long"}
    (run.folder / RESPONSES_FILE).write_text(json.dumps(line) + "\n")
    write_metrics(read_run(run.folder))
    report = make_report(run.folder)
    assert (report.mean, report.interval, report.standard_deviation, report.smallest_difference) == (None,) * 4
    assert report.metrics["chrf"].mean is None
    assert "n/a" in on_screen(report)
    assert "**Score n/a of 100" in as_markdown(report)
    assert '"mean": null' in report.model_dump_json(indent=1)


def test_responses_that_came_after_the_scores_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    (run.folder / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match=r"all 4 responses, got none for 1 of them\. Run: evaluation score"):
        make_report(run.folder)


def test_categories_stand_beside_each_other_with_their_own_interval(tmp_path: Path) -> None:
    rows = [("1", "1", "sums"), ("2", "2", "sums"), ("3", "4", "sums"), ("a", "b", "letters"), ("c", "c")]
    report = make_report(make_run(tmp_path, rows).folder)
    assert [(found.name, found.rows, found.n, found.exact_matches) for found in report.categories] == [
        ("letters", 1, 1, 0),
        ("sums", 3, 3, 2),
        (None, 1, 1, 1),
    ]
    assert report.categories[1].mean == pytest.approx(66.667, abs=1e-3)
    assert report.categories[1].interval is not None
    screen = on_screen(report)
    assert "letters" in screen
    assert "(none)" in screen
    assert make_report(make_run(tmp_path / "run", FOUR).folder).categories == ()


def test_a_bootstrap_of_few_rows_is_told_or_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, [("x", f"y{number}", "small" if number < 3 else "large") for number in range(14)])
    judge_rows(run, {number: scored(number % 6) for number in range(14)})
    report = make_report(run.folder)
    assert [(found.name, found.interval is None) for found in report.categories] == [("large", False), ("small", True)]
    assert "No interval below 10 rows." in on_screen(report)
    assert "No interval below 10 rows." in as_markdown(report)
    assert not any("too narrow" in note for note in report.notes)
    few = make_run(tmp_path / "run", FOUR)
    judge_rows(few, {0: scored(5, "exact"), 1: scored(0), 2: scored(0, "empty"), 3: scored(4)})
    assert any("Only 4 rows have a score" in note for note in make_report(few.folder).notes)


def test_the_ceiling_check_is_no_part_of_the_mean(tmp_path: Path) -> None:
    run = make_run(tmp_path, [("x", "x")] * 15 + [("x", "y")])
    sample = ceiling_sample(run)
    assert len(sample) == 2
    assert sample == ceiling_sample(run)
    settled = {index: scored(5, "exact") for index in range(15)} | {15: scored(1)}
    judge_rows(run, settled)
    places = [run.responses.index(record) for record in sample]
    judge_rows(run, {places[0]: scored(4, purpose="ceiling"), places[1]: scored(2, purpose="ceiling")})
    report = make_report(run.folder)
    assert report.mean == (15 * 100 + 20) / 16
    assert report.ceiling is not None
    assert report.ceiling.model_dump() == {"rows": 2, "judged": 2, "mean": 60, "lowest": 40}
    assert any("gave 2 exact matches 60 on average" in note for note in report.notes)


def test_the_worst_rows_come_first_with_the_judges_reasons(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    judge_rows(
        run,
        {
            0: scored(5, "exact"),
            1: scored(2, analysis="Wrong sum."),
            2: scored(0, "empty"),
            3: scored(1, analysis="Eh."),
        },
    )
    worst = make_report(run.folder).worst
    assert [(row.row, row.score, row.analysis) for row in worst] == [
        (3, 0, None),
        (4, 20, "Eh."),
        (2, 40, "Wrong sum."),
    ]


def test_stop_reasons_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    records = [record.model_copy(update={"stop_reason": "length"}) for record in run.responses[:3]]
    lines = [record.model_dump_json() for record in [*records, run.responses[3]]]
    (run.folder / RESPONSES_FILE).write_text("\n".join(lines) + "\n")
    report = make_report(run.folder)
    assert report.stop_reasons == {"length": 3}
    assert any("3 responses were cut at the token limit" in note for note in report.notes)


def test_what_is_written_is_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, FOUR)
    report = make_report(run.folder)
    write_report(run.folder, report, as_markdown(report))
    written = json.loads((run.folder / "report.json").read_text())
    assert Report.model_validate(written) == report
    assert written["interval"] == list(report.interval or ())
    assert (run.folder / "report.md").read_text().startswith("# answers.json, 4 rows\n")


# --- showing ------------------------------------------------------------------------------------------------------

HOSTILE = (
    "\x1b[31mred\x1b]8;;http://x\x07 \r\x9b2J \u202eabc\u2066 | a `b` **c** [d](javascript:e) "
    "<img src=x> &lt; [bold]f[/]"
)


def test_hostile_text_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    run = make_run(tmp_path, [("x", HOSTILE, HOSTILE + " category"), ("y", "y", "b")])
    report = make_report(run.folder)
    screen = on_screen(report, width=300)
    assert not [c for c in screen if unicodedata.category(c) in {"Cc", "Cf"} and c != "\n"]
    assert "␛[31mred" in screen
    assert "\\u202eabc" in screen
    assert "[bold]f[/]" in screen
    page = as_markdown(report)
    assert not [c for c in page if unicodedata.category(c) in {"Cc", "Cf"} and c != "\n"]
    assert "<img" not in page
    rendered = MarkdownIt("commonmark").enable("table").render(page)
    assert re.findall(r"<(?!/?(?:h[12]|p|strong|ul|li|table|thead|tbody|tr|t[hd]))[^>]*>", rendered) == []
    assert HOSTILE.split("<")[0][-12:] in html.unescape(rendered).replace("\n", "")


def test_the_screen_fits_into_80_columns(tmp_path: Path) -> None:
    rows = [("x" * 500, "long " * 200, "category " * 30), ("東京" * 100, "\n\n\n" * 50 + "z", "b")]
    report = make_report(make_run(tmp_path, rows).folder)
    assert max(len(line) for line in on_screen(report).splitlines()) <= 80


@given(st.text())
def test_visible_text_is_one_line_without_control_characters(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not [c for c in shown if unicodedata.category(c) == "Cf" and c not in "\u200c\u200d"]
    assert visible(shown) == shown


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert encodable(text) == text


@given(st.text(st.characters(codec=None)))
def test_encodable_text_can_be_written(text: str) -> None:
    assert encodable(text).encode("utf-8").decode("utf-8") == encodable(text)


tricky = st.text(
    alphabet=st.sampled_from("ab \\`*_[]()<>|~#!&;$@:/.-+=1\n\t\r\x1b\u202e\"'wW") | st.characters(codec="utf-8")
)


@given(tricky | st.sampled_from(["www.example.com", "HTTP://a.b", "a@b.c", "https://x.y/z", "&amp;", "&#60;b&#62;"]))
def test_markdown_shows_a_cell_letter_by_letter(text: str) -> None:
    page = f"| a | b |\n| --- | --- |\n| x{markdown(text)}x | end |\n"
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    rendered = parser.render(page)
    cells = re.findall(r"<td>(.*?)</td>", rendered, flags=re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == [f"x{visible(text)}x".strip(), "end"]
    assert "<" not in cells[0]
    assert not re.search(r"://|www\.|@", markdown(text), flags=re.IGNORECASE)


@given(st.text(), st.integers(0, 30))
def test_shortened_text_is_as_long_as_allowed(text: str, length: int) -> None:
    short = shorten(text, length)
    assert len(short) <= max(length, 1)
    assert short == text or short.endswith("…")


def test_a_record_of_a_response_is_hashed_by_its_text() -> None:
    record = ResponseRecord(id="a", source="s", row=1, instruction="i", reference="r", response="x")
    assert record.response_hash != record.model_copy(update={"response": "y"}).response_hash
