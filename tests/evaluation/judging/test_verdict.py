"""Only a valid verdict is read, and a digit's score is the expected value over the digits' probabilities."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evaluation.judging.verdict import MAX_SCORE, Form, VerdictError, parse_verdict, question_key
from tests.conftest import shared_file


@pytest.mark.parametrize("score", range(MAX_SCORE + 1))
def test_every_score_of_the_scale_is_read(score: int) -> None:
    verdict = parse_verdict(json.dumps({"analysis": "Why.", "score": score}))
    assert verdict[:3] == ("Why.", score, 20 * score)
    assert type(verdict.score) is int


def test_blanks_around_the_object_are_allowed() -> None:
    """A real server sent 18 tokens of blanks after the closing brace."""
    assert parse_verdict('\n {"analysis": "a", "score": 4}' + " \n" * 18).score == 4


MALFORMED = [
    "",
    " \n ",
    "4",
    "[4]",
    "null",
    "Score: 4",
    '```json\n{"analysis": "a", "score": 4}\n```',
    '```\n{"analysis": "a", "score": 4}\n```',
    '{"analysis": "a", "score": 5} {"analysis": "a", "score": 4}',
    '{"analysis": "a", "score": 4} and more',
    '{"analysis": "a", "score": 4',
    '{"analysis": "a"}',
    '{"score": 4}',
    '{"analysis": null, "score": 4}',
    '{"analysis": "a", "score": true}',
    '{"analysis": "a", "score": 4.0}',
    '{"analysis": "a", "score": 4e0}',
    '{"analysis": "a", "score": NaN}',
    '{"analysis": "a", "score": Infinity}',
    '{"analysis": "a", "score": "4"}',
    '{"analysis": "a", "score": null}',
    '{"analysis": "a", "score": [4]}',
    '{"analysis": "a", "score": 6}',
    '{"analysis": "a", "score": -1}',
    '{"analysis": "a", "score": 1, "score": 5}',
    '{"analysis": "a", "score": 100}',
    "[" * 100_000,
    '{"analysis": "a", "score": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_verdict_is_refused(content: str) -> None:
    with pytest.raises(VerdictError):
        parse_verdict(content)


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.integers(), st.lists).map(json.dumps))
def test_parser_raises_only_verdict_errors(content: str) -> None:
    with pytest.raises(VerdictError):
        parse_verdict(content)


# --- a whole number ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0, 7, 100])
def test_percent_is_the_score(score: int) -> None:
    assert parse_verdict(f"{score}\n", "percent")[:3] == ("", score, score)


@pytest.mark.parametrize("content", ["101", "-1", "85.0", '"85"', "true", "8 5", "Score: 85", "85/100", "", "1e2"])
def test_other_percent_is_refused(content: str) -> None:
    with pytest.raises(VerdictError):
        parse_verdict(content, "percent")


# --- a digit -------------------------------------------------------------------------------------------------------


def logs(**probabilities: float) -> list[tuple[str, float]]:
    return [(token.replace("_", " "), math.log(value)) for token, value in probabilities.items()]


def test_score_is_the_expected_value_over_all_spellings_of_the_digits() -> None:
    top = [
        ("4", math.log(0.3)),
        (" 4", math.log(0.2)),
        ("5", math.log(0.25)),
        ("\u25813", math.log(0.05)),
        ("The", -2.0),
    ]
    verdict = parse_verdict("4", "digit", top=top)
    expected = (4 * 0.5 + 5 * 0.25 + 3 * 0.05) / 0.8
    assert verdict.score == pytest.approx(expected)
    assert verdict.points == pytest.approx(20 * expected)
    assert verdict.share == pytest.approx(0.8)
    assert verdict.doubt is None


def test_small_share_of_digits_is_a_doubt() -> None:
    verdict = parse_verdict("2", "digit", top=[("The", math.log(0.6)), ("2", math.log(0.1)), ("1", math.log(0.1))])
    assert verdict.score == pytest.approx(1.5)
    assert verdict.doubt is not None
    assert "only 20 %" in verdict.doubt


def test_no_digit_among_the_likeliest_tokens_falls_back_to_the_chosen_one_with_a_doubt() -> None:
    verdict = parse_verdict("3", "digit", top=[("The", -0.1)])
    assert (verdict.score, verdict.share) == (3, 0)
    assert verdict.doubt is not None
    with pytest.raises(VerdictError):
        parse_verdict("The", "digit", top=[("The", -0.1)])


def test_without_probabilities_the_digit_is_the_score() -> None:
    verdict = parse_verdict("4", "digit")
    assert verdict == ("", 4.0, 80.0, None, None, ())


@pytest.mark.parametrize("content", ["6", "45", "", "four", "４", "4.0", "true"])
def test_other_digit_is_refused(content: str) -> None:
    with pytest.raises(VerdictError):
        parse_verdict(content, "digit")


@example([("5", -0.00390625)])
@given(st.lists(st.tuples(st.sampled_from(["0", "5", " 5", "6", "45", "４", "The", ""]), st.floats())))
def test_hostile_probabilities_give_a_score_of_the_scale(top: list[tuple[str, float]]) -> None:
    verdict = parse_verdict("3", "digit", top=top)
    assert 0 <= verdict.score <= MAX_SCORE
    assert verdict.share is None or 0 <= verdict.share <= 1


def test_recorded_answer_of_a_real_server() -> None:
    """The chosen digit was the third of the likeliest tokens: the grammar comes after the probabilities."""
    lines = shared_file("ollama-transcripts/ollama-0.32.15.jsonl").read_text(encoding="utf-8").splitlines()
    body = next(json.loads(record["body"]) for record in map(json.loads, lines) if record["name"] == NAME)
    top = [(entry["token"], entry["logprob"]) for entry in body["logprobs"][0]["top_logprobs"]]
    verdict = parse_verdict(body["message"]["content"], "digit", top=top)
    p_one, p_two = math.exp(-3.1502199), math.exp(-2.9084198)
    assert verdict.score == pytest.approx((p_one + 2 * p_two) / (p_one + p_two), abs=1e-6)
    assert verdict.doubt is not None


NAME = "chat logprobs schema"

# --- a checklist ---------------------------------------------------------------------------------------------------


def checklist(*answers: object) -> str:
    keys = {question_key(number): answer for number, answer in enumerate(answers, start=1)}
    return json.dumps({"analysis": "a"} | keys)


def test_score_of_a_checklist_is_the_share_of_yes() -> None:
    verdict = parse_verdict(checklist(True, False, True), "checklist", n_questions=3)
    assert verdict.points == pytest.approx(200 / 3)
    assert verdict.answers == (True, False, True)


@pytest.mark.parametrize("answers", [(True,), (True, 1), (True, "yes"), (True, None)])
def test_checklist_with_another_answer_is_refused(answers: tuple[object, ...]) -> None:
    with pytest.raises(VerdictError, match="question_02"):
        parse_verdict(checklist(*answers), "checklist", n_questions=2)


def test_answer_to_a_question_that_was_not_asked_does_not_count() -> None:
    assert parse_verdict(checklist(False, True), "checklist", n_questions=1).points == 0


@pytest.mark.parametrize("form", ["explain", "percent", "digit", "checklist"])
def test_code_fence_is_refused_by_every_form(form: Form) -> None:
    with pytest.raises(VerdictError):
        parse_verdict("```json\n4\n```", form, n_questions=1)
