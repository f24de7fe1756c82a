"""Reading, validating and splitting instruction files."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.instructions import OPENING_WORDS, Example, Exchange, Row, _examples_of, dump_rows, read_examples
from assistant.dataset.splits import data_fingerprint, prompt_key, split_examples
from assistant.errors import DataError, SettingsError
from tests.conftest import shared_file

GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_examples(path)
    return caught.value.problems


# --- forms --------------------------------------------------------------------------------------------------------


def test_alpaca_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.json", [GOOD, {"instruction": "Sum", "input": None, "output": "3", "category": "sums"}]
    )
    first, second = read_examples(path)
    assert first == Example(instruction="Say hi.", output="Hi.", source=str(path), row=1)
    assert (second.input, second.category, second.where) == ("", "sums", f"{path}, row 2")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_one_object_a_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, json.dumps(GOOD) + "\r\n\n" + json.dumps(GOOD | {"output": "Hello."}) + "\n")
    assert [(e.row, e.output) for e in read_examples(path)] == [(1, "Hi."), (3, "Hello.")]


def test_messages_become_one_example_an_exchange(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ]
    first, second = read_examples(write(tmp_path / "m.json", [{"messages": messages}]))
    assert (first.instruction, first.output, first.history) == ("Be brief.\n\nCapital of France?", "Paris.", ())
    assert (second.instruction, second.output) == ("Of Italy?", "Rome.")
    assert second.history == (Exchange("Be brief.\n\nCapital of France?", "Paris."),)


def test_sharegpt_means_the_same_as_messages(tmp_path: Path) -> None:
    shared = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
    messages = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
    a = read_examples(write(tmp_path / "a.json", shared))
    b = read_examples(write(tmp_path / "b.json", messages))
    assert data_fingerprint(a) == data_fingerprint(b)


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    turns = (Exchange("Hi", "Hello"),)
    before = [
        Example(instruction="Say", input="é😀", output="x", category="c"),
        Example(instruction="More", output="Yes", history=turns),
    ]
    after = read_examples(write(tmp_path / "rows.json", dump_rows(before)))
    # The conversation's earlier exchange is an example of its own when it is read.
    assert data_fingerprint([after[0], after[2]]) == data_fingerprint(before)
    again = read_examples(write(tmp_path / "again.json", dump_rows(after)))
    assert data_fingerprint(again) == data_fingerprint(after)  # and it is not written twice


def test_the_books_file() -> None:
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    assert len(rows) == 1100
    assert sum(bool(row.input) for row in rows) == 325


# --- faults -------------------------------------------------------------------------------------------------------


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    rows: list[object] = [dict(GOOD) for _ in range(20)]
    rows[16] = {"instruction": "No answer", "input": ""}
    rows[17] = GOOD | {"output": None}
    rows[18] = GOOD | {"output": " \n\t "}
    rows[19] = "text"
    found = problems(write(tmp_path / "rows.json", rows))
    assert found == (
        f"{tmp_path}/rows.json, row 17: \"output\" is missing (the row has 'instruction', 'input').",
        f'{tmp_path}/rows.json, row 18: "output" must be text, got null.',
        f"{tmp_path}/rows.json, row 19: \"output\" must contain more than white space, got ' \\n\\t '.",
        f'{tmp_path}/rows.json, row 20: expected an object with "instruction" and "output", or "messages", '
        'or "conversations", or "text", or "chosen" and "rejected", got text.',
    )


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.\.\. and 30 more\.$") as caught:
        read_examples(write(tmp_path / "rows.json", [{"instruction": "x"}] * 50))
    assert len(caught.value.problems) == 50


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected a list of rows, got an empty file"),
        (b" \n ", "expected a list of rows, got an empty file"),
        (b"[]", "expected at least one row, got an empty list"),
        (b'{"a": 1, "b": 2}', "expected a list of rows, got one JSON object with the keys 'a', 'b'"),
        (b'"text"', "expected a list of rows, got text"),
        (b'[{"instruction": ', "line 1, column"),
        (b"\xff\xfe[\x00]\x00", "expected UTF-8, got UTF-16"),
        (b'[{"instruction": "caf\xe9"}]', "expected UTF-8, got the byte 0xe9 at offset 21"),
        (b'[{"instruction": "a\x00b"}]', "got a NUL byte"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "cannot be read"),
    ],
)
def test_files_that_are_no_list_of_rows(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    (found,) = problems(path)
    assert sentence in found
    assert str(path) in found


def test_missing_file(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "no.json")
    assert "got no such file" in found


def test_a_broken_line_of_jsonl_is_named(tmp_path: Path) -> None:
    found = problems(write(tmp_path / "rows.jsonl", json.dumps(GOOD) + "\n{broken\n[1,\n"))
    assert [f"row {number}" in text for number, text in zip((2, 3), found, strict=True)] == [True, True]


@pytest.mark.parametrize("text", ["a\x00b", "half \ud83d pair"])
def test_characters_no_tokenizer_can_carry(tmp_path: Path, text: str) -> None:
    (found,) = problems(write(tmp_path / "rows.json", [GOOD | {"instruction": text}]))
    assert '"instruction" must not contain' in found


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (["user", "user"], "got user, user"),
        (["assistant", "user"], "got assistant, user"),
        (["user", "assistant", "user"], "got user, assistant, user"),
        (["system", "user"], "got user"),
        (["user", "tool"], "messages.1.role"),
    ],
)
def test_turns_out_of_order(tmp_path: Path, roles: list[str], sentence: str) -> None:
    row = {"messages": [{"role": role, "content": "x"} for role in roles]}
    (found,) = problems(write(tmp_path / "rows.json", [row]))
    assert sentence in found
    assert "row 1" in found


def test_bom_and_crlf_are_taken_as_meant(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps([GOOD | {"output": "a\r\nb\rc"}], indent=1).replace("\n", "\r\n").encode()
    )
    (example,) = read_examples(path)
    assert example.output == "a\nb\nc"


def test_emoji_stay(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path / "rows.json", [GOOD | {"output": "👩‍🚀 ok"}]))
    assert example.output == "👩‍🚀 ok"


def test_a_row_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    started = time.monotonic()
    (example,) = read_examples(write(tmp_path / "rows.json", [GOOD | {"input": "word " * 2_000_000}]))
    assert len(example.input) == 10_000_000
    assert time.monotonic() - started < 60  # a guard against quadratic work, not a measurement


# --- splits -------------------------------------------------------------------------------------------------------


def test_split_by_group_keeps_twins_together() -> None:
    rows = [Example(instruction=f"Q{i // 3}.", output=str(i)) for i in range(120)]
    splits = split_examples(rows)
    keys = [{prompt_key(e) for e in part} for part in (splits.train, splits.validation, splits.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 120


@given(st.lists(st.sampled_from(["a", "A ", "b", "b.", "c", "d", "e"]), min_size=1, max_size=60), st.integers(0, 5))
def test_no_split_ever_separates_equal_prompts(prompts: list[str], seed: int) -> None:
    rows = [Example(instruction=prompt, output=str(i), source="f", row=i + 1) for i, prompt in enumerate(prompts)]
    splits = split_examples(rows, seed=seed, fractions=(0.5, 0.3, 0.2))
    parts = [splits.train, splits.validation, splits.test]
    assert sorted(e.row for part in parts for e in part) == list(range(1, len(rows) + 1))
    where = [{prompt_key(e) for e in part} for part in parts]
    assert sum(len(keys) for keys in where) == len(set().union(*where))


def test_exchanges_of_one_conversation_stay_together(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": r, "content": f"{r} {n} {k}"} for k in range(3) for r in ("user", "assistant")]}
        for n in range(40)
    ]
    splits = split_examples(read_examples(write(tmp_path / "rows.json", rows)))
    rows_of = [{e.row for e in part} for part in (splits.train, splits.validation, splits.test)]
    assert not rows_of[0] & rows_of[2]
    assert not rows_of[0] & rows_of[1]


def test_split_of_distinct_rows_has_the_promised_sizes(examples: list[Example]) -> None:
    splits = split_examples(examples)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (34, 2, 4)
    again, other = split_examples(examples), split_examples(examples, seed=7)
    assert again == splits
    assert other.test != splits.test


def test_the_books_split_is_the_files_order() -> None:
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    splits = split_examples(rows, method="book")
    assert [e.row for e in splits.train] == list(range(1, 936))
    assert [e.row for e in splits.test] == list(range(936, 1046))
    assert [e.row for e in splits.validation] == list(range(1046, 1101))


def test_only_the_books_split_leaks() -> None:
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    leaks = {}
    for method in ("book", "grouped"):
        splits = split_examples(rows, method=method)
        learnt = {prompt_key(e) for e in splits.train}
        leaks[method] = [sum(prompt_key(e) in learnt for e in part) for part in (splits.validation, splits.test)]
    assert leaks == {"book": [4, 2], "grouped": [0, 0]}  # shared/reference/book-figures.md, 2.1


def test_shares_must_add_up(examples: list[Example]) -> None:
    with pytest.raises(SettingsError, match="add up to 1"):
        split_examples(examples, fractions=(0.5, 0.1, 0.1))


def test_the_books_split_would_cut_conversations() -> None:
    turns = (Exchange("Hi", "Hello"),)
    with pytest.raises(SettingsError, match="expected single questions"):
        split_examples([Example(instruction="More", output="Yes", history=turns)], method="book")


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.json"))
    path.write_text(json.dumps([GOOD]))
    (example,) = read_examples(path)
    assert example.source == f"{tmp_path}/bad\\xff.json"


# --- groups, categories and plain text ----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=4, max_size=60), st.integers(0, 9)
)
def test_no_split_ever_separates_a_group(rows: list[tuple[str, str]], seed: int) -> None:
    examples = [
        Example(instruction=f"Ask {number}", output="a", group=group, category=category, source="f", row=number)
        for number, (group, category) in enumerate(rows, start=1)
    ]
    splits = split_examples(examples, seed=seed, fractions=(0.5, 0.3, 0.2))
    parts = [splits.train, splits.validation, splits.test]
    groups = [{example.group for example in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert sorted(example.row for part in parts for example in part) == list(range(1, len(rows) + 1))


def test_every_category_gets_its_share_of_the_test() -> None:
    sizes = {"big": 100, "small": 30, "tiny": 10}
    examples = [
        Example(instruction=f"{name} {number}", output="a", category=name, source=name, row=number)
        for name, size in sizes.items()
        for number in range(1, size + 1)
    ]
    for seed in range(5):
        splits = split_examples(examples, seed=seed)
        assert Counter(example.category for example in splits.test) == {"big": 10, "small": 3, "tiny": 1}


def test_the_fingerprint_sees_what_a_split_goes_by(examples: list[Example]) -> None:
    marked = [replace(example, group="one") for example in examples]
    named = [replace(example, category="one") for example in examples]
    assert len({data_fingerprint(rows) for rows in (examples, marked, named)}) == 3


def test_groups_and_categories_are_read_and_written_back(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Ask", "input": "", "output": "a", "category": "c", "group": "g"},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}], "group": "h"},
        {"text": "One two\n\nthree.", "group": "t"},
    ]
    read = read_examples(write(tmp_path / "rows.json", rows))
    assert [(e.group, e.category) for e in read] == [("g", "c"), ("h", None), ("t", None)]
    again = read_examples(write(tmp_path / "again.json", json.loads(dump_rows(read))))
    assert [(e.instruction, e.output, e.group) for e in again] == [(e.instruction, e.output, e.group) for e in read]


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1).filter(str.strip))
def test_plain_text_is_cut_behind_its_opening_words_and_loses_nothing(text: str) -> None:
    (example,) = _examples_of(Row(1, {"text": text}), "f.jsonl")
    assert example.is_text
    assert example.instruction + example.output == text
    assert example.instruction.strip()
    assert len(example.instruction.split()) <= OPENING_WORDS
    assert example.as_row() == {"text": text}


def test_a_row_with_an_instruction_is_no_plain_text(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path / "rows.json", [{"instruction": "Ask", "output": "a", "text": "more"}]))
    assert not example.is_text
    with pytest.raises(DataError, match='row 1: "text" must contain more than white space'):
        read_examples(write(tmp_path / "rows.json", [{"text": " "}]))
