"""The nearest training row, against a plain computation of the similarity; copies; scripts; hostile sizes."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.chat.nearest import MAX_CHARACTERS, MAX_WORDS, NearestRows, _distinct_words, words_of
from assistant.dataset.examples import Example

ROWS = [
    Example(instruction="What is the plural of mouse?", output="The plural of mouse is mice."),
    Example(instruction="What is the plural of pen?", output="The plural of pen is pens."),
    Example(instruction="Is a mouse an animal?", output="Yes."),
    Example(instruction="Is a pen a tool?", input="for writing", output="Yes."),
]


def test_the_row_with_the_same_rare_words_is_nearest() -> None:
    nearest = NearestRows(ROWS).nearest("Give the plural of MOUSE", "", "The plural of mouse is mouses.")
    assert nearest is not None
    assert nearest.example == ROWS[0]
    assert not nearest.is_copied
    assert 0 < nearest.similarity < 1


def test_the_same_words_have_similarity_1_and_none_in_common_gives_no_row() -> None:
    index = NearestRows(ROWS)
    same = index.nearest("what is the PLURAL of pen", "", "the plural of pen is: pens")
    assert same is not None
    assert (same.example, same.is_copied) == (ROWS[1], False)
    assert same.similarity == pytest.approx(1)
    assert index.nearest("Zebra?", "", "!") is None
    assert index.nearest("", "", "") is None
    assert NearestRows([]).nearest("a", "b", "c") is None


def test_copied_answers_are_named() -> None:
    index = NearestRows(ROWS)
    nearest = index.nearest("Is a pencil a tool?", "for writing", "\nYes. ")
    assert nearest is not None
    assert (nearest.example, nearest.is_copied) == (ROWS[3], True)
    assert nearest.similarity < 1
    nearest = index.nearest("Is a mouse an animal?", "", "No, yes.")
    assert nearest is not None
    assert not nearest.is_copied


def test_of_equally_near_rows_a_copied_one_comes_first() -> None:
    twins = [Example(instruction="Colour?", output=output) for output in ("Red, blue", "Blue, red", "red blue")]
    index = NearestRows(twins)
    for place, example in enumerate(twins):
        nearest = index.nearest("colour", "", example.output)
        assert nearest is not None
        assert (nearest.example, nearest.is_copied) == (twins[place], True)
    nearest = index.nearest("colour", "", "blue; red!")
    assert nearest is not None
    assert nearest.example == twins[0]


def test_it_is_the_row_that_a_plain_computation_finds() -> None:
    draw = random.Random(3)
    words = [f"w{number}" for number in range(60)]

    def text(longest: int) -> str:
        return " ".join(draw.choices(words, weights=range(1, 61), k=draw.randint(1, longest)))

    rows = [Example(instruction=text(6), input=text(3), output=text(6)) for _ in range(200)]
    index = NearestRows(rows)
    sets = [set(re.findall(r"\w+", f"{row.instruction} {row.input} {row.output}")) for row in rows]
    frequency = Counter(word for row in sets for word in row)
    weight = {word: math.log(1 + len(rows) / max(1, frequency[word])) for word in [*words, "new"]}
    for _ in range(100):
        question, answer = f"{text(5)} new", text(5)
        asked = set(f"{question} {answer}".split())
        similarities = [sum(weight[w] for w in asked & row) / sum(weight[w] for w in asked | row) for row in sets]
        nearest = index.nearest(question, "", answer)
        assert nearest is not None
        assert nearest.similarity == pytest.approx(max(similarities))
        place = rows.index(nearest.example)
        assert similarities[place] == pytest.approx(max(similarities))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't stop_me, 3.5!", ["don", "t", "stop", "me", "3", "5"]),
        ("STRASSE straße ﬁn", ["strasse", "strasse", "fin"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("Привет, мир", ["привет", "мир"]),
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("e\u0301te\u0301", ["\u00e9t\u00e9"]),
        ("\u202eabc\u202c \x1b[31m", ["abc", "31m"]),
        ("👍🏽 \ud800", []),
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@settings(max_examples=25)
@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_a_similarity_from_0_to_1_and_finds_itself(instruction: str, input_: str, answer: str) -> None:
    own = Example(instruction=instruction, input=input_, output=answer)
    nearest = NearestRows([*ROWS, own]).nearest(instruction, input_, answer)
    if any(words_of(text) for text in (instruction, input_, answer)):
        assert nearest is not None
        assert nearest.similarity == pytest.approx(1)
    else:
        assert nearest is None


def test_hostile_sizes_are_bounded() -> None:
    long = " ".join(f"word{number}" for number in range(200_000))
    row = Example(instruction=long, input="x" * 1_000_000, output=long)
    nearest = NearestRows([row, *ROWS]).nearest(long, "x" * 1_000_000, long)
    assert nearest is not None
    assert nearest.example == row
    assert nearest.similarity == pytest.approx(1)
    assert len(_distinct_words(long)) <= MAX_WORDS
    assert sum(map(len, words_of(long))) <= MAX_CHARACTERS
