"""Preference pairs: which answers become one, which rows never do, and that `assistant prefer` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.examples import Exchange
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.splits import split_examples
from assistant.errors import DataError
from evaluation.answers.folder import ResponseRecord
from evaluation.answers.responses import choose_part
from evaluation.people.pairs import check_part, describe_counts, dump_pairs, make_pairs, newest_scores, split_options
from tests.support.scored_answers import FOUR_ROWS, add_judgements, measured_answers, score_fields
from tests.support.uppercase_session import trained_on


class Sampled(ResponseRecord):
    """An answer with its number among the answers to its row."""

    sample: int = 0


def answers(row_id: str, *responses: str | None, **fields: Any) -> list[ResponseRecord]:
    """Answers to one row, in the order in which they were drawn."""
    defaults = {"id": row_id, "source": "rows.json", "row": 1, "instruction": f"Do {row_id}.", "reference": "x"}
    return [
        Sampled.model_validate(defaults | fields | {"response": response, "sample": sample})
        for sample, response in enumerate(responses)
    ]


def score_in_text(record: ResponseRecord) -> float | None:
    """The score of a test's answer is its last word; without a number there is none."""
    last = (record.response or "?").split()[-1]
    return float(last) if last.isdigit() else None


def texts(records: list[ResponseRecord], **options: Any) -> list[tuple[str, str | None]]:
    examples, _ = make_pairs(records, score_in_text, **options)
    return [(example.output, example.rejected) for example in examples]


def test_the_best_answer_of_a_row_is_chosen_against_the_worst() -> None:
    records = [*answers("a", "p 40", "q 100", "r 0", "s 60"), *answers("b", "t 80", "u 20")]
    assert texts(records) == [("q 100", "r 0"), ("t 80", "u 20")]


def test_more_pairs_of_a_row_go_inwards_and_keep_the_margin() -> None:
    records = answers("a", "p 40", "q 100", "r 0", "s 60", "t 50")
    assert texts(records, per_row=2) == [("q 100", "r 0"), ("s 60", "p 40")]
    assert texts(records, per_row=9, margin=30) == [("q 100", "r 0")]


def test_ties_and_differences_below_the_margin_are_left_out() -> None:
    records = [*answers("a", "p 60", "q 60"), *answers("b", "r 60", "s 41"), *answers("c", "t 60", "u 40")]
    assert texts(records) == [("t 60", "u 40")]
    assert texts(records, margin=19) == [("r 60", "s 41"), ("t 60", "u 40")]


def test_among_equal_scores_the_first_answer_is_taken_whatever_its_length() -> None:
    records = answers("a", "short 100", "a much longer one 100", "long and bad 0", "bad 0")
    assert texts(records) == [("short 100", "long and bad 0")]
    assert texts(records[::-1]) == [("short 100", "long and bad 0")]  # the sample counts, not the order of the file


def test_a_cut_answer_is_rejected_but_never_chosen() -> None:
    (cut,) = answers("a", "cut 100", stop_reason="length")
    best, worst = answers("a", "best 60", "worst 0", stop_reason="eos")
    assert texts([cut, best, worst]) == [("best 60", "worst 0")]
    (cut_and_bad,) = answers("b", "cut 0", stop_reason="length")
    (good,) = answers("b", "good 100", stop_reason="eos")
    assert texts([cut_and_bad, good]) == [("good 100", "cut 0")]
    _, counts = make_pairs([cut, worst], score_in_text)
    assert (counts.all_cut, counts.pairs) == (1, 0)


def test_answers_that_prefer_cannot_read_are_left_out() -> None:
    unreadable = [None, "", " \n", "nul\x00 100", "half \ud800 100"]
    records = [*answers("a", *unreadable, "good 100"), *answers("b", "same 100", " same 100\n")]
    examples, counts = make_pairs(records, score_in_text)
    assert examples == []
    assert counts.too_few == 2


def test_every_row_is_counted_once_under_its_reason() -> None:
    records = [
        *answers("a", "p 100", "q 0"),
        *answers("b", "p 60", "q 60"),
        *answers("c", "p 60"),
        *answers("d", "unscored", "q 60", "also unscored"),
        *answers("e", "p 100", "q 0", stop_reason="length"),
    ]
    _, counts = make_pairs(records, score_in_text)
    assert counts.model_dump() == {
        **{"rows": 5, "answers": 10, "pairs": 1, "paired_rows": 1, "too_few": 2, "too_close": 1, "all_cut": 1},
        "unscored": 2,
    }
    assert describe_counts(counts, Path("p.json"), 20.0) == (
        "p.json: 1 pair of 5 rows and 10 answers. Rows without a pair: 1 whose answers differ by less than 20 points, "
        "2 with fewer than two different scored answers, 1 whose better answers were all cut at the token limit."
    )


@given(
    st.lists(st.lists(st.sampled_from([0, 20, 40, 60, 80, 100]), min_size=1, max_size=6), max_size=6),
    st.integers(1, 4),
    st.sampled_from([1.0, 20.0, 50.0, 100.0]),
)
def test_counts_add_up_and_every_pair_keeps_the_margin(rows: list[list[int]], per_row: int, margin: float) -> None:
    records = [
        record
        for number, scores in enumerate(rows)
        for record in answers(str(number), *(f"{place} answer {score}" for place, score in enumerate(scores)))
    ]
    examples, counts = make_pairs(records, score_in_text, margin=margin, per_row=per_row)
    assert counts.paired_rows + counts.too_few + counts.too_close + counts.all_cut == counts.rows == len(rows)
    assert counts.paired_rows == sum(max(scores) - min(scores) >= margin for scores in rows)
    for example in examples:
        assert float(example.output.split()[-1]) - float((example.rejected or "").split()[-1]) >= margin
    assert len({(example.instruction, example.output) for example in examples}) == len(examples)
    for number in range(len(rows)):
        assert sum(example.instruction == f"Do {number}." for example in examples) <= per_row


def test_prefer_reads_the_pairs_back(tmp_path: Path) -> None:
    history = (Exchange("Hi.", "x 100"), Exchange("How?", "Well."))
    records = [
        *answers("a", 'say "x" 漢 100', "no\r\n0", input="an input", category="kind"),
        *answers("b", "x 100", "y 0", instruction="Hi.", row=2),
        *answers("c", "later 100", "y 0", row=2, history=history),
    ]
    examples, _ = make_pairs(records, score_in_text)
    path = tmp_path / "pairs.json"
    path.write_text(dump_pairs(examples), encoding="utf-8")
    read = read_examples(path)
    assert [(e.instruction, e.input, e.output, e.rejected, e.category, e.history) for e in read] == [
        ("Do a.", "an input", 'say "x" 漢 100', "no\n0", "kind", ()),
        ("Hi.", "", "x 100", "y 0", None, ()),
        ("Do c.", "", "later 100", "y 0", None, history),
    ]


# --- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({"part": "test"}, "got answers to the test part"),
        ({"part": "validation"}, "got answers to the validation part"),
        ({"part": "all"}, "got answers to all rows, and test rows may be among them"),
        ({"part": "auto"}, "got answers to all rows"),
    ],
)
def test_other_parts_than_the_training_rows_are_refused(tmp_path: Path, fields: dict[str, Any], got: str) -> None:
    folder = measured_answers(tmp_path, FOUR_ROWS)
    model = {"kind": "model", "path": "runs/my model", "data_files": ("mine.json", "b.json")}
    info = folder.info.model_copy(update=model | fields)
    answers_of_model = type(folder)(folder=Path("runs/a"), info=info, responses=folder.responses)
    with pytest.raises(DataError) as caught:
        check_part(answers_of_model)
    assert got in str(caught.value)
    assert str(caught.value).endswith(
        "Run: evaluation respond 'runs/my model' --data mine.json --data b.json --part train --samples 4 "
        "--temperature 0.8 --run runs/a-train"
    )
    check_part(type(folder)(folder=Path("x"), info=info.model_copy(update={"part": "train"}), responses=()))


def test_answers_from_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"answers from a file, .*respond MODEL --data FILE --part train"):
        check_part(measured_answers(tmp_path, FOUR_ROWS))


def test_scores_are_those_of_the_judge_that_was_asked_last(tmp_path: Path) -> None:
    folder = measured_answers(tmp_path, FOUR_ROWS)
    with pytest.raises(DataError, match=r"expected a judge's scores of the answers, got none\. Run: evaluation score"):
        newest_scores(folder)
    add_judgements(folder, {0: score_fields(5, "exact"), 1: {"unscored": "timeout", "final": False}})
    with pytest.raises(DataError, match="got none by m"):
        newest_scores(folder)
    add_judgements(folder, {1: score_fields(2)})
    score_of = newest_scores(folder)
    assert [score_of(record) for record in folder.responses] == [100, 40, None, None]


# --- the split ----------------------------------------------------------------------------------------------------


def test_prefer_is_given_the_split_of_the_model(tmp_path: Path) -> None:
    """With another split, the test rows of the new model would be rows that it learnt from."""
    assert split_options(tmp_path) == ""
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({}, ""),
        ({"split_seed": 7}, " --split-seed 7"),
        ({"split_fractions": (0.7, 0.2, 0.1)}, " --test-share 0.2 --validation-share 0.1"),
        ({"split_method": "book"}, None),
    ]
    for fields, options in cases:
        (tmp_path / "assistant.json").write_text(trained_on([], **fields).model_dump_json())
        assert split_options(tmp_path) == options


def test_the_same_split_options_keep_the_same_test_rows(examples: list[Example]) -> None:
    """The pairs come from training rows, and a model that learnt from them is tested on none of their rows."""
    own = split_examples(examples, seed=7, fractions=(0.7, 0.2, 0.1))
    train = {(row.instruction, row.input) for row in own.train}
    info = trained_on(examples[:20], split_seed=7, split_fractions=(0.7, 0.2, 0.1))
    chosen = choose_part(examples, "test", info)
    assert chosen.examples == own.test
    assert not train & {(row.instruction, row.input) for row in chosen.examples}
