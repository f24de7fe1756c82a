"""What a check demands of an answer, and which checks are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from assistant.dataset import checks
from assistant.dataset.checks import Check, CheckTimeoutError


@pytest.mark.parametrize(
    ("demands", "answer", "passes"),
    [
        ({"contains": "Rhine"}, "The Rhine.", True),
        ({"contains": ["Rhine", "Rome"]}, "The Rhine.", False),
        ({"contains": "rhine"}, "The Rhine.", False),
        ({"contains": "rhine", "ignore_case": True}, "The RHINE.", True),
        ({"contains_any": ["Rhine", "Rome"]}, "The Rhine.", True),
        ({"contains_any": ["Oder", "Rome"]}, "The Rhine.", False),
        ({"not_contains": "sorry"}, "I am sorry.", False),
        ({"not_contains": "sorry"}, "Yes.", True),
        ({"starts_with": ["Yes", "No"]}, " \nNo, never.", True),
        ({"starts_with": ["Yes", "No"]}, "Perhaps", False),
        ({"ends_with": "!"}, "Stop! \n", True),
        ({"ends_with": "!"}, "Stop.", False),
        ({"regex": r"^\d{4}$"}, "1984\n", True),
        ({"regex": r"^\d{4}$"}, "In 1984", False),
        ({"regex": ["a", "b"]}, "a", False),
        ({"json": True}, '{"a": 1}', True),
        ({"json": True}, "{'a': 1}", False),
        ({"json": True}, "NaN", False),
        ({"json": True}, "[" * 100_000, False),
        ({"json": ["name", "age"]}, '{"age": 3, "name": "Ann"}', True),
        ({"json": ["name", "age"]}, '{"age": 3}', False),
        ({"json": ["name"]}, '["name"]', False),
        ({"max_words": 2}, " two words ", True),
        ({"max_words": 2}, "two more words", False),
        ({"min_words": 3}, "two words", False),
        ({"min_words": "3"}, "two more words", True),
        ({"contains": "a", "max_words": 1}, "a b", False),
    ],
)
def test_an_answer_passes_if_it_meets_all_demands(demands: dict[str, Any], answer: str, passes: bool) -> None:
    assert Check.model_validate(demands).passes(answer) is passes


def test_a_regular_expression_that_backtracks_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "REGEX_SECONDS", 0.05)
    check = Check(regex=("^(a|aa)+$",))
    start = time.monotonic()
    with pytest.raises(CheckTimeoutError, match="took more than"):
        check.passes("a" * 100 + "b")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "demands",
    [
        {},
        {"ignore_case": True},
        {"regex": "("},
        {"regex": "a" * 1001},
        {"contain": "x"},
        {"max_words": -1},
        {"json": 2},
    ],
)
def test_a_check_that_asks_for_nothing_or_for_something_unknown_is_refused(demands: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Check.model_validate(demands)


def test_a_check_and_its_row_are_the_same() -> None:
    row = {"contains": "x", "regex": ["a", "b"], "json": ["k"], "max_words": 3, "ignore_case": True}
    check = Check.model_validate(row)
    assert check.as_row() == row
    assert Check.model_validate_json(check.model_dump_json()) == check
    assert Check.model_validate({"json": True}).as_row() == {"json": True}
