"""`Chat`: the queue of questions, both models, held-out rows, choices and corrections, with scripted sessions."""

from __future__ import annotations

import pytest

from assistant.chat.actions import choose
from assistant.chat.chat import Chat
from assistant.chat.conversation import Conversation, from_records
from assistant.chat.events import AnswerFinished
from assistant.chat.heldout import HeldOut
from assistant.chat.records import Answered, AnswerKey, Asked, Chosen, Opened, Side
from assistant.chat.state import now
from assistant.dataset.examples import Example
from assistant.decoding.reply import Reply
from assistant.errors import DataError
from assistant.settings import GenerationSettings
from tests.support.chat_front import ChatBench, RecordingFile, open_bench
from tests.support.chat_rows import info_of
from tests.support.scripted_session import ScriptedSession, TokenSession

SAMPLED = GenerationSettings(temperature=1.0, max_new_tokens=4096)


def ask(bench: ChatBench, *questions: str) -> Chat:
    for question in questions:
        bench.chat.send(question)
    bench.until_idle()
    return bench.chat


def test_questions_that_are_sent_together_are_answered_in_order() -> None:
    session = ScriptedSession("ok", piece_seconds=0.002)
    bench = open_bench(session)
    chat = ask(bench, "one", "two", "three")
    assert session.instructions == ["one", "two", "three"]
    assert [turn.question.instruction for turn in chat.conversation.turns] == ["one", "two", "three"]
    assert all(turn.final_text == "ok" for turn in chat.conversation.turns)
    assert session.max_running == 1


def test_records_tell_the_same_conversation() -> None:
    bench = open_bench(base=ScriptedSession("base"), beside=True)
    chat = ask(bench, "one", "two")
    chat.correct(0, "right")
    chat.choose(1, "base")
    chat.rename("mine")
    kinds = [type(record) for record in bench.file.records]
    assert kinds[:3] == [Asked, Answered, Answered]
    assert chat.conversation.opened is not None
    assert from_records([chat.conversation.opened, *bench.file.records]) == chat.conversation


def test_a_question_waits_for_the_model_and_can_be_taken_back() -> None:
    bench = ChatBench({"tuned": ScriptedSession("x")}, from_records([]))  # its worker is not started
    bench.chat.send("one", "with input")
    bench.chat.send("two")
    assert not bench.chat.conversation.turns
    bench.chat.stop()
    assert bench.front.given_back == [("two", "")]
    bench.worker.start()
    bench.until_idle()
    assert [turn.question.input for turn in bench.chat.conversation.turns] == ["with input"]


def test_a_model_that_fails_gives_the_questions_back() -> None:
    def fail() -> ScriptedSession:
        raise DataError("folder: expected weights, got none.")

    bench = ChatBench({"tuned": ScriptedSession("x")}, from_records([]))
    bench.worker._load["tuned"] = fail
    bench.chat.send("one")
    bench.worker.start()
    bench.until(lambda: bench.chat.state("tuned") == "failed")
    assert bench.front.given_back == [("one", "")]
    assert not bench.chat.waiting
    bench.worker._load["tuned"] = lambda: ScriptedSession("late")
    bench.chat.load_again()
    bench.until(lambda: bench.chat.state("tuned") == "ready")
    assert ask(bench, "again").conversation.turns[0].final_text == "late"


def test_stop_keeps_the_text_and_the_next_question_is_asked() -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    bench = open_bench(session)
    bench.chat.send("one")
    bench.chat.send("two")
    bench.until(lambda: bench.front.texts)
    bench.chat.stop()
    bench.until(lambda: len(bench.front.added) == 2)
    session.gate.set()
    bench.until_idle()
    first, second = bench.chat.conversation.turns
    assert (first.final_text, first.answers["tuned"][0].stop_reason) == ("a", "cancelled")
    assert second.final_text == "ab"


def test_both_models_answer_with_the_same_seed() -> None:
    tuned, base = ScriptedSession("t"), ScriptedSession("b")
    bench = open_bench(tuned, base, beside=True, generation=SAMPLED)
    ask(bench, "one", "two", "three")
    seeds = [settings.seed for settings in tuned.settings]
    assert seeds == [settings.seed for settings in base.settings]
    assert len(set(seeds)) == 3
    assert {turn.answers["tuned"][0].settings.seed for turn in bench.chat.conversation.turns} == set(seeds)


def test_without_beside_only_the_tuned_model_answers() -> None:
    base = ScriptedSession("b")
    ask(open_bench(base=base), "one")
    assert base.instructions == []


def test_again_draws_a_new_seed_and_a_given_seed_stays() -> None:
    session = ScriptedSession("t")
    bench = open_bench(session, generation=SAMPLED)
    chat = ask(bench, "one")
    chat.again(0)
    bench.until_idle()
    variants = chat.conversation.turns[0].answers["tuned"]
    assert [answer.variant for answer in variants] == [0, 1]
    assert variants[0].settings.seed != variants[1].settings.seed
    chat.settings.seed = 7
    chat.again(0)
    bench.until_idle()
    assert chat.conversation.turns[0].answers["tuned"][2].settings.seed == 7


def test_again_at_temperature_0_is_refused_with_a_reason() -> None:
    bench = open_bench()
    ask(bench, "one").again(0)
    assert "temperature 0" in bench.front.notices[-1]


def test_the_kept_variant_counts() -> None:
    session = ScriptedSession("first")
    bench = open_bench(session, generation=SAMPLED)
    chat = ask(bench, "one")
    session.pieces = ("second",)
    chat.again(0)
    bench.until_idle()
    turn = chat.conversation.turns[0]
    assert turn.final_text == "second"
    chat.keep(0, 0)
    assert turn.final_text == "first"


def test_continuing_from_a_token_makes_a_variant() -> None:
    session = ScriptedSession("go ", "on")
    bench = open_bench(session)
    chat = ask(bench, "one")
    token_ids = session.tokenizer.encode("blue")
    chat.conversation.turns[0].answers["tuned"][0] = (
        chat.conversation.turns[0].answers["tuned"][0].model_copy(update={"token_ids": tuple(token_ids)})
    )
    other = session.tokenizer.encode(" red")[0]
    chat.continue_from(AnswerKey(0, "tuned", 0), len(token_ids), other)
    bench.until_idle()
    variant = chat.conversation.turns[0].answers["tuned"][1]
    assert variant.response == "blue" + session.tokenizer.decode([other]) + "go on"
    assert variant.n_forced == len(token_ids) + 1


EXAMPLES = [Example(instruction=f"Row {n}.", input="it", output="yes" if n % 2 else "no") for n in range(30)]


def test_a_dealt_row_is_answered_by_both_and_no_row_comes_twice() -> None:
    bench = open_bench(ScriptedSession("yes"), ScriptedSession("no"))
    bench.give_rows(*EXAMPLES)
    for _ in range(30):
        bench.chat.deal()
        bench.until_idle()
    turns = bench.chat.conversation.turns
    assert {turn.question.row for turn in turns} == {f"id{n}" for n in range(30)}
    assert all(turn.answers["tuned"] and turn.answers["base"] for turn in turns)
    assert turns[0].question.reference in ("yes", "no")
    bench.chat.deal()
    assert "All test rows" in bench.front.notices[-1]


def test_a_run_and_dealt_rows_never_share_a_row() -> None:
    bench = open_bench(ScriptedSession("yes"), ScriptedSession("no"))
    bench.give_rows(*EXAMPLES)
    bench.chat.run_rows(20)
    bench.chat.deal()
    bench.chat.run_rows(20)
    bench.until_idle()
    rows = [row.row for row in bench.chat.conversation.rows] + [
        turn.question.row or "" for turn in bench.chat.conversation.turns
    ]
    assert sorted(rows) == sorted(f"id{n}" for n in range(30))
    assert {row.run for row in bench.chat.conversation.rows} == {0, 1}


def test_without_data_a_row_is_refused_with_the_reason() -> None:
    bench = open_bench()
    bench.chat.held_out = HeldOut(problem="The data files are not here.")
    bench.chat.deal()
    assert bench.front.notices == ["The data files are not here."]


def test_a_blind_choice_hides_the_side_until_it_is_made() -> None:
    bench = open_bench(ScriptedSession("t"), ScriptedSession("b"), blind=True)
    chat = ask(bench, "one", "two", "three", "four", "five", "six")
    assert {turn.question.left for turn in chat.conversation.turns} == {"tuned", "base"}
    assert all(turn.is_blind for turn in chat.conversation.turns)
    chat.choose(0, "base")
    chat.choose(1, None)
    first, second = (turn.choice for turn in chat.conversation.turns[:2])
    assert isinstance(first, Chosen)
    assert first.blind
    assert (first.chosen, first.rejected) == (AnswerKey(0, "base", 0), AnswerKey(0, "tuned", 0))
    assert second is not None
    assert second.chosen is None
    assert not chat.conversation.turns[0].is_blind


def test_a_choice_needs_both_answers() -> None:
    bench = open_bench()
    ask(bench, "one").choose(0, "tuned")
    assert "both answers" in bench.front.notices[-1]


def test_history_goes_only_to_a_model_that_learnt_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    session = ScriptedSession("ok")
    bench = open_bench(session)
    ask(bench, "one", "two")
    assert session.histories == [(), ()]
    monkeypatch.setattr(Chat, "has_learnt_conversations", property(lambda _: True))
    chat = bench.chat
    chat.correct(0, "better")
    ask(bench, "three")
    assert [tuple(exchange) for exchange in session.histories[-1]] == [("one", "better"), ("two", "ok")]


def test_a_model_gets_no_more_earlier_turns_than_it_has_learnt_to_read() -> None:
    for length, expected in (0, ["one", "two", "three", "four"]), (1, ["four"]), (2, ["three", "four"]):
        session = ScriptedSession("ok")
        session.info = info_of("f", conversation_rows=3, history_length=length)
        bench = open_bench(session)
        ask(bench, "one", "two", "three", "four", "five")
        assert [exchange.user for exchange in session.histories[-1]] == expected
        assert [exchange.user for exchange in session.histories[0]] == []


def test_a_failed_answer_is_explained_and_its_question_given_back() -> None:
    session = ScriptedSession("a", error=RuntimeError("boom"))
    bench = open_bench(session)
    ask(bench, "one")
    assert bench.front.problems[0][0] == "RuntimeError: boom"
    assert bench.front.given_back == [("one", "")]
    bench.front.has_room = False
    ask(bench, "two")
    assert "Press up" in bench.front.problems[1][1]


def test_a_full_disk_is_reported_and_the_chat_goes_on() -> None:
    bench = open_bench()
    bench.file.error = DataError("chats/1.jsonl: expected room, got a full disk.")
    chat = ask(bench, "one")
    assert chat.conversation.turns[0].final_text == "Hello."
    assert "not saved" in bench.front.problems[0][1]


def test_half_a_character_is_replaced_before_it_is_sent() -> None:
    session = ScriptedSession("ok")
    assert ask(open_bench(session), "half \udc80 of it").conversation.turns[0].final_text == "ok"
    assert session.instructions == ["half ? of it"]


def test_what_was_written_when_the_chat_closes_is_kept() -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    bench = open_bench(session)
    bench.chat.send("one")
    bench.until(lambda: bench.front.texts)
    bench.chat.close()
    answer = bench.chat.conversation.turns[0].answers["tuned"][0]
    assert (answer.response, answer.stop_reason) == ("a", "cancelled")
    assert bench.file.records[-1] == answer


def other_conversation(bench: ChatBench) -> None:
    bench.chat.exchange(Conversation(), RecordingFile(), Opened(at=now(), model="toy"))


def test_a_stop_counts_for_one_conversation_only() -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    bench = open_bench(session)
    bench.chat.send("one")
    bench.until(lambda: bench.front.texts)
    bench.chat.stop()
    bench.until_idle()
    other_conversation(bench)
    session.hold_at = None
    assert ask(bench, "two").conversation.turns[0].final_text == "ab"


def test_a_stopped_run_stops_no_run_of_another_conversation() -> None:
    bench = open_bench(base=ScriptedSession("no"))
    bench.give_rows(*EXAMPLES)
    bench.chat.run_rows(3)
    other_conversation(bench)
    bench.chat.run_rows(4)
    bench.until_idle()
    assert len(bench.chat.conversation.rows) == 4


def test_tokens_of_another_conversation_are_not_shown() -> None:
    session = TokenSession("one two")
    bench = open_bench(session)
    ask(bench, "one").inspect(AnswerKey(0, "tuned", 0))
    other_conversation(bench)
    ask(bench, "two").inspect(AnswerKey(0, "tuned", 0))
    bench.until(lambda: not bench.chat._inspected)
    assert bench.front.n_looks == 1


def test_a_question_that_waits_belongs_to_its_conversation() -> None:
    bench = ChatBench({"tuned": ScriptedSession("x")}, from_records([]))  # its worker is not started
    assert not bench.chat.is_busy
    bench.chat.send("one")
    assert bench.chat.is_busy


def test_what_arrives_after_the_end_changes_nothing() -> None:
    session = ScriptedSession("a", "b", hold_at=1)
    bench = open_bench(session)
    bench.chat.send("one")
    bench.until(lambda: bench.front.texts)
    bench.chat.close()
    n_records = len(bench.file.records)
    reply = Reply(prompt="", prompt_token_ids=(0,), response="ab", token_ids=(1, 2), stop_reason="eos", seconds=1.0)
    key = AnswerKey(0, "tuned", 0)
    bench.chat.handle(AnswerFinished(key=key, reply=reply, settings=SAMPLED, n_history=0, n_forced=0))
    bench.chat.send("two")
    bench.chat.close()
    assert len(bench.file.records) == n_records


def test_no_variant_begins_while_another_of_its_turn_is_written() -> None:
    session = TokenSession("one two")
    bench = open_bench(session, generation=SAMPLED)
    chat = ask(bench, "one")
    session.hold_at = 0
    chat.again(0)
    chat.continue_from(AnswerKey(0, "tuned", 0), 0, 5)
    assert "still being written" in bench.front.notices[-1]
    session.gate.set()
    bench.until_idle()
    assert [answer.n_forced for answer in chat.conversation.turns[0].answers["tuned"]] == [0, 0]


def test_again_writes_what_failed_and_what_was_stopped_also_at_temperature_0() -> None:
    base = ScriptedSession("b", error=RuntimeError("boom"))
    bench = open_bench(base=base, beside=True)
    chat = ask(bench, "one")
    assert not bench.front.given_back, "the tuned model has answered it"
    assert bench.front.problems[-1] == ("RuntimeError: boom", "Press ctrl+r to answer again.")
    base.error = None
    chat.again(0)
    bench.until_idle()
    answer = chat.conversation.turns[0].answer("base")
    assert answer is not None
    assert answer.response == "b"
    assert not bench.front.notices


def test_a_side_without_the_kept_variant_counts_with_its_newest() -> None:
    session, base = TokenSession("one two"), TokenSession("three")
    bench = open_bench(session, base, beside=True)
    chat = ask(bench, "one")
    chat.continue_from(AnswerKey(0, "base", 0), 0, 5)
    bench.until_idle()
    chat.keep(0, 1)
    assert chat.conversation.turns[0].final_text == "one two"


def test_a_blind_question_waits_until_it_is_known_whether_there_is_a_base() -> None:
    def fail() -> ScriptedSession:
        raise DataError("folder: expected weights, got none.")

    sessions: dict[Side, ScriptedSession] = {"tuned": ScriptedSession("x"), "base": ScriptedSession("y")}
    bench = ChatBench(sessions, from_records([]), blind=True)
    bench.worker._load["base"] = fail
    bench.chat.send("one")
    bench.worker.start()
    bench.until_idle()
    turn = bench.chat.conversation.turns[0]
    assert turn.final_text == "x"
    assert not turn.is_blind


def test_a_question_that_finds_no_room_is_not_taken_back_in_silence() -> None:
    bench = ChatBench({"tuned": ScriptedSession("x")}, from_records([]))  # its worker is not started
    bench.front.has_room = False
    bench.chat.send("one")
    bench.chat.stop()
    assert "Press up" in bench.front.notices[-1]


def test_data_that_cannot_be_read_do_not_end_the_worker() -> None:
    bench = ChatBench({"tuned": ScriptedSession("x")}, from_records([]))
    bench.worker._prepare = lambda: 1 / 0  # type: ignore[assignment]
    bench.worker.start()
    bench.until(lambda: bench.chat.has_read_data)
    assert "ZeroDivisionError" in bench.chat.held_out.problem
    assert ask(bench, "one").conversation.turns[0].final_text == "x"


def test_no_choice_is_made_while_another_variant_is_written() -> None:
    """It would choose between answers of two seeds."""
    base = ScriptedSession("b")
    bench = open_bench(base=base, blind=True, generation=SAMPLED)
    chat = ask(bench, "one")
    base.hold_at = 0
    chat.again(0)
    bench.until(lambda: base.running)
    chat.choose(0, "tuned")
    assert chat.conversation.turns[0].choice is None
    assert bench.front.notices[-1] == "Wait for both answers, then choose."
    assert choose(chat, chat.conversation.turns[0], "left") == bench.front.notices[-1]
    base.gate.set()
    bench.until_idle()
    chat.choose(0, "tuned")
    assert chat.conversation.turns[0].choice is not None


def test_rows_of_a_stopped_run_and_of_another_conversation_are_dealt_again() -> None:
    bench = open_bench(base=ScriptedSession("no"))
    bench.give_rows(*EXAMPLES[:4])
    bench.chat.run_rows(4)
    bench.chat.stop()
    bench.until_idle()
    assert not bench.chat.conversation.rows
    for _ in range(2):
        bench.chat.run_rows(4)
        bench.until_idle()
        assert len(bench.chat.conversation.rows) == 4
        bench.chat.deal()
        assert "All test rows have been answered" in bench.front.notices[-1]
        other_conversation(bench)


def test_another_conversation_begins_although_the_last_one_cannot_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench()
    ask(bench, "one")

    def fail() -> None:
        raise DataError("chats/1.jsonl: expected room, got a full disk.")

    monkeypatch.setattr(bench.file, "close", fail)
    other_conversation(bench)
    assert bench.front.problems[-1][1] == "The end of that conversation is not saved."
    assert ask(bench, "two").conversation.turns[0].final_text == "Hello."


def test_tokens_after_a_prompt_that_changed_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(TokenSession("one two"))
    monkeypatch.setattr(Chat, "has_learnt_conversations", property(lambda _: True))
    chat = ask(bench, "one", "two")
    chat.inspect(AnswerKey(1, "tuned", 0))
    bench.until(lambda: bench.front.n_looks == 1)
    chat.correct(0, "another answer with more words")
    chat.inspect(AnswerKey(1, "tuned", 0))
    bench.until(lambda: bench.front.problems)
    assert "The turns before it were changed since." in bench.front.problems[0][0]
    assert bench.front.n_looks == 1
