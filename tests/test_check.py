"""`assistant data check`: repeated, contradicting and leaking rows. The book's file has known ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import assistant.cli
from assistant.check import NEAR, check_examples, prompt_grams
from assistant.instructions import Example, dump_rows, read_examples
from assistant.splits import Splits, split_examples

from .conftest import shared_file


def parts(train: list[Example], validation: list[Example], test: list[Example]) -> Splits:
    return Splits(
        train=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
        method="grouped",
        seed=1,
        fractions=(0.5, 0.25, 0.25),
        data_fingerprint="",
    )


def row(number: int, instruction: str, output: str = "Yes.", input: str = "") -> Example:
    return Example(instruction=instruction, input=input, output=output, source="rows.json", row=number)


def test_the_books_file_holds_what_is_known_of_it() -> None:
    """Counted for `shared/reference/fine-tuning.md`: 20 groups of 45 rows; 4 validation and 2 test rows leak."""
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    found = check_examples(examples, split_examples(examples, method="book"))
    assert (len(found.conflicts), sum(len(group) for group in found.conflicts)) == (20, 45)
    assert not found.duplicates
    exact = [twin for twin in found.twins if twin.exact]
    assert [sum(twin.part == part for twin in exact) for part in ("validation", "test")] == [4, 2]
    assert not [twin for twin in check_examples(examples, split_examples(examples)).twins if twin.exact]


def test_repeats_are_told_from_contradictions() -> None:
    examples = [row(1, "Say hi."), row(2, "say hi"), row(3, "Say ho."), row(4, "Say  HO!", "No."), row(5, "Say ha.")]
    found = check_examples(examples, parts(examples, [], []))
    assert [[e.row for e in group] for group in found.duplicates] == [[1, 2]]
    assert [[e.row for e in group] for group in found.conflicts] == [[3, 4]]
    assert not found.is_clean


def test_twins_are_found_across_parts_alone() -> None:
    long = "Please tell me in a few words what the weather may be like in the town of"
    train = [row(1, f"{long} Ulm"), row(2, f"{long} Ulm", "No.")]
    found = check_examples([], parts(train, [row(3, f"{long} Bern")], [row(4, f"{long} ulm."), row(5, "Say ho.")]))
    twins = [(t.part, t.held_out.row, t.learnt_part, t.learnt.row, t.exact) for t in found.twins]
    assert twins == [("validation", 3, "train", 1, False), ("test", 4, "train", 1, True)]
    assert found.twins[0].similarity >= NEAR
    assert found.twins[1].similarity == 1


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=12), st.lists(st.sampled_from("abcdefg"), max_size=12))
def test_the_nearest_twin_is_the_one_that_comparing_all_pairs_finds(words: list[str], others: list[str]) -> None:
    train = [row(1, " ".join(words)), row(2, " ".join(others) or "x"), row(3, "a b c d e")]
    asked = row(4, " ".join([*words[1:], "g"]))
    found = check_examples([], parts(train, [], [asked])).twins
    ours = prompt_grams(asked)
    best = max(len(ours & prompt_grams(e)) / len(ours | prompt_grams(e)) for e in train)
    assert bool(found) == (best >= NEAR)
    assert not found or found[0].similarity == pytest.approx(best, abs=1e-3)


def test_the_command_names_rows_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, "Say hi."), row(2, "say hi", "No \x1b[31m"), *(row(n, f"Say number {n}.") for n in range(3, 30))]
    Path("mine.json").write_text(dump_rows(rows))
    done = CliRunner().invoke(assistant.cli.app, ["data", "check", "mine.json"])
    assert done.exit_code == 1
    assert "different answers: 1 group, 2 rows" in done.output
    assert "mine.json, rows 1, 2: Say hi." in done.output
    found = json.loads(CliRunner().invoke(assistant.cli.app, ["data", "check", "mine.json", "--json"]).output)
    assert found["conflicts"] == [[{"file": "mine.json", "row": 1}, {"file": "mine.json", "row": 2}]]
    Path("mine.json").write_text(dump_rows(rows[2:]))
    done = CliRunner().invoke(assistant.cli.app, ["data", "check", "mine.json"])
    assert (done.exit_code, "no twin" in done.output) == (0, True)
