"""What a turn looks like, as values."""

from __future__ import annotations

from assistant.chat.records import AnswerKey, Chosen, Record
from assistant.tui.turn_state import TurnState, turn_state
from tests.support.chat_front import ChatBench, open_bench
from tests.support.chat_rows import answered, asked, at
from tests.support.scripted_session import ScriptedSession


def bench_of(*records: Record) -> ChatBench:
    """A chat with a conversation of these records."""
    bench = open_bench(ScriptedSession("x"), ScriptedSession("y"))
    for record in records:
        bench.chat.conversation.apply(record)
    return bench


def state_of(*records: Record, variant: int | None = None) -> TurnState:
    """The state of the first turn."""
    bench = bench_of(*records)
    try:
        return turn_state(bench.chat, bench.chat.conversation.turns[0], variant=variant)
    finally:
        bench.chat.close()


def test_the_base_stands_left_and_a_match_is_said() -> None:
    state = state_of(asked(0, row="r"), answered(0, "tuned", " yes "), answered(0, "base", "no"))
    assert [answer.key.side for answer in state.answers] == ["base", "tuned"]
    assert [answer.is_match for answer in state.answers] == [False, True]
    assert all(answer.is_named for answer in state.answers)
    assert state.reference == "yes"


def test_one_answer_has_no_name() -> None:
    (answer,) = state_of(asked(0), answered(0, "tuned", "hello")).answers
    assert (answer.is_named, answer.is_match, answer.status) == (False, None, "ended")


def test_a_turn_of_another_run_without_an_answer_says_so() -> None:
    (answer,) = state_of(asked(0)).answers
    assert (answer.status, answer.note) == ("failed", "no answer")


def test_a_blind_turn_shows_neither_names_nor_notes_nor_matches_nor_the_reference() -> None:
    records = (asked(0, row="r", left="tuned"), answered(0, "tuned", "yes"), answered(0, "base", "no no"))
    state = state_of(*records)
    assert [(one.label, one.note, one.is_match, one.marked) for one in state.answers] == [
        ("A", "", None, None),
        ("B", "", None, None),
    ]
    assert [one.text for one in state.answers] == ["yes", "no no"]
    assert state.reference is None
    assert "ctrl+n" in state.hint
    chosen = Chosen(
        at=at(9), turn=0, chosen=AnswerKey(0, "base", 0), rejected=AnswerKey(0, "tuned", 0), blind=True
    )  # fmt: skip
    shown = state_of(*records, chosen)
    assert [one.key.side for one in shown.answers] == ["tuned", "base"]  # in their places
    assert [one.label.endswith("chosen by you") for one in shown.answers] == [False, True]
    assert shown.reference == "yes"
    assert not shown.hint


def test_a_variant_is_shown_where_a_side_has_it() -> None:
    records = (
        asked(0),
        answered(0, "tuned", "first"),
        answered(0, "base", "base"),
        answered(0, "tuned", "second", variant=1),
    )
    for variant, texts in [(None, ["base", "second"]), (0, ["base", "first"]), (1, ["base", "second"])]:
        assert [one.text for one in state_of(*records, variant=variant).answers] == texts
    assert state_of(*records).answers[1].note.startswith("2/2 · ")


def test_the_first_difference_is_marked_in_both() -> None:
    bench = bench_of(asked(0))
    encode = ScriptedSession().tokenizer.encode
    for side, text in (("tuned", "A calf is young."), ("base", "A calf was young.")):
        bench.chat.conversation.apply(answered(0, side, text, token_ids=tuple(encode(text))))  # type: ignore[arg-type]
    base, tuned = turn_state(bench.chat, bench.chat.conversation.turns[0]).answers
    bench.chat.close()
    assert base.marked is not None
    assert tuned.marked is not None
    assert base.text[slice(*base.marked)] == " was"
    assert tuned.text[slice(*tuned.marked)] == " is"
