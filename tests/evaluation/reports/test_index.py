"""The index of many runs: what is compared with what, what is read and what is made again, and hostile names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from assistant.errors import DataError
from evaluation.answers.files import import_answers
from evaluation.answers.folder import RUN_FILE, AnswersFolder, read_answers
from evaluation.cli.reports import write_reports
from evaluation.judging.judgement import JudgeIdentity
from evaluation.judging.scoring import METRICS_FILE, write_metrics
from evaluation.reports.compare import compare_runs
from evaluation.reports.index import INDEX_FILE, Series, as_html, next_command, read_index
from tests.support.evaluation_command import evaluation
from tests.support.hostile import HOSTILE, check_is_inert
from tests.support.scored_answers import IDENTITY, add_judgements, score_fields

OTHER_JUDGE = IDENTITY.model_copy(update={"digest": "e" * 64})
RIGHT, WRONG = "yes", "no"


def make_run(folder: Path, day: int, responses: Sequence[str], *, name: str = "m") -> AnswersFolder:
    """Write the answers of a run on three rows. Its model is called `name`."""
    path = folder.parent / "data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"instruction": f"Task {n}", "output": RIGHT, "model_response": text} for n, text in enumerate(responses)]
    path.write_text(json.dumps(rows))
    import_answers(path, folder)
    path.unlink()
    info = json.loads((folder / RUN_FILE).read_text()) | {"created": f"2026-11-{day:02}T10:00:00Z", "name": name}
    (folder / RUN_FILE).write_text(json.dumps(info))
    answers = read_answers(folder)
    write_metrics(answers)
    return answers


def judge(answers: AnswersFolder, scores: Sequence[int], identity: JudgeIdentity = IDENTITY) -> None:
    add_judgements(answers, {index: score_fields(score) for index, score in enumerate(scores)}, identity)


def changes(series: Series) -> list[tuple[str, list[int], list[int]] | None]:
    """Return for each run: the run before, and the numbers of the fixed and of the regressed rows."""
    return [
        None
        if run.change is None
        else (
            run.change.before,
            [row.row for row in run.change.rows.fixed],
            [row.row for row in run.change.rows.regressed],
        )
        for run in series.runs
    ]


def test_rows_are_fixed_and_regressed_against_the_run_before(tmp_path: Path) -> None:
    make_run(tmp_path / "b", 2, [WRONG, RIGHT, RIGHT])
    make_run(tmp_path / "a", 1, [RIGHT, WRONG, WRONG])
    make_run(tmp_path / "c", 3, [WRONG, RIGHT, WRONG])
    (series,) = read_index(tmp_path, write_reports)
    assert [run.name for run in series.runs] == ["a", "b", "c"]
    assert changes(series) == [
        None,
        ("a", [2, 3], [1]),
        ("b", [], [3]),
    ]


def test_scores_of_other_judges_and_other_data_are_not_compared(tmp_path: Path) -> None:
    judge(make_run(tmp_path / "a", 1, [WRONG, WRONG, WRONG]), [3, 4, 5])
    judge(make_run(tmp_path / "b", 2, [WRONG, WRONG, WRONG]), [5, 5, 5], OTHER_JUDGE)
    judge(make_run(tmp_path / "c", 3, [WRONG, WRONG, WRONG]), [4, 3, 5])
    make_run(tmp_path / "d", 4, [RIGHT, RIGHT])
    newest, oldest = read_index(tmp_path, write_reports)
    assert changes(newest) == [None]
    assert changes(oldest) == [None, None, ("a", [1], [2])]
    (_, regraded) = read_index(tmp_path, write_reports, pass_mark=90)
    assert changes(regraded)[2] == ("a", [], [])


def test_row_without_a_score_is_neither_fixed_nor_regressed(tmp_path: Path) -> None:
    judge(make_run(tmp_path / "a", 1, [WRONG, WRONG, WRONG]), [0, 5])
    judge(make_run(tmp_path / "b", 2, [WRONG, WRONG, WRONG]), [5, 5, 0])
    assert changes(read_index(tmp_path, write_reports)[0])[1] == ("a", [1], [])


def test_fresh_reports_are_read_and_stale_ones_are_made_again(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 1, [RIGHT, WRONG, RIGHT]) for name in ("a", "b", "c")]
    for run in runs[:2]:
        write_reports(run.folder)
    later = (runs[1].folder / "report.json").stat().st_mtime + 10
    os.utime(runs[1].folder / METRICS_FILE, (later, later))
    made: list[str] = []

    def refresh(folder: Path) -> None:
        made.append(folder.name)
        write_reports(folder)

    read_index(tmp_path, refresh)
    assert made == ["b", "c"]


def test_run_without_scores_is_listed_with_the_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [RIGHT, WRONG, RIGHT])
    (tmp_path / "a" / METRICS_FILE).unlink()
    (series,) = read_index(tmp_path, write_reports)
    assert series.runs[0].report is None
    assert "Run: evaluation score" in (series.runs[0].fault or "")
    assert next_command([series])[0] == f"evaluation score {tmp_path / 'a'}"


def test_other_folders_are_passed_over_and_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / RUN_FILE).write_text("{}")
    (tmp_path / "model" / "responses.jsonl").write_text("")
    with pytest.raises(DataError, match="expected answers folders in it, got none"):
        read_index(tmp_path, write_reports)
    with pytest.raises(DataError, match="got no folder"):
        read_index(tmp_path / "missing", write_reports)


def test_hostile_names_are_inert_and_links_lead_to_the_reports(tmp_path: Path) -> None:
    names = ["javascript:alert(1)", "a b#c?d", "<img src=x>", "deeper"]
    for day, name in enumerate(names, start=1):
        make_run(tmp_path / name, day, [RIGHT, WRONG, RIGHT], name=HOSTILE.replace("\ud800", ""))
    page = check_is_inert(as_html(tmp_path, read_index(tmp_path, write_reports)))
    links = [attributes["href"] for attributes in page.attributes("a")]
    assert links == [
        "./deeper/report.html",
        "./%3Cimg%20src%3Dx%3E/report.html",
        "./a%20b%23c%3Fd/report.html",
        "./javascript%3Aalert%281%29/report.html",
    ]
    assert "</script><script>" in "".join(page.texts["td"])


def test_command_writes_an_index_and_shows_the_table(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [RIGHT, WRONG, WRONG])
    make_run(tmp_path / "b", 2, [WRONG, RIGHT, RIGHT])
    result = evaluation("runs", tmp_path)
    assert result.code == 0
    assert result.out.splitlines()[-1] == f"  evaluation compare {tmp_path / 'a'} {tmp_path / 'b'}"
    assert max(map(len, result.out.splitlines()[:-2])) <= 80
    assert (tmp_path / INDEX_FILE).read_text().startswith("<!doctype html>")
    values = evaluation("runs", tmp_path, "--json").json["runs"]
    assert [(value["run"], value["fixed"], value["regressed"]) for value in values] == [
        (str(tmp_path / "a"), None, None),
        (str(tmp_path / "b"), 2, 1),
    ]
    assert [(row["row"], row["second_score"]) for row in values[1]["fixed_rows"]] == [(2, 100), (3, 100)]
    assert [(row["row"], row["second_score"]) for row in values[1]["regressed_rows"]] == [(1, 0)]
    (tmp_path / INDEX_FILE).write_text("<p>mine")
    assert "expected a name for a new file" in evaluation("runs", tmp_path).error


def test_next_command_compares_only_runs_with_the_same_judge(tmp_path: Path) -> None:
    for day, (name, identity) in enumerate((("a", IDENTITY), ("b", OTHER_JUDGE), ("c", IDENTITY)), start=1):
        judge(make_run(tmp_path / name, day, [RIGHT, WRONG]), [5, 1], identity)
    command, _ = next_command(read_index(tmp_path, write_reports))
    assert command == f"evaluation compare {tmp_path / 'a'} {tmp_path / 'c'}"


def test_score_of_a_red_judge_has_a_question_mark(tmp_path: Path) -> None:
    for day, name in enumerate(("red", "untested"), start=1):
        answers = make_run(tmp_path / name, day, [str(n) for n in range(12)])
        judge(answers, [5] * 12 if name == "red" else [5, 1] * 6)
    out = evaluation("runs", tmp_path).out
    assert out.count("100.0?") == 1
    assert "by a red judge: do not rely on it" in out
    assert "100.0?" in (tmp_path / INDEX_FILE).read_text()
    assert "60.0?" not in out


def test_page_lists_the_rows_that_changed_and_links_them_to_the_report(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [RIGHT, WRONG, WRONG])
    run = make_run(tmp_path / "b", 2, [WRONG, RIGHT, RIGHT])
    page = check_is_inert(as_html(tmp_path, read_index(tmp_path, write_reports)))
    assert page.texts["summary"] == ["b against a: 2 fixed, 1 regressed"]
    cells = [text for text in page.texts["td"] if text.startswith(("Task", "0 →", "100 →"))]
    assert cells == ["100 → 0", "Task 0 ", "0 → 100", "Task 1 ", "0 → 100", "Task 2 "]
    links = [attributes["href"] for attributes in page.attributes("a")]
    first = run.responses[0].id
    assert f"./b/report.html#text={first}&open={first}" in links


def test_index_and_comparison_list_the_same_rows_with_several_responses_and_any_pass_mark(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, day, [WRONG] * 3) for day, name in enumerate(("a", "b"), start=1)]
    for run, scores in zip(runs, ([3, 4, 1], [4, 3, 5]), strict=True):
        first, *others = run.responses
        lines = [first, first.model_copy(update={"sample": 1, "response": "never"}), *others]
        (run.folder / "responses.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in lines))
        answers = read_answers(run.folder)
        write_metrics(answers)
        judge(answers, [scores[0], *scores])  # both responses to the first row have its score
    for mark in (70, 90):
        pair = compare_runs([run.folder for run in runs], pass_mark=mark).comparisons[0]
        change = read_index(tmp_path, write_reports, pass_mark=mark)[0].runs[1].change
        assert change is not None
        assert (change.rows.fixed, change.rows.regressed) == (pair.fixed, pair.regressed)
        assert len(pair.fixed) == {70: 2, 90: 1}[mark]


def test_trend_has_a_line_for_each_judge(tmp_path: Path) -> None:
    for day, (name, identity) in enumerate((("a", IDENTITY), ("b", OTHER_JUDGE), ("c", IDENTITY)), start=1):
        judge(make_run(tmp_path / name, day, [RIGHT, WRONG]), [5, 1], identity)
    page = as_html(tmp_path, read_index(tmp_path, write_reports))
    assert page.count("<polyline") == 2
    model = IDENTITY.model
    names = re.findall(rf'<text class="label"[^>]*>({model} \([0-9a-f]{{8}}\))</text>', page)
    assert len(set(names)) == 2  # judges with equal names are told apart
