"""Control items are what their kind says, the same for the same rows, and never right by accident."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.judging.controls import (
    EMPTY_LOOKING,
    KINDS,
    LOW_KINDS,
    PURPOSES,
    ControlItem,
    ControlKind,
    control_items,
    order_text,
)
from tests.conftest import shared_file


@dataclass(frozen=True)
class Row:
    id: str
    instruction: str
    reference: str
    input: str = ""


CITIES = ("Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Warsaw", "Athens", "Dublin", "Lisbon")
ROWS = [
    Row(f"r{number}", f"Name the capital of land {number}.", f"{city} it surely is, as every child {number} knows.")
    for number, city in enumerate(CITIES)
]
OTHER = "Frogs eat small insects near quiet ponds."


def of_kind(items: list[ControlItem], kind: ControlKind) -> list[ControlItem]:
    return [item for item in items if item.kind == kind]


def test_every_kind_has_eight_items_and_its_response() -> None:
    rows = [Row(str(n), f"Task {n} {'ab'[n % 2]}", f"word{n}a word{n}b word{n}c word{n}d word{n}e") for n in range(20)]
    items = control_items(rows)
    assert {kind: len(of_kind(items, kind)) for kind in KINDS} == dict.fromkeys(KINDS, 8)
    assert {item.purpose for item in items} == set(PURPOSES.values())
    by_id = {row.id: row for row in rows}
    for item in items:
        row = by_id[item.row_id]
        match item.kind:
            case "reference":
                assert item.response == row.reference
            case "other_reference":
                assert item.response != row.reference
                assert item.response in {other.reference for other in rows}
            case "colon":
                assert item.response == ":"
            case "echo":
                assert item.response == row.instruction
            case "shuffled":
                assert sorted(item.response.split()) == sorted(row.reference.split())
                assert item.response != row.reference
            case "empty":
                assert item.response in EMPTY_LOOKING
            case "order":
                assert "highest" in item.response or "score" in item.response
    assert len({item.response for item in of_kind(items, "order")}) == 4


def test_items_do_not_depend_on_the_order_of_the_rows_but_on_the_seed() -> None:
    assert control_items(ROWS) == control_items(ROWS[::-1])
    assert control_items(ROWS, seed=1) != control_items(ROWS, seed=2)


def test_none_is_none() -> None:
    assert control_items(ROWS, per_kind=0) == []
    assert control_items([]) == []


def test_rows_without_reference_and_equal_rows_are_left_out() -> None:
    rows = [Row("a", "Sort.", " "), Row("b", " ", "x"), Row("c", "Do it.", OTHER), Row("d", "Do it.", OTHER)]
    items = control_items(rows)
    assert {item.row_id for item in items} == {"c"}
    assert not of_kind(items, "other_reference")


@pytest.mark.parametrize(
    ("reference", "other", "is_made"),
    [
        ("Paris.", "London.", True),
        ("Paris.", "paris", False),
        ("Paris", "It is Paris, of course.", False),
        ("A red fox jumps.", "A red fox sleeps.", False),
        ("true", "false", True),
        ("!", "?", False),
    ],
)
def test_other_reference_must_be_wrong(reference: str, other: str, is_made: bool) -> None:
    rows = [Row("a", "First task.", reference), Row("b", "Second task.", other)]
    assert bool(of_kind(control_items(rows), "other_reference")) is is_made


@pytest.mark.parametrize(
    ("inputs", "n"), [(("", ""), 0), (("x", ""), 0), (("good film", "bad film"), 2), (("x", "X"), 0)]
)
def test_same_task_has_other_right_answers(inputs: tuple[str, str], n: int) -> None:
    rows = [Row("a", "Name a fruit.", "Apple", inputs[0]), Row("b", "name a fruit", "Pear", inputs[1])]
    assert len(of_kind(control_items(rows), "other_reference")) == n


@pytest.mark.parametrize(
    "reference",
    [
        "Paris",
        "red blue green pink",
        "apples, pears, plums, figs, nuts",
        "a\nb\nc\nd\ne",
        "no no no no no no",
        "a a b b a",
    ],
)
def test_reference_that_may_be_right_in_any_order_is_not_shuffled(reference: str) -> None:
    assert not of_kind(control_items([Row("a", "Do it.", reference)]), "shuffled")


@given(st.lists(st.sampled_from(["the", "The", "cat", "dog", "sat,", "on", "mat.", "a", "b"]), max_size=12))
def test_shuffled_reference_keeps_the_words_and_breaks_most_neighbours(words: list[str]) -> None:
    reference = " ".join(words)
    for item in of_kind(control_items([Row("a", "Do it.", reference)]), "shuffled"):
        assert sorted(item.response.split()) == sorted(words)
        pairs, kept = ({(x.lower(), y.lower()) for x, y in pairwise(w)} for w in (words, item.response.split()))
        assert 2 * len(pairs & kept) <= len(pairs)


def test_echo_is_left_out_where_it_is_the_answer() -> None:
    rows = [Row("a", "Repeat.", "abc", "ABC"), Row("b", "Say hello", "Say hello."), Row("c", "Sort.", "1 2", "2 1")]
    (item,) = of_kind(control_items(rows), "echo")
    assert (item.row_id, item.response) == ("c", "Sort.\n2 1")


def test_order_asks_for_the_top_of_the_scale() -> None:
    assert "5" in order_text(0)
    assert "100" in order_text(0, "book")
    assert "100" in order_text(1)


def test_items_of_the_book_s_rows() -> None:
    raw = json.loads(shared_file("data/book-responses.json").read_text(encoding="utf-8"))
    rows = [Row(str(n), row["instruction"], row["output"], row["input"]) for n, row in enumerate(raw)]
    items = control_items(rows)
    assert {kind: len(of_kind(items, kind)) for kind in KINDS} == dict.fromkeys(KINDS, 8)
    assert set(LOW_KINDS) == set(KINDS) - {"reference"}
