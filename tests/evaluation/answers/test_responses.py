"""Filling an answers folder: which rows are answered, interruptions, and answers from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.dataset.instructions import Example, Exchange
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.dataset.trained_prompts import PROMPTS_FILE, read_hashes
from assistant.errors import PrerequisiteError, SettingsError
from assistant.jsonl import AppendOnly
from assistant.model.checkpoint import load_checkpoint, load_info
from assistant.settings import GenerationSettings
from evaluation.answers.folder import RESPONSES_FILE, ResponseRecord, claim_folder, read_answers
from evaluation.answers.records import row_ids
from evaluation.answers.responses import ChosenPart, answer, choose_part, describe_answers, seen_in_training
from evaluation.judging.scoring import write_metrics
from evaluation.reports.report import make_report
from tests.support.runs import FAST, train
from tests.support.uppercase_session import UppercaseSession, trained_on

SETTINGS = GenerationSettings(max_new_tokens=8)


def answer_all(session: UppercaseSession, examples: Sequence[Example], folder: Path) -> list[ResponseRecord]:
    """Answer all rows in batches of four; returns the new records."""
    chosen = choose_part(examples, "all", None)
    claim_folder(folder, describe_answers(session, "no-folder", ["rows.json"], chosen, SETTINGS))
    return list(answer(session, examples, folder, SETTINGS, batch_size=4))


# --- which rows ---------------------------------------------------------------------------------------------------


def test_ids_depend_on_contents_and_equal_rows_have_different_ids(examples: list[Example]) -> None:
    ids = row_ids([*examples, examples[0], examples[0]])
    assert len(set(ids)) == len(ids)
    assert ids[: len(examples)] == row_ids(examples)
    assert all(len(row_id) == 16 and int(row_id, 16) >= 0 for row_id in ids)
    moved = [replace(example, source="other.json", row=example.row + 7) for example in examples]
    assert row_ids(moved) == row_ids(examples)


@pytest.mark.parametrize(
    "change",
    [{"instruction": "x"}, {"input": "x"}, {"output": "x"}, {"history": (Exchange("x", "y"),)}],
    ids=["instruction", "input", "output", "history"],
)
def test_change_of_any_content_changes_the_id(examples: list[Example], change: dict[str, Any]) -> None:
    assert row_ids([replace(examples[0], **change)]) != row_ids(examples[:1])


def test_auto_is_the_test_part_of_the_training_data(examples: list[Example]) -> None:
    info = trained_on(examples, split_method="book", split_seed=9)
    chosen = choose_part(examples, "auto", info)
    assert chosen.part == "test"
    assert chosen.examples == split_examples(examples, method="book", seed=9).test
    assert "split as for training" in chosen.reason


def test_test_part_has_the_fraction_of_the_training_run(examples: list[Example]) -> None:
    fractions = (0.5, 0.4, 0.1)
    chosen = choose_part(examples, "auto", trained_on(examples, split_fractions=fractions))
    assert chosen.examples == split_examples(examples, fractions=fractions).test
    assert len(chosen.examples) == 16


@pytest.mark.parametrize("info", [None, "other"])
def test_auto_is_all_rows_if_the_data_are_not_the_training_data(examples: list[Example], info: str | None) -> None:
    chosen = choose_part(examples, "auto", trained_on(examples[:20]) if info else None)
    assert (chosen.part, len(chosen.examples)) == ("all", len(examples))


def test_part_is_split_with_the_seed_of_the_training_run(examples: list[Example]) -> None:
    chosen = choose_part(examples, "validation", trained_on(examples, split_seed=5))
    assert chosen.examples == split_examples(examples, seed=5).validation
    base = choose_part(examples, "test", None)
    assert base.examples == split_examples(examples).test


def test_empty_part_is_refused(examples: list[Example]) -> None:
    with pytest.raises(SettingsError, match="--part: expected rows in 'test', got none of 3"):
        choose_part(examples[:3], "test", None)


# --- answers of a model -------------------------------------------------------------------------------------------


def test_all_rows_are_answered_and_read_in_the_order_of_the_data(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(UppercaseSession(), examples, tmp_path)
    answers = read_answers(tmp_path)
    assert [record.row for record in answers.responses] == [example.row for example in examples]
    first = answers.responses[0]
    assert (first.instruction, first.reference, first.response) == ("Say red once.", "RED once", "SAY RED ONCE.")
    assert (first.stop_reason, first.num_tokens, first.seconds, first.error) == ("eos", 2, 0.4, None)
    assert [record.id for record in answers.responses] == row_ids(examples)
    assert (answers.info.name, answers.info.rows, answers.info.template) == ("fake", 40, "alpaca")
    assert answers.unanswered == 0


def test_history_and_category_are_stored(tmp_path: Path) -> None:
    rows = [Example(instruction="And?", output="Yes.", history=(Exchange("Hi", "Hello"),), category="talk", row=3)]
    answer_all(UppercaseSession(), rows, tmp_path)
    (record,) = read_answers(tmp_path).responses
    assert (record.history, record.category) == ((Exchange("Hi", "Hello"),), "talk")


def test_interrupted_answering_continues_with_the_missing_rows(tmp_path: Path, examples: list[Example]) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer_all(UppercaseSession(interrupt_after=15), examples, tmp_path)
    assert read_answers(tmp_path).unanswered == 25
    session = UppercaseSession()
    assert len(answer_all(session, examples, tmp_path)) == 25
    assert len(session.instructions) == 25
    answers = read_answers(tmp_path)
    assert (len(answers.responses), answers.unanswered) == (40, 0)
    session = UppercaseSession()
    assert answer_all(session, examples, tmp_path) == []
    assert session.instructions == []


def test_row_of_a_torn_last_line_is_answered_again(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(UppercaseSession(), examples, tmp_path)
    whole = (tmp_path / RESPONSES_FILE).read_bytes()
    (tmp_path / RESPONSES_FILE).write_bytes(whole[:-20])
    session = UppercaseSession()
    answer_all(session, examples, tmp_path)
    assert session.instructions == [examples[0].instruction]
    assert sorted((tmp_path / RESPONSES_FILE).read_bytes().split(b"\n")) == sorted(whole.split(b"\n"))


def test_row_that_does_not_fit_is_stored_with_its_error(tmp_path: Path, examples: list[Example]) -> None:
    session = UppercaseSession(too_long=("Say red once.",))
    answer_all(session, examples, tmp_path)
    first = read_answers(tmp_path).responses[0]
    assert first.response is None
    assert "expected fewer tokens" in (first.error or "")
    assert answer_all(session, examples, tmp_path) == []


def test_equal_rows_are_all_answered(tmp_path: Path, examples: list[Example]) -> None:
    twice = [examples[0], examples[0], examples[1]]
    answer_all(UppercaseSession(), twice, tmp_path)
    assert len(read_answers(tmp_path).responses) == 3


def test_second_process_is_refused(tmp_path: Path, examples: list[Example]) -> None:
    answer_all(UppercaseSession(), examples, tmp_path)
    with (
        AppendOnly[ResponseRecord](tmp_path / RESPONSES_FILE),
        pytest.raises(PrerequisiteError, match="another process"),
    ):
        answer_all(UppercaseSession(), examples, tmp_path)


# --- rows of the training data ------------------------------------------------------------------------------------


def test_prompts_of_the_training_rows_are_known_by_their_hashes(
    tmp_path: Path, examples: list[Example], byte_tokenizer: Tokenizer
) -> None:
    train(byte_tokenizer, examples, tmp_path / "model", FAST)
    info = load_info(tmp_path / "model")
    chosen = choose_part(examples, "all", info)
    trained = {example.row for example in split_examples(examples).train}
    expected = [example.row in trained for example in examples]
    assert sum(expected) == 34
    moved = [replace(example, output="other", row=example.row + 100) for example in examples]
    assert seen_in_training(tmp_path / "model", info, moved, ChosenPart(tuple(moved), "all", "")) == expected
    (tmp_path / "model" / PROMPTS_FILE).unlink()
    assert seen_in_training(tmp_path / "model", info, examples, chosen) == expected
    assert set(seen_in_training(tmp_path / "model", info, moved, chosen)) == {None}
    assert set(seen_in_training(tmp_path / "model", None, examples, chosen)) == {None}


def test_a_second_run_keeps_the_prompts_of_the_first(
    tmp_path: Path, examples: list[Example], byte_tokenizer: Tokenizer
) -> None:
    train(byte_tokenizer, examples, tmp_path / "first", FAST)
    first = read_hashes(tmp_path / "first")
    other = [replace(example, instruction=f"Please {example.instruction}") for example in examples]
    train(byte_tokenizer, other, tmp_path / "second", FAST, base=load_checkpoint(tmp_path / "first"))
    second = read_hashes(tmp_path / "second")
    assert first is not None
    assert second is not None
    assert first < second
    assert len(second) == 68
    (tmp_path / "first" / PROMPTS_FILE).unlink()
    train(byte_tokenizer, other, tmp_path / "third", FAST, base=load_checkpoint(tmp_path / "first"))
    assert read_hashes(tmp_path / "third") is None


def test_rows_seen_in_training_are_stored_and_noted(tmp_path: Path, examples: list[Example]) -> None:
    chosen = choose_part(examples, "all", None)
    claim_folder(tmp_path, describe_answers(UppercaseSession(), "no-folder", ["rows.json"], chosen, SETTINGS))
    seen = [True] * 3 + [False] * 37
    list(answer(UppercaseSession(), examples, tmp_path, SETTINGS, batch_size=4, seen=seen))
    answers = read_answers(tmp_path)
    assert [record.seen_in_training for record in answers.responses] == seen
    write_metrics(answers)
    report = make_report(tmp_path)
    assert report.responses.seen_in_training == 3
    assert any("fine-tuned on the prompts of 3 rows" in note for note in report.notes)
