"""Files in another format or row form hold the same examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from assistant.dataset.convert import RowForm, convert_rows, encode_rows
from assistant.dataset.instructions import read_dataset, read_examples
from assistant.dataset.splits import data_fingerprint
from assistant.errors import DataError, PrerequisiteError, SettingsError

ALPACA = [
    {"instruction": "Say; hi", "input": 'a "b",\n\tc', "output": "Hi\nthere.", "category": "c", "group": "g"},
    {"instruction": "Größe?", "output": "[5]"},
]
TALK = [{"messages": [{"role": ("user", "assistant")[n % 2], "content": f"text {n}"} for n in range(4)], "group": "h"}]
PAIRS = [{"prompt": "Say hi", "chosen": "Hi", "rejected": "No"}]
PAIR_TALK = [{"instruction": "B", "input": "x", "chosen": "1", "rejected": "2", "history": [["A", "a"]]}]
TEXTS = [{"text": "Once upon a time\n\nthere was a cat that sat on a mat."}]
ENDINGS = [".json", ".jsonl", ".csv", ".tsv", ".parquet", ".json.gz", ".csv.gz"]


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("rows", [ALPACA, TALK, PAIRS, PAIR_TALK, TEXTS, ALPACA + TALK + PAIRS + PAIR_TALK + TEXTS])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_holds_every_form(tmp_path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    before = read_examples(write(tmp_path / "rows.json", rows))
    path = tmp_path / f"new{ending}"
    path.write_bytes(encode_rows(convert_rows(before), path))
    assert data_fingerprint(read_examples(path)) == data_fingerprint(before)
    assert path.read_bytes() == encode_rows(convert_rows(read_examples(path)), path)


@pytest.mark.parametrize("form", ["alpaca", "messages", "sharegpt"])
def test_conversations_keep_their_examples_in_every_form(tmp_path: Path, form: RowForm) -> None:
    before = read_examples(write(tmp_path / "rows.json", TALK + ALPACA[1:]))
    after = read_examples(write(tmp_path / "new.json", convert_rows(before, form)))
    assert data_fingerprint(after) == data_fingerprint(before)


def test_an_input_follows_its_instruction_in_a_message(tmp_path: Path) -> None:
    before = read_examples(write(tmp_path / "rows.json", ALPACA[:1]))
    (row,) = convert_rows(before, "messages")
    assert row["messages"][0]["content"] == 'Say; hi\n\na "b",\n\tc'
    assert (row["category"], row["group"]) == ("c", "g")


@pytest.mark.parametrize("form", get_args(RowForm))
def test_a_form_without_a_place_for_text_is_refused(tmp_path: Path, form: RowForm) -> None:
    before = read_examples(write(tmp_path / "rows.json", TEXTS + PAIRS * 2 + ALPACA))
    with pytest.raises(DataError) as caught:
        convert_rows(before, form)
    answers = "2 rows have no rejected answer" if form == "preference" else "2 rows have a rejected answer"
    assert f"--to {form}: 1 rows are plain text" in str(caught.value)
    assert answers in str(caught.value)


def test_fields_without_a_meaning_are_kept(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "b", "id": 7, "score": 0.5, "text": "a b", "tags": ["x"], "prompt": "p"}]
    dataset = read_dataset(write(tmp_path / "rows.json", rows), keep_others=True)
    (row,) = convert_rows(dataset.examples, "messages", others=dataset.others)
    kept = {"id": 7, "score": 0.5, "text_unused": "a b", "tags": ["x"], "prompt_unused": "p"}
    assert {name: row[name] for name in kept} == kept
    path = tmp_path / "new.csv"
    path.write_bytes(encode_rows([row], path))
    assert data_fingerprint(read_examples(path)) == data_fingerprint(dataset.examples)


def test_unknown_endings_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"expected a name that ends in .*, got \.xlsx"):
        encode_rows([], Path("rows.xlsx"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(PrerequisiteError, match="pip install pyarrow"):
        encode_rows([], Path("rows.parquet"))
