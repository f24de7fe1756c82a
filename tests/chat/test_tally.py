"""The tally: which rows count, what the verdict says and when, and an independent count by evaluation."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from assistant.chat.conversation import Conversation, from_records
from assistant.chat.records import AnswerKey, Chosen, Record
from assistant.chat.tally import Choices, p_in_words, same_answers_in_a_row, tally
from evaluation.answers.files import import_answers
from evaluation.answers.folder import read_answers
from evaluation.judging.scoring import write_metrics
from evaluation.reports.compare import compare_runs
from evaluation.reports.report import make_report
from tests.support.chat_rows import RIGHT, WRONG, answered, asked, at, run_of, run_row

BETTER, WORSE, BOTH, NEITHER = (True, False), (False, True), (True, True), (False, False)


def pair(turn: int, tuned: str, base: str, *, row: str | None = None, **fields: Any) -> list[Record]:
    """A turn that both models answered."""
    question = asked(turn, **({"row": row} if row else {}), **fields)
    return [question, answered(turn, "tuned", tuned), answered(turn, "base", base)]


def counts(conversation: Conversation) -> tuple[int, ...]:
    """n, tuned right, base right, both, neither, only tuned, only base."""
    t = tally(conversation)
    return t.n, t.tuned_right, t.base_right, t.both, t.neither, t.only_tuned, t.only_base


# --- which rows count ---------------------------------------------------------------------------------------------


def test_rows_of_turns_and_of_background_runs_count_by_the_models_that_were_right() -> None:
    conversation = from_records(
        [
            *pair(0, " yes\n", "yes", row="a"),
            *pair(1, "yes", "Yes", row="b"),
            *pair(2, "my own question", "yes"),
            run_row("c", WRONG, RIGHT, second=40),
            run_row("d", "", WRONG, second=41),
        ]
    )
    assert counts(conversation) == (4, 2, 2, 1, 1, 1, 1)


def test_a_row_counts_once_with_its_first_answers() -> None:
    conversation = from_records(
        [
            *pair(0, WRONG, WRONG, row="a"),
            *pair(1, RIGHT, WRONG, row="a"),
            answered(0, "tuned", RIGHT, variant=1),
            run_row("a", RIGHT, WRONG, second=1000),
            run_row("b", RIGHT, WRONG, second=1001),
            run_row("b", WRONG, WRONG, second=1002),
        ]
    )
    assert counts(conversation) == (2, 1, 0, 0, 1, 1, 0)


def test_a_run_before_a_turn_comes_first_though_the_file_lists_it_later() -> None:
    turn = pair(3, RIGHT, WRONG, row="a")
    before = run_row("a", WRONG, WRONG, second=5)
    filler = [record for number in range(3) for record in pair(number, "x", "x")]
    assert counts(from_records([*filler, *turn, before]))[1] == 0


@pytest.mark.parametrize(
    "fields", [{"stop_reason": "cancelled"}, {"n_forced": 2}, {"variant": 1}], ids=["stopped", "forced", "variant"]
)
def test_answers_that_are_no_first_answers_of_the_model_itself_do_not_count(fields: dict[str, Any]) -> None:
    records: list[Record] = [asked(0, row="a"), answered(0, "tuned", RIGHT), answered(0, "base", WRONG, **fields)]
    result = tally(from_records(records))
    assert (result.n, result.alone) == (0, 1)
    records = [asked(0, row="a"), answered(0, "tuned", RIGHT, **fields), answered(0, "base", WRONG)]
    assert (tally(from_records(records)).n, tally(from_records(records)).alone) == (0, 0)


def test_an_open_blind_choice_does_not_count_because_the_tally_would_give_it_away() -> None:
    records = pair(0, RIGHT, WRONG, row="a", left="base")
    assert tally(from_records(records)).parts == ()
    chosen = Chosen(at=at(50), turn=0, chosen=AnswerKey(0, "tuned", 0), rejected=AnswerKey(0, "base", 0), blind=True)
    assert counts(from_records([*records, chosen]))[:3] == (1, 1, 0)


def test_rows_without_a_base_are_counted_alone() -> None:
    conversation = from_records([run_row("a", RIGHT, None), run_row("b", WRONG, None), *pair(0, RIGHT, RIGHT, row="b")])
    result = tally(conversation)
    assert (result.n, result.alone, result.alone_right) == (1, 1, 1)
    assert tally(from_records([run_row("a", RIGHT, None)])).sentence == "1 held-out row · 1 ✓"
    assert tally(Conversation()).sentence == ""


def test_times_with_and_without_a_zone_can_be_in_one_file() -> None:
    naive = run_row("b", RIGHT, WRONG).model_copy(update={"at": datetime(2026, 1, 1)})
    assert tally(from_records([run_row("a", RIGHT, WRONG), naive])).n == 2


# --- the verdict --------------------------------------------------------------------------------------------------


def test_the_verdict_appears_at_20_rows_and_stays_until_50() -> None:
    rows = [BETTER] * 10 + [NEITHER] * 10
    assert tally(run_of(rows[:12])).sentence == "12 held-out rows · tuned 10 ✓ · base 0 ✓ → verdict after 20 rows"
    at_20 = tally(run_of(rows))
    p_value = 4 * binomtest(10, 10).pvalue
    assert at_20.verdict.p_value == pytest.approx(p_value)
    assert at_20.sentence == f"20 held-out rows · tuned 10 ✓ · base 0 ✓ → better, p = {p_value:.3f}"
    at_49 = tally(run_of([*rows, *[WORSE] * 29]))
    assert at_49.verdict == at_20.verdict
    assert at_49.sentence == f"49 held-out rows · tuned 10 ✓ · base 29 ✓ → better, p = {p_value:.3f} (first 20 rows)"
    at_50 = tally(run_of([*rows, *[WORSE] * 30]))
    assert (at_50.verdict.n, at_50.verdict.next_look, at_50.verdict.finding) == (50, 100, "worse")
    assert at_50.verdict.words.startswith("worse, p = 0.0")


@pytest.mark.parametrize(("n_better", "finding"), [(7, "unclear"), (8, "better")])
def test_five_percent_decide_after_the_adjustment_for_all_looks(n_better: int, finding: str) -> None:
    assert binomtest(7, 7).pvalue < 0.05
    verdict = tally(run_of([BETTER] * n_better + [BOTH] * (20 - n_better))).verdict
    assert verdict.finding == finding
    assert verdict.words == ("cannot be told apart yet" if finding == "unclear" else "better, p = 0.03")


def test_equal_models_cannot_be_told_apart() -> None:
    verdict = tally(run_of([BOTH, NEITHER] * 25)).verdict
    assert (verdict.words, verdict.p_value, verdict.n) == ("cannot be told apart yet", 1.0, 50)


@pytest.mark.parametrize(
    ("p_value", "words"), [(0.0499, "p = 0.05"), (0.02, "p = 0.02"), (0.0031, "p = 0.003"), (1e-9, "p < 0.001")]
)
def test_p_values_in_words(p_value: float, words: str) -> None:
    assert p_in_words(p_value) == words


# --- choices ------------------------------------------------------------------------------------------------------


def chosen(turn: int, side: str | None, *, blind: bool, against: str = "") -> Chosen:
    other = against or ("base" if side == "tuned" else "tuned")
    keys: dict[str, Any] = {"chosen": None, "rejected": None}
    if side:
        keys = {"chosen": (turn, side, 1), "rejected": (turn, other, 0)}
    return Chosen.model_validate({"at": at(900), "turn": turn, "blind": blind} | keys)


def test_choices_count_by_side() -> None:
    turns = [record for number in range(5) for record in pair(number, "a", "b")]
    choices = [
        chosen(0, "tuned", blind=True),
        chosen(1, "base", blind=True),
        chosen(2, "tuned", blind=False),
        chosen(3, None, blind=True),
        chosen(4, "tuned", blind=False, against="tuned"),
    ]
    result = tally(from_records([*turns, *choices]))
    assert result.choices == Choices(tuned=2, base=1, ties=1)
    assert result.choices.words == "you preferred tuned 2, base 1, 1 tie"
    assert (Choices().words, result.n) == ("", 0)


# --- identical answers --------------------------------------------------------------------------------------------


def test_five_identical_answers_in_a_row_are_named() -> None:
    records = [*pair(0, "a", "b"), *(record for turn in range(1, 5) for record in pair(turn, f"a{turn}", f"a{turn}"))]
    assert same_answers_in_a_row(from_records(records)) is None
    records += pair(5, "x", "x")
    sentence = same_answers_in_a_row(from_records(records))
    assert sentence == "5 identical answers in a row: training changed nothing here"
    records += [asked(6), answered(6, "tuned", "only one side")]
    assert same_answers_in_a_row(from_records(records)) == sentence
    assert same_answers_in_a_row(from_records([*records, *pair(7, "x", "x ")])) is None
    assert same_answers_in_a_row(Conversation()) is None


# --- evaluation's count -------------------------------------------------------------------------------------------


def test_the_tally_equals_evaluation_s_count(tmp_path: Path) -> None:
    draw = random.Random(8)
    rows = [{"instruction": f"Question {number}?", "output": f"Answer {number}."} for number in range(60)]
    endings = ["", " \n", "!", " more"]
    answers = {
        side: [{**row, "model_response": row["output"] + draw.choice(endings[: 2 + 2 * spoilt])} for row in rows]
        for spoilt, side in enumerate(("tuned", "base"))
    }
    folders = {}
    for side, answered_rows in answers.items():
        path = tmp_path / f"{side}.json"
        path.write_text(json.dumps(answered_rows))
        folders[side] = tmp_path / side
        import_answers(path, folders[side])
        write_metrics(read_answers(folders[side]))
    difference = compare_runs([folders["base"], folders["tuned"]]).comparisons[0].score
    conversation = from_records(
        [
            run_row(row["instruction"], t["model_response"], b["model_response"], second=n, reference=row["output"])
            for n, (row, t, b) in enumerate(zip(rows, answers["tuned"], answers["base"], strict=True))
        ]
    )
    result = tally(conversation)
    assert (result.n, result.tuned_right, result.base_right) == (
        60,
        make_report(folders["tuned"]).exact_matches,
        make_report(folders["base"]).exact_matches,
    )
    assert 0 < result.base_right < result.tuned_right
    assert (result.only_tuned, result.only_base) == (difference.wins, difference.losses)
