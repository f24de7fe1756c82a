"""The cards between turns, the tally over the prompt, and the welcome."""

from __future__ import annotations

from assistant.chat.scores import Suggestion
from assistant.chat.tally import tally
from assistant.dataset.prompts import get_template
from assistant.tui.cards import run_content
from assistant.tui.tally_bar import tally_content
from assistant.tui.welcome import BASE, CONVERSATIONS, SHORT, SHOWN, SINGLE
from tests.support.chat_driver import async_test, open_chat
from tests.support.chat_rows import info_of, run_of, run_row
from tests.support.scripted_session import ScriptedSession


def test_a_run_has_a_line_for_each_row() -> None:
    rows = [run_row("one", "yes", "no"), run_row("two", "no", "yes"), run_row("three", "yes", "yes")]
    lines = run_content(rows, 20).plain.splitlines()
    assert lines[0] == "3 of 20 test rows · tuned 2 ✓ · base 2 ✓"
    assert [line.split() for line in lines[2:]] == [["✗", "✓", "one"], ["✓", "✗", "two"], ["✓", "✓", "three"]]
    alone = run_content([run_row("one", "yes", None)], 1).plain.splitlines()
    assert [alone[0], alone[2].split()] == ["1 test rows · tuned 1 ✓", ["✓", "one"]]


def test_the_tally_is_one_line_and_its_verdict_has_the_colour_of_the_finding() -> None:
    assert tally_content(tally(run_of([]))).plain == ""
    for pairs, word, style in [
        ([(True, False)] * 20, "better", "$text-success"),
        ([(False, True)] * 20, "worse", "$text-error"),
    ]:
        content = tally_content(tally(run_of(pairs)), "a note")
        assert "\n" not in content.plain
        assert content.plain.endswith("  ·  a note")
        (verdict,) = [span for span in content.spans if style in str(span.style)]
        assert content.plain[verdict.start : verdict.end].startswith(word)


@async_test
async def test_the_welcome_offers_questions_to_click() -> None:
    suggestions = [Suggestion(f"Question {number}?", "its input") for number in range(5)]
    async with open_chat(suggestions=suggestions) as chat:
        lines = chat.texts(".suggestion")
        assert lines == [f"❯ Question {number}?  its input" for number in range(SHOWN)]
        await chat.pilot.pause()  # until it is laid out, the line moves
        await chat.pilot.click(chat.screen.query(".suggestion")[1])
        await chat.until(lambda: chat.prompt.instruction == "Question 1?")
        assert chat.prompt.input == "its input"


@async_test
async def test_the_welcome_says_what_the_model_sees_of_earlier_messages() -> None:
    for info, template, sentence in [
        (None, "alpaca", BASE),
        (None, "chatml", CONVERSATIONS),
        (info_of("f"), "chatml", SINGLE),
        (info_of("f", conversation_rows=3), "alpaca", CONVERSATIONS),
        (info_of("f", conversation_rows=3, history_length=1), "alpaca", SHORT.format("message and its answer")),
        (info_of("f", conversation_rows=3, history_length=2), "alpaca", SHORT.format("2 messages and their answers")),
    ]:
        session = ScriptedSession("ok")
        session.info, session.template = info, get_template(template)
        async with open_chat(session) as chat:
            assert sentence in chat.texts("Welcome")[0].splitlines()
