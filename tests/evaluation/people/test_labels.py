"""A person's labels: which rows are drawn, what a session writes, and what the labels are worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assistant.errors import DataError
from assistant.jsonl import AppendOnly
from evaluation.answers.folder import AnswersFolder, ResponseRecord
from evaluation.answers.records import now
from evaluation.people.labels import (
    LABELS_FILE,
    TAG_LENGTH,
    Label,
    LabelSession,
    clean_tag,
    draw_rows,
    label_scores,
    read_labels,
    summarise,
)
from tests.support.scored_answers import FOUR_ROWS, measured_answers

OPEN_ROWS = [(f"Answer {number}.", f"Guess {number}.", ("even", "odd")[number % 2]) for number in range(8)]


@pytest.fixture
def answers(tmp_path: Path) -> AnswersFolder:
    """Eight rows that need a person, in two categories."""
    return measured_answers(tmp_path, OPEN_ROWS)


@contextmanager
def open_session(answers: AnswersFolder, *, labeller: str = "ada", count: int = 5) -> Iterator[LabelSession]:
    rows = draw_rows(answers.responses)
    with AppendOnly[Label](answers.folder / LABELS_FILE) as file:
        yield LabelSession(rows, read_labels(answers), file, labeller=labeller, count=count)


def row_of(session: LabelSession) -> ResponseRecord | None:
    return session.current


def tag_of(session: LabelSession) -> str | None:
    return session.tag


def lines(answers: AnswersFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (answers.folder / LABELS_FILE).read_text().splitlines()]


# --- the draw -----------------------------------------------------------------------------------------------------


def test_settled_rows_are_not_drawn(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, FOUR_ROWS)
    assert {row.reference for row in draw_rows(answers.responses)} == {"4", "A long answer."}
    unanswered = [record.model_copy(update={"response": None}) for record in answers.responses]
    assert draw_rows(unanswered) == []
    without_reference = [record.model_copy(update={"reference": ""}) for record in answers.responses]
    assert draw_rows(without_reference) == []


def test_every_row_is_equally_likely_to_be_first(answers: AnswersFolder) -> None:
    first = Counter(draw_rows(answers.responses, seed=seed)[0].id for seed in range(800))
    assert len(first) == 8
    assert all(60 < n < 140 for n in first.values()), first  # 100 expected, standard deviation 9.4


def test_the_draw_depends_only_on_the_rows_and_the_seed(answers: AnswersFolder) -> None:
    drawn = draw_rows(answers.responses, seed=7)
    assert draw_rows(reversed(answers.responses), seed=7) == drawn
    assert draw_rows(answers.responses, seed=8) != drawn
    without_first = [row for row in answers.responses if row.id != drawn[0].id]
    assert draw_rows(without_first, seed=7) == drawn[1:]


# --- a session ----------------------------------------------------------------------------------------------------


def test_scores_are_on_the_disk_at_once_and_count_in_points(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        drawn = draw_rows(answers.responses)
        for number, level in enumerate((5, 0, 3), start=1):
            assert row_of(session) == drawn[number - 1]
            session.score(level)
            assert session.done == number
            assert len(lines(answers)) == number
    assert [line["score"] for line in lines(answers)] == [100, 0, 60]
    assert [line["id"] for line in lines(answers)] == [row.id for row in drawn[:3]]
    assert {(line["labeller"], line["sample"], line["tag"]) for line in lines(answers)} == {("ada", 0, None)}
    assert [line["response_hash"] for line in lines(answers)] == [row.response_hash for row in drawn[:3]]


def test_the_next_session_continues_after_a_torn_line(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        session.score(5)
        session.score(4)
    path = answers.folder / LABELS_FILE
    path.write_bytes(path.read_bytes()[:-20])  # as a crash in the last write leaves it
    with open_session(answers) as session:
        assert (session.done, session.total) == (1, 5)
        assert row_of(session) == draw_rows(answers.responses)[1]
        for _ in range(4):
            session.score(1)
        assert row_of(session) is None
        session.score(1)  # nothing is left to score
    assert len(read_labels(answers)) == 5
    with open_session(answers, count=6) as session:
        assert (session.done, session.total) == (5, 6)
        assert row_of(session) is not None


def test_undo_takes_back_the_last_scores_also_of_an_earlier_session(answers: AnswersFolder) -> None:
    drawn = draw_rows(answers.responses)
    with open_session(answers) as session:
        assert not session.undo()
        session.score(5)
        session.score(4)
        session.set_tag("slow")
        session.score(3)
    with open_session(answers) as session:
        assert session.undo()
        assert row_of(session) == drawn[2]
        assert tag_of(session) == "slow"  # a tag stays
        assert session.undo()
        assert row_of(session) == drawn[1]
        session.score(0)
        assert row_of(session) == drawn[2]
    scores = {label.id: label.score for label in read_labels(answers).values()}
    assert scores == {drawn[0].id: 100, drawn[1].id: 0, drawn[2].id: None}
    assert len(lines(answers)) == 7  # three scores, a tag, two undone scores, a score: nothing is rewritten


def test_undo_goes_by_the_order_of_scoring_and_not_of_the_rows(answers: AnswersFolder) -> None:
    drawn = draw_rows(answers.responses)
    with open_session(answers) as session:
        session.score(1)
        session.score(2)
        session.undo()
        session.undo()
        session.skip()
        session.score(3)  # the second row
        session.undo()
        assert row_of(session) == drawn[1]
        session.undo()
        assert row_of(session) == drawn[0]
        session.score(4)
        session.score(5)
    with open_session(answers) as session:
        session.undo()
        assert row_of(session) == drawn[1]


def test_skipped_rows_come_again_in_the_next_session(answers: AnswersFolder) -> None:
    drawn = draw_rows(answers.responses)
    with open_session(answers, count=8) as session:
        session.skip()
        session.skip()
        assert row_of(session) == drawn[2]
        assert session.undo()
        assert row_of(session) == drawn[1]
        for _ in range(7):
            session.score(2)
        assert row_of(session) is None
        assert (session.done, session.n_skipped) == (7, 1)
    with open_session(answers, count=8) as session:
        assert row_of(session) == drawn[0]


def test_a_tag_is_kept_without_a_score_and_can_be_taken_away(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        session.set_tag("  wrong\x1b[31m  unit\n")
        assert tag_of(session) == "wrong␛[31m unit"
        session.set_tag("wrong␛[31m unit")  # the same tag is not written twice
    assert len(lines(answers)) == 1
    with open_session(answers) as session:
        assert tag_of(session) == "wrong␛[31m unit"
        assert session.known_tags == ["wrong␛[31m unit"]
        session.set_tag(" ")
        assert tag_of(session) is None
        session.score(3)
    assert [label.tag for label in read_labels(answers).values()] == [None]


def test_each_person_labels_the_same_rows(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        session.score(5)
    with open_session(answers, labeller="bob") as session:
        assert session.done == 0
        assert row_of(session) == draw_rows(answers.responses)[0]
        session.score(2)
    labels = read_labels(answers).values()
    assert [(label.labeller, label.score) for label in labels] == [("ada", 100), ("bob", 40)]
    assert list(label_scores(labels).values()) == [70.0]


def test_clean_tag_is_one_short_line_that_utf8_can_hold() -> None:
    assert clean_tag("\ud800 \u202e x") == "\ufffd \\u202e x"
    assert len(clean_tag("x" * 500) or "") == TAG_LENGTH
    assert clean_tag("\n \t") is None


# --- reading ------------------------------------------------------------------------------------------------------


def test_labels_of_another_response_do_not_count(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        session.score(5)
    (label,) = read_labels(answers).values()
    path = answers.folder / LABELS_FILE
    path.write_text(label.model_copy(update={"response_hash": "0" * 16}).model_dump_json() + "\n")
    assert read_labels(answers) == {}


def test_a_line_that_is_no_label_is_named(answers: AnswersFolder) -> None:
    (answers.folder / LABELS_FILE).write_text('{"id": "x", "score": 101}\n')
    with pytest.raises(DataError, match=r"labels\.jsonl, row 1: expected a record of this program"):
        read_labels(answers)


def test_summary_counts_tags_by_category(answers: AnswersFolder) -> None:
    def label(index: int, score: int | None, tag: str | None, who: str = "ada") -> Label:
        row = answers.responses[index]
        return Label(
            id=row.id, response_hash=row.response_hash, score=score, tag=tag, labeller=who, created=now()
        )  # fmt: skip

    labels = [
        label(0, 100, "short"), label(2, 20, "short"), label(1, 40, "short"), label(3, None, "off"),
        label(5, 0, None), label(0, 60, None, "bob"),
    ]  # fmt: skip
    summary = summarise(answers, labels, open_rows=8)
    assert [(tag.tag, tag.category, tag.n, tag.mean) for tag in summary.tags] == [
        ("short", "even", 2, 60.0),
        ("off", "odd", 1, None),
        ("short", "odd", 1, 40.0),
    ]
    assert (summary.labels, summary.rows, summary.open_rows) == (5, 4, 8)
    assert summary.mean == (80 + 20 + 40 + 0) / 4
    assert summary.labellers == {"ada": 4, "bob": 1}
    empty = summarise(answers, [], open_rows=8)
    assert (empty.mean, empty.tags, empty.labels) == (None, (), 0)
