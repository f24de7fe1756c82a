"""Every row form becomes examples, and every text of a row is used or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.columns import Columns
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.forms import UnusableRow, examples_of
from assistant.dataset.instructions import dump_rows, read_dataset, read_examples
from assistant.dataset.rows import Row
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError, SettingsError

ASK, SAY = {"role": "user", "content": "Say hi."}, {"role": "assistant", "content": "Hi."}
NO = {"role": "assistant", "content": "No."}
PIRATE = {"role": "system", "content": "Be a pirate."}
HI = [("Say hi.", "", "Hi.")]


def parse(row: object) -> list[Example]:
    return examples_of(Row(1, row), "f.json").examples


def brief(examples: list[Example]) -> list[tuple[str, str, str]]:
    return [(example.instruction, example.input, example.output) for example in examples]


def human(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Say hi.", "output": "Hi."},
        {"Instruction": "Say hi.", " OUTPUT ": "Hi.", "input": None},
        {"prompt": "Say hi.", "completion": "Hi."},
        {"question": "Say hi.", "answer": "Hi."},
        {"query": "Say hi.", "response": "Hi."},
        {"instruction": "Say hi.", "context": "", "response": "Hi.", "category": None},
        {"prompt": [ASK], "completion": [SAY]},
        {"prompt": [ASK], "completion": "Hi."},
        {"messages": [ASK, SAY], "instruction": None, "output": None},
        {"messages": json.dumps([ASK, SAY])},
        {"messages": [ASK | {"content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}, SAY]},
        {"messages": human("Say hi.", "Hi.")},
        {"conversations": human("Say hi.", "Hi."), "tools": "[]", "system": ""},
        {"conversations": [ASK, SAY]},
        {"instruction": "Say hi.", "output": "Hi.", "system": "", "history": []},
        {"instruction": "Say hi.", "output": "Hi.", "history": "[]", "text": "", "messages": ""},
    ],
)
def test_forms_of_the_same_row(row: dict[str, Any]) -> None:
    parsed = examples_of(Row(1, row), "f.json")
    assert brief(parsed.examples) == HI
    assert parsed.unused == {}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [PIRATE, ASK, SAY]},
        {"messages": [PIRATE | {"role": "developer"}, ASK, SAY]},
        {"messages": [ASK, SAY], "system": "Be a pirate."},
        {"conversations": human("Say hi.", "Hi."), "system": "Be a pirate."},
        {"instruction": "Say hi.", "output": "Hi.", "system": "Be a pirate."},
        {"prompt": [PIRATE, ASK], "completion": [SAY]},
    ],
)
def test_system_text_opens_the_instruction(row: dict[str, Any]) -> None:
    assert brief(parse(row)) == [("Be a pirate.\n\nSay hi.", "", "Hi.")]


def test_every_system_message_opens_the_message_after_it() -> None:
    rules = {"role": "system", "content": "Rhyme."}
    first, second = parse({"messages": [PIRATE, rules, ASK, SAY, rules, ASK, SAY]})
    assert first.instruction == "Be a pirate.\n\nRhyme.\n\nSay hi."
    assert second.instruction == "Rhyme.\n\nSay hi."
    with pytest.raises(DataError, match="got user, assistant, system"):
        parse({"messages": [ASK, SAY, rules]})


def test_history_becomes_a_conversation_and_is_written_again(tmp_path: Path) -> None:
    row = {"instruction": "And?", "input": "Of x.", "output": "So.", "history": [["One?", "1"]], "system": "Count."}
    first, second = parse(row)
    assert brief([first, second]) == [("Count.\n\nOne?", "", "1"), ("And?", "Of x.", "So.")]
    assert second.history == (Exchange("Count.\n\nOne?", "1"),)
    (tmp_path / "again.json").write_text(dump_rows([first, second]))
    assert data_fingerprint(read_examples(tmp_path / "again.json")) == data_fingerprint([first, second])


def test_numbers_and_truth_become_text(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(
        '[{"instruction": "6 times 7?", "output": 42, "category": 3, "group": 7.50},'
        ' {"instruction": "True?", "input": 1e3, "output": true}]'
    )
    first, second = read_examples(tmp_path / "rows.json")
    assert (first.output, first.category, first.group) == ("42", "3", "7.50")
    assert (second.input, second.output) == ("1e3", "true")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No."},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [NO]},
        {"prompt": [ASK], "chosen": "Hi.", "rejected": "No."},
        {"chosen": [ASK, SAY], "rejected": [ASK, NO]},
        {"prompt": "Say hi.", "chosen": [ASK, SAY], "rejected": [ASK, NO]},
        {"question": "Say hi.", "chosen": [SAY], "rejected": [NO]},
        {"conversations": None, "instruction": "Say hi.", "chosen": "Hi.", "rejected": "No."},
    ],
)
def test_forms_of_the_same_preference(row: dict[str, Any]) -> None:
    (example,) = parse(row)
    assert (example.instruction, example.output, example.rejected) == ("Say hi.", "Hi.", "No.")


def test_preference_keeps_system_and_history() -> None:
    more = {"role": "user", "content": "Again."}
    (example,) = parse({"chosen": [PIRATE, ASK, SAY, more, SAY], "rejected": [PIRATE, ASK, SAY, more, NO]})
    assert example.history == (Exchange("Be a pirate.\n\nSay hi.", "Hi."),)
    assert (example.instruction, example.output, example.rejected) == ("Again.", "Hi.", "No.")
    (again,) = parse(json.loads(dump_rows([example]))[0])
    assert data_fingerprint([again]) == data_fingerprint([example])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"chosen": [ASK, SAY], "rejected": [ASK | {"content": "x"}, NO]}, "conversations that part earlier"),
        ({"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, "must be another answer"),
        ({"chosen": [SAY], "rejected": [NO]}, "expected a user message"),
        ({"chosen": [ASK], "rejected": [ASK]}, "conversations that part earlier"),
        ({"chosen": [ASK, SAY]}, '"rejected" is missing'),
        ({"prompt": [ASK], "chosen": "Hi.", "rejected": None}, '"rejected" is missing'),
        ({"messages": []}, "at least 2"),
        ({"messages": [ASK, "x"]}, '"messages.1" must be an object, got text'),
        ({"messages": {"role": "user"}}, '"messages" must be a list, got an object'),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "got assistant, user"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, '"history.0.1" is missing'),
        ({"instruction": "x", "output": "y", "history": "no"}, '"history" must be a list, got text'),
        ({"question": "x", "answer": " "}, '"answer" must contain more than white space'),
        ({"q": "x", "a": "y"}, "name them: --columns instruction=FIELD,output=FIELD"),
    ],
)
def test_bad_rows_are_refused_with_their_own_names(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(row)
    assert sentence in str(caught.value)
    assert "f.json, row 1" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [ASK, {"role": "tool", "content": "x"}, SAY]}, "tool calls"),
        ({"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, SAY]}, "tool calls"),
        ({"conversations": [*human("a"), {"from": "function_call", "value": "{}"}]}, "tool calls"),
        ({"messages": [ASK | {"content": [{"type": "image_url"}]}, SAY]}, r"parts that are not text \(image_url\)"),
    ],
)
def test_rows_with_more_than_text_are_unusable(row: dict[str, Any], what: str) -> None:
    with pytest.raises(UnusableRow, match=what):
        parse(row)


def test_fields_that_are_not_used_are_named_once_with_a_count(tmp_path: Path) -> None:
    good = {"instruction": "Say hi.", "output": "Hi."}
    rows = [
        good | {"source": "web", "id": 1, "notes": ""}, good | {"source": "book", "text": "Say hi. Hi."},
        {"messages": [ASK | {"name": "Ann"}, SAY], "tools": '[{"name": "x"}]'},
        {"messages": [ASK, {"role": "tool", "content": "x"}]},
    ]  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    dataset = read_dataset(path)
    assert len(dataset.examples) == 3
    assert dataset.notes == (
        f"{path}: left out 1 row with tool calls.",
        f'{path}: fields that are not used: "source" (2 rows), "id" (1 row), "text" (1 row), "tools" (1 row), '
        '"messages.name" (1 row).',
    )


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{broken\n{"question": "c", "answer": ""}\n')
    with pytest.raises(DataError, match="leave them out with --skip-bad"):
        read_dataset(path)
    dataset = read_dataset(path, skip_bad=True)
    assert (len(dataset.examples), dataset.n_skipped) == (1, 2)
    assert dataset.notes == (f"{path}: left out 2 rows that cannot be used (rows 2, 3).",)
    path.write_text("{broken\n")
    with pytest.raises(DataError, match="row 1: expected one JSON object"):
        read_dataset(path, skip_bad=True)


def test_columns_name_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("frage,antwort,instruction\nWas?,Das.,other\n")
    dataset = read_dataset(path, columns=["instruction=frage", "output=antwort"])
    assert brief(dataset.examples) == [("Was?", "", "Das.")]
    assert dataset.notes == (f'{path}: fields that are not used: "instruction" (1 row).',)
    with pytest.raises(DataError, match=r"got 'what'\. The files have 'antwort', 'frage', 'instruction'"):
        read_dataset(path, columns=["instruction=what", "output=antwort"])
    for words, sentence in [
        (["frage"], "expected FIELD=COLUMN, got 'frage'"),
        (["input=a", "input=b"], "expected every field once"),
        (["input=a", "output=a"], "expected a column for one field"),
        (["inpt=a"], "expected fields of instruction"),
    ]:
        with pytest.raises(SettingsError, match=sentence):
            read_dataset(path, columns=words)


def test_the_first_filled_of_the_usual_names_counts() -> None:
    fields = Columns().fields_of({"output": "", "answer": "a", "response": "b"})
    assert fields.values == {"output": "a"}
    assert fields.others == {"output": "", "response": "b"}
