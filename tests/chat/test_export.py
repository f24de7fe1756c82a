"""Exports: Markdown that no text can break, rows and pairs that train unchanged, and never a test row in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from assistant.chat.conversation import Conversation, from_records
from assistant.chat.export import (
    ExportedRows,
    free_name,
    preference_pairs,
    save_markdown,
    save_rows,
    to_markdown,
    training_rows,
)
from assistant.chat.records import Opened, Record, RowRun, Titled
from assistant.dataset.examples import Example, Exchange
from assistant.dataset.instructions import read_examples
from assistant.errors import DataError, SettingsError
from assistant.escape import displayable
from assistant.model.checkpoint import load_checkpoint
from tests.support.commands import invoke
from tests.support.talks import OPENED, answered, asked, at, chosen, corrected

PIECES = [
    "`",
    "```",
    "````",
    "~~~",
    "# ",
    "> ",
    "- ",
    "|",
    "\n",
    "\r",
    "\t",
    "    ",
    "<b>",
    "[x](y)",
    "\x1b[0m",
    "\u2028",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=8).map("".join)


def read_back(exported: ExportedRows, path: Path) -> list[Example]:
    path.unlink(missing_ok=True)
    save_rows(exported, path)
    return read_examples(path)


def talk_of_all_kinds() -> Conversation:
    """Corrections and choices on own questions and on test rows, and everything that gives no pair."""
    return from_records(
        [
            OPENED,
            *(asked(0, "Capital of Peru?"), answered(0, "Quito."), corrected(0, "Lima.")),
            *(asked(1, "Shout.", input="hello"), answered(1, "HELLO"), answered(1, "hello", side="base")),
            chosen(1, "tuned"),
            *(asked(2, "Row?", row="7", reference="Yes."), answered(2, "No."), answered(2, "Yes.", side="base")),
            *(chosen(2, "base"), corrected(2, "Yes, row.")),
            *(
                asked(3),
                answered(3, "cut off in the", stop="length"),
                answered(3, "ok", side="base"),
                chosen(3, "tuned"),
            ),
            *(
                asked(4),
                answered(4, "stopped in", stop="cancelled"),
                answered(4, "ok", side="base"),
                chosen(4, "tuned"),
            ),
            *(asked(5), answered(5, "cut but worse", stop="length"), answered(5, "ok", side="base"), chosen(5, "base")),
            *(asked(6), answered(6, "same"), answered(6, " same\n", side="base"), chosen(6, "base")),
            *(asked(7), answered(7, "a"), answered(7, "b", side="base"), chosen(7, None)),
            *(asked(8), answered(8, "good"), answered(8, "", side="base"), chosen(8, "tuned")),
            *(asked(9, "Right already?"), answered(9, "Right."), corrected(9, "Right.")),
            *(asked(10, "Both?"), answered(10, "x"), answered(10, "y", side="base"), chosen(10, "base")),
            corrected(10, "z"),
            *(asked(11, "Blank?"), answered(11, "x"), corrected(11, " \n")),
            *(asked(12, "NUL \x00?"), answered(12, "x"), corrected(12, "y")),
        ]
    )


# --- rows and pairs -----------------------------------------------------------------------------------------------


def test_corrections_become_rows_and_test_rows_are_left_out(tmp_path: Path) -> None:
    exported = training_rows(talk_of_all_kinds())
    examples = read_back(exported, tmp_path / "rows.json")
    assert [(e.instruction, e.input, e.output) for e in examples] == [
        ("Capital of Peru?", "", "Lima."),
        ("Right already?", "", "Right."),
        ("Both?", "", "z"),
    ]
    assert not any(example.held_out for example in examples)
    assert (exported.n_held_out, exported.n_unreadable) == (1, 2)
    assert exported.describe() == (
        "3 rows. Left out: 1 on test rows, which must not be learnt, 2 without a text that can be learnt."
    )


def test_choices_and_corrections_become_pairs_and_test_rows_are_left_out(tmp_path: Path) -> None:
    exported = preference_pairs(talk_of_all_kinds())
    examples = read_back(exported, tmp_path / "pairs.jsonl")
    assert [(e.instruction, e.input, e.output, e.rejected) for e in examples] == [
        ("Capital of Peru?", "", "Lima.", "Quito."),
        ("Shout.", "hello", "HELLO", "hello"),
        ("Say hi.", "", "ok", "cut but worse"),
        ("Both?", "", "y", "x"),
        ("Both?", "", "z", "x"),
    ]
    counts = (exported.n_held_out, exported.n_ties, exported.n_equal, exported.n_without_end, exported.n_unreadable)
    assert counts == (2, 1, 2, 2, 3)


def test_marked_rows_are_kept_with_their_mark_and_refused_for_training(folder: Path) -> None:
    for export, command, n_held_out in ((training_rows, "finetune", 1), (preference_pairs, "prefer", 2)):
        exported = export(talk_of_all_kinds(), marked=True)
        examples = read_back(exported, folder / "marked.json")
        assert {e.instruction for e in examples if e.held_out} == {"Row?"}
        assert sum(e.held_out for e in examples) == exported.n_held_out == n_held_out
        assert f"{n_held_out} of them marked as test rows." in exported.describe(marked=True)
        refused = invoke(command, "marked.json", "-m", "base", "-o", "out")
        assert refused.exit_code == 1
        assert f"marked.json, row {1 + [e.held_out for e in examples].index(True)}" in refused.stderr


def test_a_typed_test_question_counts_as_one() -> None:
    rows = [Example(instruction="capital of peru", output="Lima."), Example(instruction="Shout.", output="no input")]
    talk = talk_of_all_kinds()
    assert training_rows(talk, test_rows=rows).n_held_out == 2
    pairs = preference_pairs(talk, test_rows=rows)
    assert pairs.n_held_out == 3
    assert [row["instruction"] for row in pairs.rows] == ["Shout.", "Say hi.", "Both?", "Both?"]


@pytest.mark.parametrize(
    ("instruction", "input"),
    [
        ("plural of:", "CAT."),
        ("Plural of:\ncat", ""),
        ("Plural of cat", ""),
        ("What is a dog?", ""),
        ("In the run", "x"),
    ],
)
def test_a_test_row_that_was_asked_here_stays_out_when_it_is_typed_again(instruction: str, input: str) -> None:
    """Also where the model's data are no longer found."""
    records: list[Record] = [
        OPENED,
        asked(0).model_copy(update={"instruction": "Plural of:", "input": "cat", "row": "id", "reference": "cats"}),
        asked(1).model_copy(update={"instruction": instruction, "input": input}),
        answered(1, "an answer"),
        corrected(1, "cats"),
        RowRun(at=at(2), run=0, row="id2", instruction="In the run", input="x", reference="y", tuned="z", base=None),
    ]
    is_other = instruction.startswith("What")
    assert len(training_rows(from_records(records)).rows) == is_other
    assert len(preference_pairs(from_records(records)).rows) == is_other


@pytest.mark.parametrize("input", ["", "loud"])
def test_the_history_that_the_model_saw_is_read_and_not_learnt(tmp_path: Path, input: str) -> None:
    talk = from_records(
        [
            OPENED,
            *(asked(0, "One?"), answered(0, "1"), corrected(0, "first")),
            *(asked(1, "Row?", row="7", reference="r"), answered(1, "no")),
            *(asked(2, "Two?", input="x"), answered(2, "2", n_history=1)),
            *(
                asked(3, "Three?", input=input),
                answered(3, "3", n_history=1),
                answered(3, "4", side="base", n_history=1),
            ),
            *(chosen(3, "base"), corrected(3, "third")),
        ]
    )
    *_, example = read_back(training_rows(talk), tmp_path / "rows.json")
    assert (example.instruction, example.input, example.output) == ("Three?", input, "third")
    assert example.history == (Exchange("Two?\n\nx", "2"),)
    assert [e.output for e in read_examples(tmp_path / "rows.json")] == ["first", "third"]
    pairs = read_back(preference_pairs(talk), tmp_path / "pairs.json")
    assert [(e.output, e.rejected, e.input, e.history) for e in pairs[1:]] == [
        ("4", "3", input, example.history),
        ("third", "3", input, example.history),
    ]


def test_the_kept_variant_is_the_one_that_counts() -> None:
    answers = [answered(0, text, variant=number) for number, text in enumerate(("first", "second"))]
    talk = from_records([OPENED, asked(0), *answers, corrected(0, "right")])
    assert preference_pairs(talk).rows[0]["rejected"] == "second"
    talk.turns[0].kept_variant = 0
    assert preference_pairs(talk).rows[0]["rejected"] == "first"


def test_exports_train_unchanged(folder: Path, examples: list[Example]) -> None:
    examples = examples[:20]
    records: list[Record] = [OPENED]
    for number, e in enumerate(examples):
        records += [asked(number, e.instruction, input=e.input), answered(number, "No."), corrected(number, e.output)]
    talk = from_records(records)
    save_rows(training_rows(talk), folder / "rows-of-the-chat.jsonl")
    save_rows(preference_pairs(talk), folder / "pairs.json")
    options = ("--max-steps", "1", "--validation-answers", "0")
    done = invoke("finetune", "rows-of-the-chat.jsonl", "-m", "base", "-o", "tuned", *options)
    assert done.exit_code == 0, done.stderr
    done = invoke("prefer", "pairs.json", "-m", "tuned", "-o", "preferred", *options)
    assert done.exit_code == 0, done.stderr
    assert load_checkpoint(folder / "preferred").info is not None
    read = read_examples(folder / "rows-of-the-chat.jsonl")
    assert [(e.instruction, e.input, e.output) for e in read] == [(e.instruction, e.input, e.output) for e in examples]


# --- Markdown -----------------------------------------------------------------------------------------------------


@given(TEXT, TEXT, TEXT, TEXT)
def test_no_text_can_break_out_of_its_fence(title: str, question: str, answer: str, model: str) -> None:
    talk = from_records(
        [
            Opened(at=at(0), model=model, base=model),
            Titled(at=at(0), title=title),
            *(asked(0, question, input=question, row="7", reference=answer), answered(0, answer)),
            *(answered(0, question, side="base"), chosen(0, "base"), corrected(0, answer)),
        ]
    )
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(to_markdown(talk))
    fences = [token.content.removesuffix("\n") for token in tokens if token.type == "fence"]
    texts = [question, *([question] if question else []), answer, question, answer, answer]
    assert fences == [displayable(text) for text in texts]
    kinds = [token.type for token in tokens if token.type not in {"fence", "inline"}]
    paragraphs = ["paragraph_open", "paragraph_close"]
    headings = ["heading_open", "heading_close"]
    n_paragraphs = 6 + bool(question)
    assert sorted(kinds) == sorted(2 * headings + n_paragraphs * paragraphs)
    inline = {child.type for token in tokens if token.type == "inline" for child in token.children or ()}
    assert inline <= {"text", "code_inline"}


def test_the_markdown_of_a_conversation() -> None:
    talk = from_records(
        [
            OPENED,
            Titled(at=at(0), title="My ` talk"),
            asked(0, "Say ```hi```.", input="loud"),
            answered(0, "HI"),
            answered(0, "hi \x1b[31m", side="base", stop="length"),
            chosen(0, "tuned"),
            corrected(0, "HI!"),
            RowRun(at=at(2), run=0, row="7", instruction="a", reference="b", tuned="c", base=None),
        ]
    )
    assert to_markdown(talk) == (
        "# `` My ` talk ``\n\n"
        "2026-03-01 12:00 UTC, model ` /models/mine `, base model ` /models/base `\n\n"
        "## 1. Question\n\n````text\nSay ```hi```.\n````\n\n"
        "Input:\n\n```text\nloud\n```\n\n"
        "Tuned model, answer 1 (2 tokens, temperature 0, seed 0):\n\n```text\nHI\n```\n\n"
        "Base model, answer 1 (1 tokens, temperature 0, seed 0, cut at the limit):\n\n```text\nhi ␛[31m\n```\n\n"
        "Chosen blind: tuned model, answer 1.\n\n"
        "Correction:\n\n```text\nHI!\n```\n\n"
        "1 test row was answered in the background.\n"
    )


def test_an_open_blind_choice_is_not_given_away() -> None:
    records: list[Record] = [
        OPENED,
        asked(0, left="base"),
        answered(0, "from tuned"),
        answered(0, "from base", side="base"),
    ]
    hidden = to_markdown(from_records(records))
    assert "Tuned model" not in hidden
    assert "Base model" not in hidden
    assert hidden.index("Left answer") < hidden.index("from base") < hidden.index("Right answer")
    assert "Base model, answer 1" in to_markdown(from_records([*records, chosen(0, "tuned")]))


# --- files --------------------------------------------------------------------------------------------------------


def test_no_file_is_replaced_without_being_told(tmp_path: Path) -> None:
    talk = talk_of_all_kinds()
    path = tmp_path / "talk.md"
    path.write_text("precious")
    (tmp_path / "link.json").symlink_to("nowhere")
    with pytest.raises(SettingsError, match=r"talk\.md: expected a name for a new file, got one that exists"):
        save_markdown(talk, path)
    with pytest.raises(SettingsError, match="got one that exists"):
        save_rows(training_rows(talk), tmp_path / "link.json")
    with pytest.raises(SettingsError, match="got a folder"):
        save_markdown(talk, tmp_path)
    assert path.read_text() == "precious"
    save_markdown(talk, tmp_path / "new.md")
    assert (tmp_path / "new.md").read_text() == to_markdown(talk)
    assert free_name(tmp_path, "talk", ".md") == tmp_path / "talk-2.md"
    assert free_name(tmp_path, "talk", ".json") == tmp_path / "talk.json"
    assert free_name(tmp_path, "link", ".json") == tmp_path / "link-2.json"


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"expected rows to write, got none. 0 rows\."):
        save_rows(training_rows(from_records([OPENED])), tmp_path / "rows.json")
    with pytest.raises(SettingsError, match=r"expected a name that ends in \.json or \.jsonl, got \.csv"):
        save_rows(training_rows(talk_of_all_kinds()), tmp_path / "rows.csv")

    def fail(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(DataError, match=r"talk\.md: expected to write the file, got No space left on device"):
        save_markdown(talk_of_all_kinds(), tmp_path / "talk.md")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz"])
def test_rows_are_written_in_the_format_of_the_name(tmp_path: Path, name: str) -> None:
    exported = preference_pairs(talk_of_all_kinds())
    examples = read_back(exported, tmp_path / name)
    assert [e.as_row() for e in examples] == [json.loads(json.dumps(row)) for row in exported.rows]
