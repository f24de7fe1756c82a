"""The split of labelled texts: every row once, equal texts together, every label everywhere."""

from __future__ import annotations

from collections import Counter

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.classifier.split import balance_as_book, split_labelled
from assistant.dataset.examples import Example
from assistant.dataset.splits import Splits, normalise, split_examples
from assistant.errors import DataError, SettingsError
from assistant.settings import LabelSplitSettings

PARTS = ("train", "validation", "test")


def rows(labels: list[str], texts: list[str] | None = None) -> list[Example]:
    texts = texts or [f"text {place}" for place in range(len(labels))]
    pairs = enumerate(zip(texts, labels, strict=True), start=1)
    return [Example(instruction=text, output=label, source="a.csv", row=row) for row, (text, label) in pairs]


def labels_in(splits: Splits, part: str) -> Counter[str]:
    return Counter(example.output for example in splits.part(part))


labelled = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "x", "x", "y", "z"])), min_size=2, max_size=60
)


@given(labelled, st.integers(0, 9))
def test_every_row_is_in_one_part_and_equal_texts_are_in_the_same(pairs: list[tuple[str, str]], seed: int) -> None:
    texts = [text.upper() + " !" if place % 2 else text for place, (text, _) in enumerate(pairs)]
    examples = rows([label for _, label in pairs], texts)
    splits = split_labelled(examples, LabelSplitSettings(split_seed=seed))
    assert sorted(e.row for part in PARTS for e in splits.part(part)) == [e.row for e in examples]
    homes: dict[str, set[str]] = {}
    for part in PARTS:
        for example in splits.part(part):
            homes.setdefault(normalise(example.instruction), set()).add(part)
    assert all(len(parts) == 1 for parts in homes.values())


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 9))
def test_a_label_with_three_texts_is_in_every_part(sizes: list[int], seed: int) -> None:
    examples = rows([f"label {place}" for place, size in enumerate(sizes) for _ in range(size)])
    splits = split_labelled(examples, LabelSplitSettings(split_seed=seed))
    for place, size in enumerate(sizes):
        counts = [labels_in(splits, part)[f"label {place}"] for part in ("train", "test", "validation")]
        assert sum(counts) == size
        assert all(counts[: min(size, 3)])
        for count, share in ((counts[1], 0.2), (counts[2], 0.1)):
            assert abs(count - size * int(share * len(examples)) / len(examples)) <= 1


def test_parts_have_the_asked_size_and_depend_on_the_seed_only() -> None:
    examples = rows(["x", "y", "y"] * 100)
    splits = split_labelled(examples)
    assert [len(splits.part(part)) for part in PARTS] == [210, 30, 60]
    assert labels_in(splits, "test") == {"x": 20, "y": 40}
    assert split_labelled(examples) == splits
    assert split_labelled(examples, LabelSplitSettings(split_seed=5)).test != splits.test
    assert (splits.method, splits.seed, splits.fractions) == ("stratified", 123, (0.7, 0.2, 0.1))


def test_without_a_validation_share_no_row_is_validation() -> None:
    splits = split_labelled(rows(["x", "y"] * 20), LabelSplitSettings(validation_share=0, test_share=0.5))
    assert [len(splits.part(part)) for part in PARTS] == [20, 0, 20]


def test_the_book_split_is_that_of_the_books_code() -> None:
    examples = rows(["not spam"] * 55 + ["spam"] * 28)
    frame = pandas.DataFrame({"row": [e.row for e in examples], "Label": [e.output for e in examples]})
    spam, ham = frame[frame["Label"] == "spam"], frame[frame["Label"] == "not spam"]
    balanced = pandas.concat([ham.sample(spam.shape[0], random_state=123), spam])
    shuffled = balanced.sample(frac=1, random_state=123).reset_index(drop=True)
    train_end = int(len(shuffled) * 0.7)
    validation_end = train_end + int(len(shuffled) * 0.1)
    splits = split_labelled(balance_as_book(examples, 123), LabelSplitSettings(split="book"))
    expected = [shuffled[:train_end], shuffled[train_end:validation_end], shuffled[validation_end:]]
    assert [[e.row for e in splits.part(part)] for part in PARTS] == [list(part["row"]) for part in expected]


def test_a_label_that_training_lacks_is_named_with_its_row() -> None:
    with pytest.raises(
        DataError, match=r"a.csv, row 9: expected a label that training rows have, got 'rare' in a test"
    ):
        split_labelled(rows(["x"] * 8 + ["rare"] + ["x"] * 11), LabelSplitSettings(split="book", split_seed=2))
    assert labels_in(split_labelled(rows(["x"] * 8 + ["rare"])), "train")["rare"] == 1


def test_instructions_have_no_stratified_split() -> None:
    with pytest.raises(SettingsError, match="expected grouped or book for instructions"):
        split_examples(rows(["x", "y"]), method="stratified")
