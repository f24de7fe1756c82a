"""Reading, validating and writing instruction files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.dataset.forms import OPENING_WORDS, examples_of
from assistant.dataset.instructions import Example, Exchange, dump_rows, read_examples
from assistant.dataset.rows import Row
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError
from tests.conftest import shared_file

GOOD = {"instruction": "Say hi.", "input": "", "output": "Hi."}


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def read_problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_examples(path)
    return caught.value.problems


# --- row forms ----------------------------------------------------------------------------------------------------


def test_alpaca_rows_become_examples(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.json", [GOOD, {"instruction": "Sum", "input": None, "output": "3", "category": "sums"}]
    )
    first, second = read_examples(path)
    assert first == Example(instruction="Say hi.", output="Hi.", source=str(path), row=1)
    assert (second.input, second.category, second.where) == ("", "sums", f"{path}, row 2")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_jsonl_examples_have_line_numbers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, json.dumps(GOOD) + "\r\n\n" + json.dumps(GOOD | {"output": "Hello."}) + "\n")
    assert [(example.row, example.output) for example in read_examples(path)] == [(1, "Hi."), (3, "Hello.")]


def test_messages_become_one_example_per_exchange(tmp_path: Path) -> None:
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


def test_sharegpt_rows_equal_messages_rows(tmp_path: Path) -> None:
    conversations = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
    messages = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
    from_sharegpt = read_examples(write(tmp_path / "sharegpt.json", conversations))
    from_messages = read_examples(write(tmp_path / "messages.json", messages))
    assert data_fingerprint(from_sharegpt) == data_fingerprint(from_messages)


def test_dumped_rows_can_be_read_again(tmp_path: Path) -> None:
    turns = (Exchange("Hi", "Hello"),)
    before = [
        Example(instruction="Say", input="é😀", output="x", category="c"),
        Example(instruction="More", output="Yes", history=turns),
    ]
    after = read_examples(write(tmp_path / "rows.json", dump_rows(before)))
    # The conversation's first exchange becomes a separate example.
    assert data_fingerprint([after[0], after[2]]) == data_fingerprint(before)
    again = read_examples(write(tmp_path / "again.json", dump_rows(after)))
    assert data_fingerprint(again) == data_fingerprint(after)  # It is written once.


def test_the_book_file_has_1100_rows_and_325_inputs() -> None:
    rows = read_examples(shared_file("data/book-instruction-data.json"))
    assert len(rows) == 1100
    assert sum(bool(row.input) for row in rows) == 325


# --- faults -------------------------------------------------------------------------------------------------------


def test_all_invalid_rows_are_named_at_once(tmp_path: Path) -> None:
    rows: list[object] = [dict(GOOD) for _ in range(20)]
    rows[16] = {"instruction": "No answer", "input": ""}
    rows[17] = GOOD | {"output": None}
    rows[18] = GOOD | {"output": " \n\t "}
    rows[19] = "text"
    assert read_problems(write(tmp_path / "rows.json", rows)) == (
        f"{tmp_path}/rows.json, row 17: \"output\" is missing (the row has 'instruction', 'input').",
        f'{tmp_path}/rows.json, row 18: "output" must be text, got null.',
        f"{tmp_path}/rows.json, row 19: \"output\" must contain more than white space, got ' \\n\\t '.",
        f'{tmp_path}/rows.json, row 20: expected an object with "instruction" and "output", or "messages", '
        'or "conversations", or "text", or "chosen" and "rejected", got text.',
    )


def test_empty_list_is_refused(tmp_path: Path) -> None:
    (problem,) = read_problems(write(tmp_path / "rows.json", []))
    assert f"{tmp_path}/rows.json: expected at least one row, got an empty list" in problem


def test_message_shows_twenty_problems_and_counts_the_rest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.\.\. and 30 more\.$") as caught:
        read_examples(write(tmp_path / "rows.json", [{"instruction": "x"}] * 50))
    assert len(caught.value.problems) == 50


@pytest.mark.parametrize("text", ["a\x00b", "half \ud83d pair"])
def test_characters_that_no_tokenizer_can_encode_are_refused(tmp_path: Path, text: str) -> None:
    (problem,) = read_problems(write(tmp_path / "rows.json", [GOOD | {"instruction": text}]))
    assert '"instruction" must not contain' in problem


def test_a_blank_line_joins_neighbours_of_one_role(tmp_path: Path) -> None:
    turns = [("system", "Brief."), ("system", "Kind."), ("user", "One"), ("user", "Two"), ("assistant", "3")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (example,) = read_examples(write(tmp_path / "rows.json", [row]))
    assert (example.instruction, example.output) == ("Brief.\n\nKind.\n\nOne\n\nTwo", "3")


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        (["user", "user"], "got user."),
        (["assistant", "user"], "got assistant, user"),
        (["user", "assistant", "user"], "got user, assistant, user"),
        (["system", "user"], "got user"),
        (["user", "robot"], "messages.1.role"),
    ],
)
def test_turns_in_a_wrong_order_are_refused(tmp_path: Path, roles: list[str], sentence: str) -> None:
    row = {"messages": [{"role": role, "content": "x"} for role in roles]}
    (problem,) = read_problems(write(tmp_path / "rows.json", [row]))
    assert sentence in problem
    assert "row 1" in problem


def test_bom_is_ignored_and_line_ends_are_normalised(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps([GOOD | {"output": "a\r\nb\rc"}], indent=1).replace("\n", "\r\n").encode()
    )
    (example,) = read_examples(path)
    assert example.output == "a\nb\nc"


def test_emoji_are_unchanged(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path / "rows.json", [GOOD | {"output": "👩‍🚀 ok"}]))
    assert example.output == "👩‍🚀 ok"


def test_a_row_of_ten_megabytes_is_read(tmp_path: Path) -> None:
    started = time.monotonic()
    (example,) = read_examples(write(tmp_path / "rows.json", [GOOD | {"input": "word " * 2_000_000}]))
    assert len(example.input) == 10_000_000
    assert time.monotonic() - started < 60  # Fails if the work is quadratic.


def test_file_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.json"))
    path.write_text(json.dumps([GOOD]))
    (example,) = read_examples(path)
    assert example.source == f"{tmp_path}/bad\\xff.json"


def test_groups_and_categories_survive_dump_and_read(tmp_path: Path) -> None:
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
def test_plain_text_is_cut_after_its_opening_words_without_loss(text: str) -> None:
    (example,) = examples_of(Row(1, {"text": text}), "f.jsonl").examples
    assert example.is_text
    assert example.instruction + example.output == text
    assert example.instruction.strip()
    assert len(example.instruction.split()) <= OPENING_WORDS
    assert example.as_row() == {"text": text}


def test_row_with_text_and_instruction_is_an_instruction(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path / "rows.json", [{"instruction": "Ask", "output": "a", "text": "more"}]))
    assert not example.is_text
    with pytest.raises(DataError, match='row 1: "text" must contain more than white space'):
        read_examples(write(tmp_path / "rows.json", [{"text": " "}]))
