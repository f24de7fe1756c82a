"""Checks of a data set, and the commands `assistant data check` and `assistant data show`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from assistant.cli.app import app
from assistant.dataset.check import MIN_SIMILARITY, check_examples, fix_examples, prompt_grams, suspicious_traits
from assistant.dataset.instructions import Example, dump_rows, read_examples
from assistant.dataset.splits import Splits, split_examples
from assistant.shipped import shipped
from tests.conftest import shared_file

WEATHER = "Please tell me in a few words what the weather may be like in the town of"
"""A prompt that is long enough for near-duplicates: the name of a town changes only one of its 4-grams."""


def make_splits(train: list[Example], validation: list[Example], test: list[Example]) -> Splits:
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


def row_numbers(groups: Sequence[Sequence[Example]]) -> list[list[int]]:
    return [[example.row for example in group] for group in groups]


def test_known_faults_of_the_book_file_are_found() -> None:
    """Counted for `shared/reference/fine-tuning.md`: 20 groups of 45 rows; 4 validation and 2 test rows leak."""
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    findings = check_examples(examples, split_examples(examples, method="book"))
    assert (len(findings.conflicts), sum(len(group) for group in findings.conflicts)) == (20, 45)
    assert not findings.duplicates
    exact = [leak for leak in findings.leaks if leak.exact]
    assert [sum(leak.part == part for leak in exact) for part in ("validation", "test")] == [4, 2]
    assert not [leak for leak in check_examples(examples, split_examples(examples)).leaks if leak.exact]


def test_duplicates_have_the_same_answer_and_conflicts_different_ones() -> None:
    examples = [row(1, "Say hi."), row(2, "say hi"), row(3, "Say ho."), row(4, "Say  HO!", "No."), row(5, "Say ha.")]
    findings = check_examples(examples, make_splits(examples, [], []))
    assert row_numbers(findings.duplicates) == [[1, 2]]
    assert row_numbers(findings.conflicts) == [[3, 4]]
    assert not findings.is_clean


def test_preferences_conflict_only_if_one_pair_has_both_orders() -> None:
    pairs = [replace(row(1, "Say hi.", "Hi."), rejected="No."), replace(row(2, "Say hi.", "Hi!"), rejected="No.")]
    assert check_examples(pairs, make_splits(pairs, [], [])).is_clean
    more = [*pairs, replace(row(3, "Say hi.", "No."), rejected="Hi!"), replace(pairs[0], row=4)]
    findings = check_examples(more, make_splits(more, [], []))
    assert row_numbers(findings.conflicts) == [[2, 3]]
    assert row_numbers(findings.duplicates) == [[1, 4]]


def test_leaks_are_found_only_across_parts() -> None:
    train = [row(1, f"{WEATHER} Ulm"), row(2, f"{WEATHER} Ulm", "No.")]
    validation, test = [row(3, f"{WEATHER} Bern")], [row(4, f"{WEATHER} ulm."), row(5, "Say ho.")]
    near, exact = check_examples([], make_splits(train, validation, test)).leaks
    assert (near.part, near.held_out.row, near.twin_part, near.twin.row) == ("validation", 3, "train", 1)
    assert not near.exact
    assert near.similarity >= MIN_SIMILARITY
    assert (exact.part, exact.held_out.row, exact.twin_part, exact.twin.row) == ("test", 4, "train", 1)
    assert exact.exact
    assert exact.similarity == 1


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=12), st.lists(st.sampled_from("abcdefg"), max_size=12))
def test_index_finds_the_same_twin_as_comparing_all_pairs(words: list[str], other_words: list[str]) -> None:
    train = [row(1, " ".join(words)), row(2, " ".join(other_words) or "x"), row(3, "a b c d e")]
    held_out = row(4, " ".join([*words[1:], "g"]))
    leaks = check_examples([], make_splits(train, [], [held_out])).leaks
    grams = prompt_grams(held_out)
    best = max(len(grams & prompt_grams(e)) / len(grams | prompt_grams(e)) for e in train)
    assert bool(leaks) == (best >= MIN_SIMILARITY)
    assert not leaks or leaks[0].similarity == pytest.approx(best, abs=1e-3)


def test_data_check_names_rows_and_exits_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, "Say hi."), row(2, "say hi", "No \x1b[31m"), *(row(n, f"Say number {n}.") for n in range(3, 30))]
    Path("mine.json").write_text(dump_rows(rows))
    done = CliRunner().invoke(app, ["data", "check", "mine.json"])
    assert done.exit_code == 1
    assert "different answers: 1 group, 2 rows" in done.output
    assert "mine.json, rows 1, 2: Say hi." in done.output
    record = json.loads(CliRunner().invoke(app, ["data", "check", "mine.json", "--json"]).output)
    assert record["conflicts"] == [[{"file": "mine.json", "row": 1}, {"file": "mine.json", "row": 2}]]
    Path("mine.json").write_text(dump_rows(rows[2:]))
    done = CliRunner().invoke(app, ["data", "check", "mine.json"])
    assert (done.exit_code, "no leaks across the split" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("?!", "without a letter or digit"),
        ("Yes.\n\n### Response:\nNo.", "a part of a prompt template"),
        ("The cafÃ© is open.", "wrongly decoded"),
        ("TODO", "placeholder"),
        ("Dear [insert name], hello.", "placeholder"),
        (
            "It is a long answer that was cut off somewhere, " * 2 + "because the writer had no more room for the",
            "middle",
        ),
        ("It goes on and on. " + "So it is with them. " * 5, "repeats itself"),
        ("Say it.", "its instruction as its answer"),
    ],
)
def test_answer_that_looks_wrong_is_suspicious(output: str, reason: str) -> None:
    (trait,) = suspicious_traits(row(1, "Say it!", output))
    assert reason in trait


def test_few_rows_of_real_data_are_suspicious() -> None:
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    assert sum(bool(suspicious_traits(example)) for example in examples) <= len(examples) // 50


def test_no_shipped_row_is_suspicious() -> None:
    assert not [e.where for e in read_examples(shipped("instructions.json")) if suspicious_traits(e)]


def test_fixed_data_is_clean_and_keeps_its_other_rows() -> None:
    towns = ["Ulm", "Bern", "Graz", "Lyon", "Nice", "Bath", "York", "Turku"]
    clean = [row(20 + n, f"Say the number {n} once more and then be quiet.", f"{n}.") for n in range(40)]
    near = [row(n, f"{WEATHER} {town}", f"{town} is sunny.") for n, town in enumerate(towns, start=1)]
    repeated = [
        row(70, "Say the number 3 once more and then be quiet.", "3."),
        row(71, f"{WEATHER} Ulm", "Ulm is wet."),
    ]
    examples = [*clean, *near, *repeated]
    fixed = fix_examples(examples, check_examples(examples, split_examples(examples)), split_examples)
    assert {e.row for e in fixed.left_out} == {70, 71}
    assert check_examples(fixed.examples, split_examples(fixed.examples)).is_clean
    by_row = {e.row: e for e in fixed.examples}
    assert set(by_row) == {e.row for e in examples} - {70, 71}
    assert all(replace(by_row[e.row], group=None) == e for e in [*clean, *near])
    assert fixed.grouped == sum(e.group is not None for e in fixed.examples) > 0


def test_fixing_merges_the_groups_of_twins() -> None:
    ulm = replace(row(1, f"{WEATHER} Ulm"), group="a")
    bern = replace(row(2, f"{WEATHER} Bern"), group="b")
    graz = replace(row(3, f"{WEATHER} Graz"), group="b")
    rounds = iter([make_splits([ulm], [], [bern, graz]), make_splits([ulm, bern, graz], [], [])])
    fixed = fix_examples([ulm, bern, graz], check_examples([], make_splits([], [], [])), lambda _: next(rounds))
    assert len({e.group for e in fixed.examples}) == 1


def test_data_check_writes_a_fixed_file_only_to_a_new_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, "Say hi."), row(2, "say hi"), *(row(n, f"Say number {n}.") for n in range(3, 30))]
    rows.append(row(30, "Count.", " ".join(map(str, range(400)))))
    Path("mine.json").write_text(dump_rows(rows))
    command = ["data", "check", "mine.json", "--model", "pocket", "--fix", "fixed.json", "--json"]
    done = CliRunner().invoke(app, command)
    record = json.loads(done.stdout)
    assert (done.exit_code, [entry["row"] for entry in record["too_long"]]) == (1, [30])
    assert [entry["row"] for entry in record["fixed"]["left_out"]] == [2, 30]
    assert [e.instruction for e in read_examples("fixed.json")] == [
        "Say hi.",
        *(f"Say number {n}." for n in range(3, 30)),
    ]
    assert CliRunner().invoke(app, ["data", "check", "fixed.json", "--model", "pocket"]).exit_code == 0
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "expected a name for a new file" in again.stderr) == (2, True)


def test_data_show_prints_the_tokens_and_targets_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(dump_rows([row(1, "Say hi.", "Hi \x1b[31m")]))
    done = CliRunner().invoke(app, ["data", "show", "mine.json"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-1].startswith("learnt")
    assert lines[-1].endswith("<|endoftext|>")
    assert "\x1b" not in done.output
    shown = json.loads(CliRunner().invoke(app, ["data", "show", "mine.json", "--json"]).stdout)["rows"][0]
    assert "".join(token["text"] for token in shown if token["learnt"]) == "Hi \x1b[31m<|endoftext|>"
    assert "".join(token["text"] for token in shown if not token["learnt"]).endswith("Say hi.\n\n### Response:\n")
    everything = ["data", "show", "mine.json", "--train-on", "all", "--json"]
    shown = json.loads(CliRunner().invoke(app, everything).stdout)["rows"][0]
    assert [token["learnt"] for token in shown[:2]] == [False, True]
    missing = CliRunner().invoke(app, ["data", "show", "mine.json", "--row", "2"])
    assert (missing.exit_code, "--row: expected a row of mine.json, got 2" in missing.stderr) == (2, True)
