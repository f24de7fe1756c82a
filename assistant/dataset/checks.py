"""`Check`: what a program can ask of an answer without a judge. The field `check` of a row holds one.

Does not know rows or responses: `evaluation.judging.settled` applies it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, ConfigDict, Field, model_validator

from assistant.dataset.rows import FilledText, NumberText
from assistant.settings import Frozen

MAX_QUESTIONS = 50
"""Largest number of questions in the rubric of one row."""
LONGEST_PATTERN = 1000
"""Longest regular expression, in characters. To compile a longer one may take minutes."""
REGEX_SECONDS = 1.0
"""Time that one search of a regular expression may take."""


class CheckTimeoutError(Exception):
    """A regular expression did not end in time, so nobody knows whether the answer passes."""


def _as_list(value: object) -> object:
    """Return one text as a list of one."""
    return [value] if isinstance(value, str | NumberText) else value


def _as_int(value: object) -> object:
    """Return a number that the file spells as such as an integer."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


def _compilable(pattern: str) -> str:
    import regex

    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"must be a regular expression of at most {LONGEST_PATTERN} characters")
    try:
        regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"must be a regular expression ({str(error)[:80]})") from None
    return pattern


Texts = Annotated[tuple[FilledText, ...], BeforeValidator(_as_list)]
Pattern = Annotated[FilledText, AfterValidator(_compilable)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_as_int)]


class Check(Frozen):
    """Demands on an answer. It passes if it meets all of them. White space at both ends does not count."""

    contains: Texts = ()
    """Each of these texts occurs in the answer."""
    contains_any: Texts = ()
    """At least one of these texts occurs in the answer."""
    not_contains: Texts = ()
    """None of these texts occurs in the answer."""
    starts_with: Texts = ()
    """The answer starts with one of these texts."""
    ends_with: Texts = ()
    """The answer ends with one of these texts."""
    regex: Annotated[tuple[Pattern, ...], BeforeValidator(_as_list)] = ()
    """Each of these regular expressions is found in the answer."""
    json_value: Annotated[
        Literal[True] | tuple[FilledText, ...] | None, Field(validation_alias=AliasChoices("json", "json_value"))
    ] = None
    """True: the answer is one JSON value. A list: it is a JSON object with these keys."""
    min_words: Count | None = None
    max_words: Count | None = None
    """White space divides words."""
    ignore_case: bool = False
    """Capital letters do not count in texts and regular expressions."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _asks_something(self) -> Check:
        if not self.model_dump(exclude_defaults=True, exclude={"ignore_case"}):
            raise ValueError("must ask for something, such as contains, regex, json or max_words")
        return self

    def as_row(self) -> dict[str, Any]:
        """Return the check as the value of a row's field `check`."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        row = {"json" if name == "json_value" else name: value for name, value in values.items()}
        return {
            name: value[0] if isinstance(value, list) and len(value) == 1 and name != "json" else value
            for name, value in row.items()
        }

    def passes(self, answer: str) -> bool:
        """Whether an answer meets all demands.

        Raises:
            CheckTimeoutError: a regular expression takes too long.
        """
        answer = answer.strip()
        n_words = len(answer.split())
        if n_words < (self.min_words or 0) or (self.max_words is not None and n_words > self.max_words):
            return False
        if self.json_value is not None and not _is_json(answer, self.json_value):
            return False
        return self._has_texts(answer) and all(_finds(pattern, answer, self.ignore_case) for pattern in self.regex)

    def _has_texts(self, answer: str) -> bool:
        def fold(text: str) -> str:
            return text.casefold() if self.ignore_case else text

        answer = fold(answer)
        return (
            all(fold(text) in answer for text in self.contains)
            and (not self.contains_any or any(fold(text) in answer for text in self.contains_any))
            and not any(fold(text) in answer for text in self.not_contains)
            and (not self.starts_with or answer.startswith(tuple(map(fold, self.starts_with))))
            and (not self.ends_with or answer.endswith(tuple(map(fold, self.ends_with))))
        )


def _is_json(answer: str, wanted: Literal[True] | tuple[str, ...]) -> bool:
    try:
        value = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return wanted is True or (isinstance(value, dict) and all(key in value for key in wanted))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finds(pattern: str, answer: str, ignore_case: bool) -> bool:
    import regex

    flags = regex.IGNORECASE if ignore_case else 0
    try:
        return regex.search(pattern, answer, flags=flags, timeout=REGEX_SECONDS) is not None
    except TimeoutError:
        raise CheckTimeoutError(f"the regular expression {pattern[:60]!r} took more than {REGEX_SECONDS:g} s") from None
