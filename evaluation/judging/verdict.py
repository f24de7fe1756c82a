"""Reads a judge's answer: one verdict, or the reason why it is not one. Does not know prompts or servers.

An answer has one of four forms. Nothing is repaired, and nothing is searched for in a longer text: a server that keeps
to the schema sends only the value. An answer in a code fence is not read either. It shows that the server ignored the
schema, and then no other rule of the schema holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

MAX_SCORE = 5
POINTS_PER_SCORE = 20
"""Reports show a score of 5 as 100."""
MIN_SHARE = 0.5
"""Smallest probability of all digits together that is not shown as a doubt."""

Form = Literal["explain", "digit", "percent", "checklist"]
"""What a judge answers with: an object of analysis and score, a digit from 0 to 5, a whole number from 0 to 100, or an
object with one boolean for each question."""


class Verdict(NamedTuple):
    """A judge's verdict on one row."""

    analysis: str
    """Empty if the form has none."""
    score: float
    """On the scale of the form: 0 to 5 (an int for `explain`), 0 to 100, or the share of yes from 0 to 1."""
    points: float
    """The score from 0 to 100."""
    doubt: str | None = None
    """A sentence on why this score may mean little."""
    share: float | None = None
    """Probability of all digits together, if the server reports probabilities."""
    answers: tuple[bool, ...] = ()
    """The answers to the questions of a checklist."""


class VerdictError(ValueError):
    """The judge's answer is not a valid verdict."""


def parse_verdict(
    content: str, form: Form = "explain", *, n_questions: int = 0, top: Sequence[tuple[str, float]] = ()
) -> Verdict:
    """Read a judge's complete answer.

    Args:
        content: The answer.
        form: What the judge was asked for.
        n_questions: Number of questions of a checklist.
        top: The likeliest first tokens and their log-probabilities, as the server reports them. Only a digit needs
            them: its score is then the expected value. Without them it is the digit.

    Raises:
        VerdictError: the answer does not have the form.
    """
    match form:
        case "explain":
            return _explained(content)
        case "digit":
            return _expected_digit(content, top)
        case "percent":
            score = _whole_number(_read_json(content), 100, "one whole number")
            return Verdict("", score, float(score))
        case "checklist":
            return _checklist(content, n_questions)


def question_key(number: int) -> str:
    """Return the key of a checklist's question, from 1. Sorted by name, the keys are in order."""
    return f"question_{number:02d}"


def _explained(content: str) -> Verdict:
    value = read_object(content)
    score = _whole_number(value.get("score"), MAX_SCORE, 'a whole number "score"')
    return Verdict(analysis_of(value), score, float(score * POINTS_PER_SCORE))


def _checklist(content: str, n_questions: int) -> Verdict:
    value = read_object(content)
    answers = [value.get(question_key(number)) for number in range(1, n_questions + 1)]
    for number, answer in enumerate(answers, start=1):
        if not isinstance(answer, bool):
            raise VerdictError(f'expected true or false for "{question_key(number)}", got {short_repr(answer)}')
    share = sum(map(bool, answers)) / n_questions
    return Verdict(analysis_of(value), share, 100 * share, answers=tuple(map(bool, answers)))


def _expected_digit(content: str, top: Sequence[tuple[str, float]]) -> Verdict:
    """Return the expected value over the digits of the scale.

    A server reports its model's own log-probabilities, before the grammar, over the whole vocabulary. So other words
    can be likelier than any digit, and the digits' share shows how far the model means to answer with a digit at all.
    """
    weights = [0.0] * (MAX_SCORE + 1)
    for token, logprob in dict(top).items():
        digit = token.strip(" \t\n\r\u2581\u0120")  # SentencePiece and byte-level tokens show a blank as these
        if len(digit) == 1 and digit in "012345" and not math.isnan(logprob):
            weights[int(digit)] += math.exp(min(logprob, 0.0))
    share = min(math.fsum(weights), 1.0)
    if share > 0:
        mean = math.fsum(digit * weight for digit, weight in enumerate(weights)) / math.fsum(weights)
        score = min(mean, float(MAX_SCORE))  # The quotient can be a rounding error above 5.
    else:
        score = float(_whole_number(_read_json(content), MAX_SCORE, "one digit"))
    doubt = None
    if top and share < MIN_SHARE:
        doubt = f"The judge gives the digits 0 to {MAX_SCORE} together only {100 * share:.0f} % of the probability."
    return Verdict("", score, score * POINTS_PER_SCORE, doubt, share if top else None)


def _whole_number(value: object, maximum: int, name: str) -> int:
    if type(value) is not int or not 0 <= value <= maximum:  # bool is a subclass of int; 3.0 is refused
        raise VerdictError(f"expected {name} from 0 to {maximum}, got {short_repr(value)}")
    return value


def analysis_of(value: dict[str, Any]) -> str:
    """Return the analysis in a judge's object. Raises VerdictError if it is not a text."""
    analysis = value.get("analysis")
    if not isinstance(analysis, str):
        raise VerdictError(f'expected "analysis" to be text, got {short_repr(analysis)}')
    return analysis


def read_object(content: str) -> dict[str, Any]:
    """Read an answer that is one JSON object. Raises VerdictError if it is anything else."""
    value = _read_json(content)
    if not isinstance(value, dict):
        raise VerdictError(f"expected a JSON object, got {short_repr(content)}")
    return value


def _read_json(content: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise VerdictError(f"expected one JSON value, got {short_repr(content)} ({error})") from error


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def short_repr(value: object) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
