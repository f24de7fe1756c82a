"""Splits: groups stay together, parts have their shares, and the book's split is reproduced."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.classifier.split import split_labelled
from assistant.dataset.instructions import Example, Exchange, read_examples
from assistant.dataset.splits import Splits, data_fingerprint, prompt_key, split_examples
from assistant.errors import SettingsError
from assistant.settings import SplitMethod
from tests.conftest import shared_file


def parts_of(splits: Splits) -> tuple[tuple[Example, ...], ...]:
    return splits.train, splits.validation, splits.test


def test_grouped_split_keeps_equal_prompts_together() -> None:
    rows = [Example(instruction=f"Q{i // 3}.", output=str(i)) for i in range(120)]
    splits = split_examples(rows)
    train, validation, test = ({prompt_key(example) for example in part} for part in parts_of(splits))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert sum(map(len, parts_of(splits))) == 120


@given(st.lists(st.sampled_from(["a", "A ", "b", "b.", "c", "d", "e"]), min_size=1, max_size=60), st.integers(0, 5))
def test_no_grouped_split_separates_equal_prompts(prompts: list[str], seed: int) -> None:
    rows = [Example(instruction=prompt, output=str(i), source="f", row=i + 1) for i, prompt in enumerate(prompts)]
    parts = parts_of(split_examples(rows, seed=seed, fractions=(0.5, 0.3, 0.2)))
    assert sorted(example.row for part in parts for example in part) == list(range(1, len(rows) + 1))
    keys = [{prompt_key(example) for example in part} for part in parts]
    assert sum(map(len, keys)) == len(set().union(*keys))


def test_exchanges_of_one_conversation_stay_together(tmp_path: Path) -> None:
    conversations = [
        {
            "messages": [
                {"role": role, "content": f"{role} {n} {turn}"} for turn in range(3) for role in ("user", "assistant")
            ]
        }
        for n in range(40)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(conversations))
    splits = split_examples(read_examples(tmp_path / "rows.json"))
    train, validation, test = ({example.row for example in part} for part in parts_of(splits))
    assert not train & test
    assert not train & validation


def test_split_of_distinct_rows_has_exact_sizes_and_follows_the_seed(examples: list[Example]) -> None:
    splits = split_examples(examples)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (34, 2, 4)
    assert split_examples(examples) == splits
    assert split_examples(examples, seed=7).test != splits.test


def test_book_split_keeps_file_order() -> None:
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    splits = split_examples(rows, method="book")
    assert [example.row for example in splits.train] == list(range(1, 936))
    assert [example.row for example in splits.test] == list(range(936, 1046))
    assert [example.row for example in splits.validation] == list(range(1046, 1101))


@pytest.mark.parametrize(("method", "n_leaks"), [("book", [4, 2]), ("grouped", [0, 0])])
def test_only_the_book_split_leaks(method: SplitMethod, n_leaks: list[int]) -> None:
    """The numbers are from shared/reference/book-figures.md, 2.1."""
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    splits = split_examples(rows, method=method)
    train_keys = {prompt_key(example) for example in splits.train}
    held_out = (splits.validation, splits.test)
    assert [sum(prompt_key(example) in train_keys for example in part) for part in held_out] == n_leaks


def test_fractions_must_add_up_to_1(examples: list[Example]) -> None:
    with pytest.raises(SettingsError, match="add up to 1"):
        split_examples(examples, fractions=(0.5, 0.1, 0.1))


def test_book_split_refuses_conversations() -> None:
    turns = (Exchange("Hi", "Hello"),)
    with pytest.raises(SettingsError, match="expected single questions"):
        split_examples([Example(instruction="More", output="Yes", history=turns)], method="book")


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=4, max_size=60), st.integers(0, 9)
)
def test_no_grouped_split_separates_a_group(rows: list[tuple[str, str]], seed: int) -> None:
    examples = [
        Example(instruction=f"Ask {number}", output="a", group=group, category=category, source="f", row=number)
        for number, (group, category) in enumerate(rows, start=1)
    ]
    parts = parts_of(split_examples(examples, seed=seed, fractions=(0.5, 0.3, 0.2)))
    groups = [{example.group for example in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert sorted(example.row for part in parts for example in part) == list(range(1, len(rows) + 1))


def test_every_category_gets_its_share_of_the_test_part() -> None:
    sizes = {"big": 100, "small": 30, "tiny": 10}
    examples = [
        Example(instruction=f"{name} {number}", output="a", category=name, source=name, row=number)
        for name, size in sizes.items()
        for number in range(1, size + 1)
    ]
    for seed in range(5):
        splits = split_examples(examples, seed=seed)
        assert Counter(example.category for example in splits.test) == {"big": 10, "small": 3, "tiny": 1}


def test_fingerprint_depends_on_groups_and_categories(examples: list[Example]) -> None:
    with_group = [replace(example, group="same") for example in examples]
    with_category = [replace(example, category="same") for example in examples]
    assert len({data_fingerprint(rows) for rows in (examples, with_group, with_category)}) == 3


# --- several files ------------------------------------------------------------------------------------------------


def file_of(name: str, keys: list[tuple[str, str | None]]) -> list[Example]:
    """A file's examples, from their prompts and groups."""
    return [
        Example(instruction=prompt, output="A.", group=group, source=name, row=number)
        for number, (prompt, group) in enumerate(keys, start=1)
    ]


KEYS = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.none() | st.sampled_from("stuvwxyz")), min_size=1, max_size=30
)


@given(KEYS, KEYS, KEYS, st.integers(0, 3))
def test_an_added_file_moves_no_row_of_the_files_before_it(
    first: list[tuple[str, str | None]],
    second: list[tuple[str, str | None]],
    third: list[tuple[str, str | None]],
    seed: int,
) -> None:
    files = [file_of(name, keys) for name, keys in (("1", first), ("2", second), ("3", third))]
    fractions = (0.4, 0.4, 0.2)
    two = parts_of(split_examples(files[0] + files[1], seed=seed, fractions=fractions))
    three = parts_of(split_examples([*files[0], *files[1], *files[2]], seed=seed, fractions=fractions))
    for before, after in zip(two, three, strict=True):
        assert list(before) == [example for example in after if example.source != "3"]
    assert sum(map(len, three)) == sum(map(len, files))


def test_a_row_joins_the_part_of_the_rows_of_an_earlier_file_that_it_belongs_to() -> None:
    rows = file_of("1", [(f"Q{n}", None) for n in range(200)])
    parts = {part: [row.instruction for row in split_examples(rows).part(part)] for part in ("train", "test")}
    both = (parts["train"][0], "both"), (parts["test"][0], "both")
    more = file_of("2", [(prompt, None) for prompt in (*parts["train"][1:50], *parts["test"][1:])] + [*both])
    splits = split_examples(rows + more)
    assert {row.instruction for row in splits.test if row.source == "2"} >= set(parts["test"])
    assert {row.instruction for row in splits.train if row.source == "2"} <= set(parts["train"])
    # A training row of the first file and a test row of it meet in the second: test comes first.
    assert [row.instruction for row in splits.test if row.group == "both"] == [prompt for prompt, _ in both]


def test_the_fingerprint_of_several_files_depends_on_where_they_end() -> None:
    keys: list[tuple[str, str | None]] = [(f"Q{n}", None) for n in range(6)]
    as_one, halves, other = (
        [row for number, part in enumerate(parts) for row in file_of(str(number), part)]
        for parts in ([keys], [keys[:3], keys[3:]], [keys[:2], keys[2:]])
    )
    assert len({data_fingerprint(rows) for rows in (as_one, halves, other)}) == 3


@pytest.mark.parametrize("rows_per_file", [1, 3, 25, 200])
def test_many_small_files_get_the_shares_of_one_large_file(rows_per_file: int) -> None:
    prompts: list[tuple[str, str | None]] = [(f"Q{n}", None) for n in range(200)]
    files = [file_of(str(start), prompts[start : start + rows_per_file]) for start in range(0, 200, rows_per_file)]
    splits = split_examples([row for rows in files for row in rows])
    n_train, n_validation, n_test = map(len, parts_of(splits))
    assert n_train + n_validation + n_test == 200
    assert n_test == 20
    assert 10 <= n_validation <= 11  # After some files one row more is due than after the last one.


def test_many_small_files_of_labelled_texts_get_the_shares_of_one_large_file() -> None:
    rows = [replace(row, output="ab"[row.row % 2]) for row in file_of("all", [(f"Q{n}", None) for n in range(100)])]
    one, many = (split_labelled(texts) for texts in (rows, [replace(row, source=str(row.row)) for row in rows]))
    assert [len(part) for part in parts_of(one)] == [len(part) for part in parts_of(many)]
    assert {row.output for row in many.test} == {"a", "b"}
