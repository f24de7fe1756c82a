"""`assistant data check`: repeated, contradicting and leaking rows. The book's file has known ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from assistant.cli.app import app
from assistant.dataset.check import NEAR, check_examples, doubts_about, fix_examples, prompt_grams
from assistant.dataset.instructions import Example, dump_rows, read_examples
from assistant.dataset.splits import Splits, split_examples
from assistant.shipped import shipped
from tests.conftest import shared_file


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


def test_a_prompt_may_have_many_pairs_of_answers_but_not_one_both_ways_round() -> None:
    pairs = [replace(row(1, "Say hi.", "Hi."), rejected="No."), replace(row(2, "Say hi.", "Hi!"), rejected="No.")]
    assert check_examples(pairs, parts(pairs, [], [])).is_clean
    more = [*pairs, replace(row(3, "Say hi.", "No."), rejected="Hi!"), replace(pairs[0], row=4)]
    found = check_examples(more, parts(more, [], []))
    assert [[e.row for e in group] for group in found.conflicts] == [[2, 3]]
    assert [[e.row for e in group] for group in found.duplicates] == [[1, 4]]


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
    done = CliRunner().invoke(app, ["data", "check", "mine.json"])
    assert done.exit_code == 1
    assert "different answers: 1 group, 2 rows" in done.output
    assert "mine.json, rows 1, 2: Say hi." in done.output
    found = json.loads(CliRunner().invoke(app, ["data", "check", "mine.json", "--json"]).output)
    assert found["conflicts"] == [[{"file": "mine.json", "row": 1}, {"file": "mine.json", "row": 2}]]
    Path("mine.json").write_text(dump_rows(rows[2:]))
    done = CliRunner().invoke(app, ["data", "check", "mine.json"])
    assert (done.exit_code, "no twin" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("?!", "without a letter or digit"),
        ("Yes.\n\n### Response:\nNo.", "a piece of a prompt template"),
        ("The cafÃ© is open.", "decoded wrongly"),
        ("TODO", "placeholder"),
        ("Dear [insert name], hello.", "placeholder"),
        (
            "It is a long answer that was cut off somewhere, " * 2 + "because the writer had no more room for the",
            "middle",
        ),
        ("It goes on and on. " + "So it is with them. " * 5, "over and over"),
        ("Say it.", "its instruction as its answer"),
    ],
)
def test_an_answer_that_looks_wrong_is_a_doubt(output: str, reason: str) -> None:
    (doubt,) = doubts_about(row(1, "Say it!", output))
    assert reason in doubt


def test_most_answers_are_in_no_doubt() -> None:
    examples = read_examples(shared_file("data/book-instruction-data.json"))
    in_doubt = [example.where for example in examples if doubts_about(example)]
    assert len(in_doubt) <= len(examples) // 50
    assert not [e.where for e in read_examples(shipped("instructions.json")) if doubts_about(e)]


def test_a_fixed_file_is_clean_and_what_was_clean_is_untouched() -> None:
    long = "Please tell me in a few words what the weather may be like in the town of"
    towns = ["Ulm", "Bern", "Graz", "Lyon", "Nice", "Bath", "York", "Turku"]
    clean = [row(20 + n, f"Say the number {n} once more and then be quiet.", f"{n}.") for n in range(40)]
    near = [row(n, f"{long} {town}", f"{town} is sunny.") for n, town in enumerate(towns, start=1)]
    again = [row(70, "Say the number 3 once more and then be quiet.", "3."), row(71, f"{long} Ulm", "Ulm is wet.")]
    examples = [*clean, *near, *again]
    found = check_examples(examples, split_examples(examples))
    fixed = fix_examples(examples, found, split_examples)
    assert {e.row for e in fixed.left_out} == {70, 71}
    assert check_examples(fixed.examples, split_examples(fixed.examples)).is_clean
    kept = {e.row: e for e in fixed.examples}
    assert set(kept) == {e.row for e in examples} - {70, 71}
    assert all(replace(kept[e.row], group=None) == e for e in [*clean, *near])
    assert fixed.grouped == sum(e.group is not None for e in fixed.examples) > 0


def test_groups_that_turn_out_to_be_twins_become_one() -> None:
    long = "Please tell me in a few words what the weather may be like in the town of"
    one, other, third = (replace(row(n, f"{long} {town}"), group=group) for n, town, group in (
        (1, "Ulm", "a"), (2, "Bern", "b"), (3, "Graz", "b")))  # fmt: skip
    rounds = iter([parts([one], [], [other, third]), parts([one, other, third], [], [])])
    fixed = fix_examples([one, other, third], check_examples([], parts([], [], [])), lambda _: next(rounds))
    assert len({e.group for e in fixed.examples}) == 1


def test_the_command_writes_a_fixed_file_and_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row(1, "Say hi."), row(2, "say hi"), *(row(n, f"Say number {n}.") for n in range(3, 30))]
    rows.append(row(30, "Count.", " ".join(map(str, range(400)))))
    Path("mine.json").write_text(dump_rows(rows))
    command = ["data", "check", "mine.json", "--model", "pocket", "--fix", "fixed.json", "--json"]
    done = CliRunner().invoke(app, command)
    found = json.loads(done.stdout)
    assert (done.exit_code, [entry["row"] for entry in found["too_long"]]) == (1, [30])
    assert [entry["row"] for entry in found["fixed"]["left_out"]] == [2, 30]
    assert [e.instruction for e in read_examples("fixed.json")] == [
        "Say hi.",
        *(f"Say number {n}." for n in range(3, 30)),
    ]
    assert CliRunner().invoke(app, ["data", "check", "fixed.json", "--model", "pocket"]).exit_code == 0
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, "expected a name for a new file" in again.stderr) == (2, True)


def test_a_row_is_shown_as_the_model_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
