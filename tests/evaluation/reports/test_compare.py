"""Runs against each other on the same rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from assistant.errors import DataError, SettingsError
from evaluation.answers.folder import RESPONSES_FILE, read_answers
from evaluation.judging.scoring import write_metrics
from evaluation.reports import compare
from evaluation.reports.compare import compare_runs
from evaluation.reports.report import make_report
from tests.support.evaluation_command import evaluation
from tests.support.scored_answers import IDENTITY, add_judgements, measured_answers, score_fields


def judged(folder: Path, scores: Sequence[int | None], *, digest: str = "d", start: int = 0) -> Path:
    """Write a run whose rows have these scores from 0 to 5; the row has no score where there is None."""
    folder.mkdir()
    answers = measured_answers(folder, [(f"reference {start + i}", f"{folder.name} {i}") for i in range(len(scores))])
    fields = {i: {"unscored": "timeout"} if score is None else score_fields(score) for i, score in enumerate(scores)}
    add_judgements(answers, fields, IDENTITY.model_copy(update={"digest": digest * 64}))
    return answers.folder


def test_clear_gain_is_called_better_and_the_other_way_round_worse(tmp_path: Path) -> None:
    first, second = judged(tmp_path / "a", [2, 3] * 15), judged(tmp_path / "b", [3, 4] * 14 + [1, 2])
    pair = compare_runs([first, second]).comparisons[0]
    assert (pair.score.wins, pair.score.ties, pair.score.losses) == (28, 0, 2)
    assert pair.score.mean == pytest.approx(20 * 26 / 30, abs=1e-3)
    assert pair.score.verdict == "better"
    assert pair.sentence.startswith(f"{second} is better than {first}, and that is more than noise (+17.3 points")
    assert (len(pair.fixed), len(pair.regressed)) == (14, 0)
    back = compare_runs([second, first]).comparisons[0]
    assert (back.score.verdict, back.score.wins, len(back.regressed)) == ("worse", 2, 14)


def test_small_difference_is_called_noise_with_what_the_rows_can_show(tmp_path: Path) -> None:
    first, second = judged(tmp_path / "a", [2, 3, 4, 5] * 3), judged(tmp_path / "b", [3, 2, 5, 4] * 2 + [3, 4, 4, 5])
    pair = compare_runs([first, second]).comparisons[0]
    assert pair.score.verdict == "noise"
    assert "may be noise" in pair.sentence
    assert pair.score.smallest_difference is not None
    assert f"about {pair.score.smallest_difference:.1f} points or more" in pair.sentence


def test_equal_runs_are_the_same(tmp_path: Path) -> None:
    pair = compare_runs([judged(tmp_path / "a", [2, 3, 4]), judged(tmp_path / "b", [2, 3, 4])]).comparisons[0]
    assert (pair.score.verdict, pair.score.p_value) == ("same", 1)
    assert pair.score.interval is not None
    assert pair.score.interval.low < 0 < pair.score.interval.high  # three equal rows do not show equal models
    assert "same score on every one of 3 rows" in pair.sentence


def test_changed_rows_keep_their_numbers_beside_a_long_instruction(tmp_path: Path) -> None:
    for name, response in (("a", "No."), ("b", "Yes.")):
        row = {"instruction": "A very long task. " * 20, "output": "Yes.", "model_response": response}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([row]))
        evaluation("score", path, "--run", tmp_path / name)
    out = evaluation("compare", tmp_path / "a", tmp_path / "b").out
    assert "  row 1  0 -> 100  A very long task." in out
    assert "No judge has scored these runs" in out


def test_answer_by_a_red_judge_says_so(tmp_path: Path) -> None:
    runs = [judged(tmp_path / name, [score] * 12) for name, score in (("a", 2), ("b", 5))]  # always the same
    pair = compare_runs(runs).comparisons[0]
    assert pair.sentence.endswith("But the judge is red: do not rely on this answer.")
    assert [run.judge_verdict for run in compare_runs(runs).runs] == ["red", "red"]


def test_score_of_a_row_with_several_responses_is_their_mean_as_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    answers = measured_answers(folder, [("yes", "yes"), ("no", "maybe")])
    first, last = answers.responses
    second = first.model_copy(update={"sample": 1, "response": "never"})
    lines = [record.model_dump_json() for record in (first, second, last)]
    (answers.folder / RESPONSES_FILE).write_text("\n".join(lines) + "\n")
    write_metrics(read_answers(answers.folder))
    other = tmp_path / "other"
    shutil.copytree(answers.folder, other)
    pair = compare_runs([answers.folder, other]).comparisons[0]
    assert pair.score.first_mean == make_report(answers.folder).mean == 25
    assert pair.score.n == 2


def test_rows_are_paired_by_id_and_the_rest_is_counted(tmp_path: Path) -> None:
    first = judged(tmp_path / "a", [5, None, 1, 4])
    lines = (first / RESPONSES_FILE).read_text().splitlines()
    second = judged(tmp_path / "b", [5, 5, 0])
    (second / RESPONSES_FILE).write_text("\n".join(reversed((second / RESPONSES_FILE).read_text().splitlines())) + "\n")
    pair = compare_runs([first, second]).comparisons[0]
    assert len(lines) == 4
    assert (pair.shared, pair.only_first, pair.only_second, pair.unscored, pair.score.n) == (3, 1, 0, 1, 2)
    assert (pair.score.first_mean, pair.score.second_mean) == (60, 50)


def test_runs_without_common_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows that .* has a score for too, got none"):
        compare_runs([judged(tmp_path / "a", [5]), judged(tmp_path / "b", [5], start=50)])


def test_different_judges_are_refused_unless_told(tmp_path: Path) -> None:
    folders = [judged(tmp_path / "a", [5, 1]), judged(tmp_path / "b", [4, 2], digest="e")]
    with pytest.raises(SettingsError, match="--different-judges"):
        compare_runs(folders)
    assert any("different judges" in note for note in compare_runs(folders, different_judges=True).notes)


def test_judged_and_unjudged_runs_are_never_compared(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    unjudged = measured_answers(tmp_path / "b", [("reference 0", "x")]).folder
    with pytest.raises(SettingsError, match=r"evaluation score .* --judge m"):
        compare_runs([judged(tmp_path / "a", [5]), unjudged], different_judges=True)


def test_one_run_or_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    run = judged(tmp_path / "a", [5])
    with pytest.raises(SettingsError, match="two or more"):
        compare_runs([run])
    with pytest.raises(SettingsError, match="same folder twice"):
        compare_runs([run, run])


def test_several_runs_are_adjusted_by_holm(tmp_path: Path) -> None:
    base = judged(tmp_path / "a", [2] * 12)
    others = [judged(tmp_path / name, [3] * n + [2] * (12 - n)) for name, n in (("b", 6), ("c", 7))]
    alone = compare_runs([base, others[0]]).comparisons[0].score
    both = [pair.score for pair in compare_runs([base, *others]).comparisons]
    assert alone.p_value == alone.adjusted_p_value == pytest.approx(1 / 2**6)
    assert both[1].adjusted_p_value == pytest.approx(2 * 1 / 2**7)
    assert [score.verdict for score in both] == ["better", "better"]
    assert both[0].adjusted_p_value == pytest.approx(1 / 2**6)


def test_bits_per_byte_decide_where_scores_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = judged(tmp_path / "a", [2, 3] * 10), judged(tmp_path / "b", [3, 2] * 10)
    read = compare._read_run

    def with_bits(folder: Path, pass_mark: float) -> compare._Run:
        run = read(folder, pass_mark)
        less = 0.1 if folder == second else 0.0
        bits = {row_id: 1.0 + 0.01 * i - less for i, row_id in enumerate(run.records)}
        return compare._Run(info=run.info, records=run.records, scores=run.scores, bits=bits)

    assert compare_runs([first, second]).comparisons[0].bits_per_byte is None
    monkeypatch.setattr(compare, "_read_run", with_bits)
    pair = compare_runs([first, second]).comparisons[0]
    assert pair.bits_per_byte is not None
    assert (pair.bits_per_byte.verdict, pair.bits_per_byte.wins) == ("better", 20)
    assert "holds the references more likely" in pair.sentence


def test_command_shows_the_sentence_last_and_escapes_hostile_rows(tmp_path: Path) -> None:
    first, second = judged(tmp_path / "a", [1] * 12), judged(tmp_path / "b", [5] * 12)
    for folder in (first, second):
        text = (folder / RESPONSES_FILE).read_text()
        (folder / RESPONSES_FILE).write_text(text.replace("Task 1.", "\\u001b[31mred [bold]"))
    result = evaluation("compare", first, second)
    assert result.code == 0
    assert "more than noise" in " ".join(result.out.split())[-250:]
    assert "\x1b[31m" not in result.out
    assert "[bold]" in result.out
    value = evaluation("compare", first, second, "--json").json
    assert value["comparisons"][0]["score"]["verdict"] == "better"
    assert len(value["comparisons"][0]["fixed"]) == 12
    assert json.dumps(value)


def test_pass_mark_decides_which_rows_are_fixed(tmp_path: Path) -> None:
    first, second = judged(tmp_path / "a", [2, 3, 5, 1]), judged(tmp_path / "b", [3, 4, 4, 1])
    counts = {}
    for mark in (60, 80, 90):
        value = evaluation("compare", first, second, "--pass-mark", mark, "--json").json
        pair = value["comparisons"][0]
        counts[mark] = (len(pair["fixed"]), len(pair["regressed"]))
        assert value["pass_mark"] == mark
    assert counts == {60: (1, 0), 80: (1, 0), 90: (0, 1)}
    assert evaluation("compare", first, second, "--json").json["pass_mark"] == 80
