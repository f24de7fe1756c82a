"""Two models on the screen: base beside tuned, held-out rows, background runs, blind choices, and the tally."""

from __future__ import annotations

import pytest
from textual.widgets import Static

from assistant.dataset.examples import Example
from assistant.tui.cards import RunCard
from assistant.tui.prompt import Prompt
from assistant.tui.title import Title
from assistant.tui.turn_view import TurnView
from tests.support.chat_driver import ChatDriver, async_test, open_chat, text_of
from tests.support.scripted_session import TokenSession

ROWS = [Example(instruction=f"Say {n}.", input="", output=f"It is {n}.") for n in range(30)]


def sessions(tuned: str = "tuned says", base: str = "base says") -> tuple[TokenSession, TokenSession]:
    """A tuned model, whose setup calls it toy, and a base, which it calls plain."""
    return TokenSession(tuned), TokenSession(base)


def right_sessions() -> tuple[TokenSession, TokenSession]:
    """A tuned model that answers every row right, and a base that answers each third row right."""
    tuned, base = sessions()
    tuned.answers = {row.instruction: row.output for row in ROWS}
    base.answers = {row.instruction: row.output for row in ROWS[::3]}
    return tuned, base


def marked(chat: ChatDriver, place: int) -> str:
    """The characters of an answer that are marked as the first difference."""
    widget = list(chat.screen.query(".answer").results(Static))[place]
    content = widget.visual
    spans = [span for span in content.spans if "underline" in str(span.style)]  # type: ignore[attr-defined]
    return "".join(str(content)[span.start : span.end] for span in spans)


# --- base beside tuned --------------------------------------------------------------------------------------------


@async_test
async def test_the_base_answers_beside_with_the_same_seed_and_the_first_difference_is_marked() -> None:
    tuned, base = sessions("A calf is young.", "A calf was here.")
    async with open_chat(tuned, base) as chat:
        await chat.press("ctrl+b")
        assert chat.notice == "The base model answers too."
        await chat.send("What is a calf?")
        await chat.until_idle()
        texts = chat.texts(".answer")
        assert [text.splitlines()[:2] for text in texts] == [
            ["base · plain", "A calf was here."],
            ["tuned · toy", "A calf is young."],
        ]
        assert (marked(chat, 0), marked(chat, 1)) == ("was", "is")
        await chat.press("ctrl+b")
        await chat.send("Alone?")
        await chat.until_idle()
        assert len(chat.texts(".answer")) == 3
    assert tuned.instructions == ["What is a calf?", "Alone?"]
    assert base.instructions == ["What is a calf?"]
    assert base.settings == tuned.settings[:1]


@async_test
async def test_equal_answers_have_no_mark() -> None:
    async with open_chat(*sessions("Same.", "Same."), beside=True) as chat:
        await chat.send("hello")
        await chat.until_idle()
        assert (marked(chat, 0), marked(chat, 1)) == ("", "")


@async_test
async def test_answers_stand_above_each_other_on_a_narrow_screen_and_beside_on_a_wide_one() -> None:
    async with open_chat(*sessions(), size=(99, 24), beside=True) as chat:
        await chat.send("hello")
        await chat.until_idle()
        base, tuned = chat.screen.query(".answer")
        await chat.until(lambda: base.region.bottom == tuned.region.y)
        assert base.region.x == tuned.region.x
        await chat.pilot.resize_terminal(100, 24)
        await chat.until(lambda: base.region.y == tuned.region.y)
        assert base.region.right <= tuned.region.x
        assert abs(base.size.width - tuned.size.width) <= 1


@async_test
async def test_one_column_can_have_the_room() -> None:
    async with open_chat(*sessions("one\ntwo", "three\nfour"), size=(120, 24), beside=True) as chat:
        await chat.send("hello")
        await chat.until_idle()
        base, tuned = chat.screen.query(".answer")
        assert isinstance(base, Static)
        assert isinstance(tuned, Static)
        await chat.press("ctrl+g")
        await chat.until(lambda: base.outer_size.width == 24)
        assert text_of(base) == "base · plain\nthree"
        await chat.press("ctrl+g")
        await chat.until(lambda: tuned.outer_size.width == 24 < base.outer_size.width)
        await chat.pilot.click(tuned, offset=(3, 0))
        await chat.until(lambda: base.outer_size.width == 24)
        await chat.pilot.click(tuned, offset=(3, 0))
        await chat.until(lambda: abs(base.outer_size.width - tuned.outer_size.width) <= 1)


@async_test
async def test_without_a_base_the_keys_say_why() -> None:
    async with open_chat() as chat:
        for key in ("ctrl+b", "f7"):
            chat.screen.query_one("#foot").end_notice()  # type: ignore[attr-defined]
            await chat.press(key)
            assert chat.notice == "There is no base model here."
        assert not chat.chat.settings.blind


@async_test
async def test_five_identical_answers_in_a_row_are_named() -> None:
    async with open_chat(*sessions("Same.", "Same."), beside=True) as chat:
        for number in range(5):
            assert "identical" not in chat.visible()
            await chat.send(f"question {number}")
            await chat.until_idle()
        assert "5 identical answers in a row: training changed nothing here" in chat.texts("#tally")[0]


# --- held-out rows ------------------------------------------------------------------------------------------------


@async_test
async def test_a_row_is_dealt_to_both_and_compared_with_its_reference() -> None:
    async with open_chat(*right_sessions(), rows=ROWS, size=(120, 40)) as chat:
        assert not chat.screen.query_one("#tally").display
        seen: set[str] = set()
        for count in range(1, 4):
            await chat.press("ctrl+t")
            await chat.until(lambda: len(chat.screen.query(TurnView)) == count and chat.idle)  # noqa: B023
            turn = chat.screen.query(TurnView).last()
            (row,) = (row for row in ROWS if row.instruction == text_of(turn.query_one(".question")))
            seen.add(row.instruction)
            base, tuned = (text_of(widget) for widget in turn.query(".answer"))
            assert f"\n{row.output}\n✓ = reference · " in tuned
            is_right = ROWS.index(row) % 3 == 0
            assert ("✓ = reference" in base, "\n✗ " in base) == (is_right, not is_right)
            foots = [text_of(widget) for widget in turn.query(".foot") if widget.display]
            assert foots == ([] if is_right else [f"reference  {row.output}"])
        assert len(seen) == 3
        assert chat.texts("#tally")[0].startswith("3 held-out rows  tuned 3 ✓  base ")


@async_test
async def test_without_rows_the_key_says_why() -> None:
    async with open_chat(*sessions()) as chat:
        await chat.press("ctrl+t")
        assert chat.notice == "The data of this model are not here."
        assert not chat.screen.query(TurnView)


@async_test
async def test_a_run_shows_its_rows_and_counts_in_the_tally() -> None:
    tuned, base = right_sessions()
    async with open_chat(tuned, base, rows=ROWS, size=(100, 40)) as chat:
        await chat.press("f5")
        await chat.until(lambda: chat.chat.runs and chat.idle)
        (card,) = chat.screen.query(RunCard)
        lines = text_of(card).splitlines()
        right = [row.instruction for row in ROWS[::3] if row.instruction in base.instructions]
        assert lines[0] == f"20 test rows · tuned 20 ✓ · base {len(right)} ✓"
        assert len(lines) == 22
        for line in lines[2:]:
            marks, _, instruction = line.strip().partition("    S")
            assert marks.split() == (["✓", "✓"] if f"S{instruction}" in right else ["✗", "✓"])
        assert f"20 held-out rows  tuned 20 ✓  base {len(right)} ✓  →  better" in chat.texts("#tally")[0]
        await chat.press("f5")
        await chat.until(lambda: len(chat.screen.query(RunCard)) == 2 and chat.idle)
        assert text_of(chat.screen.query(RunCard).last()).startswith("10 test rows")
        await chat.press("f5")
        assert chat.notice == "All test rows have been answered in this conversation."


@async_test
async def test_a_question_goes_before_the_rest_of_a_run_and_escape_stops_the_run() -> None:
    tuned, base = sessions()
    tuned.hold_at = 0
    async with open_chat(tuned, base, rows=ROWS) as chat:
        await chat.press("f5")
        await chat.until(lambda: tuned.running)
        assert "0/20 test rows" in chat.state
        await chat.send("hello")
        await chat.until(lambda: tuned.instructions[-1] == "hello")
        await chat.press("escape")  # the question first
        await chat.until(lambda: not chat.chat.open_answers)
        await chat.until(lambda: tuned.running)
        await chat.press("escape")
        await chat.until_idle()
        assert text_of(chat.screen.query_one(RunCard)).startswith("0 test rows")


# --- blind choices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["left", "right", "ctrl+n"])
def test_a_blind_choice_hides_the_models_until_the_person_has_chosen(key: str) -> None:
    @async_test
    async def scenario() -> None:
        tuned, base = sessions("one two three", "four")
        async with open_chat(tuned, base, size=(100, 30)) as chat:
            await chat.press("f7")
            assert chat.notice.startswith("Blind: both answer")
            await chat.send("hello")
            await chat.until_idle()
            assert set(chat.texts(".answer")) in (
                {"A\none two three", "B\nfour"},
                {"A\nfour", "B\none two three"},
            )
            assert not chat.screen.query(".answer.-tuned")
            for place in (0, 1):
                assert marked(chat, place) == ""
            assert "ctrl+n neither" in chat.texts(".foot")[0]
            left_is_tuned = chat.texts(".answer")[0].endswith("three")
            await chat.press(key)
            await chat.until(lambda: "tuned · toy" in chat.visible())
            first, second = chat.texts(".answer")
            assert ("tuned · toy" in first) == left_is_tuned  # nothing moves
            assert marked(chat, 0)
            names = [text.splitlines()[0] for text in (first, second)]
            chosen = {"left": [True, False], "right": [False, True], "ctrl+n": [False, False]}[key]
            assert [name.endswith("· chosen by you") for name in names] == chosen
            assert [name.endswith("· a tie for you") for name in names] == [key == "ctrl+n"] * 2
            choice = chat.chat.conversation.turns[0].choice
            assert choice is not None
            assert choice.blind
            side = None if key == "ctrl+n" else "tuned" if left_is_tuned == (key == "left") else "base"
            assert (None if choice.chosen is None else choice.chosen.side) == side

    scenario()


@async_test
async def test_a_blind_choice_waits_for_both_answers_and_tells_nothing_meanwhile() -> None:
    tuned, base = sessions()
    tuned.hold_at = base.hold_at = 0
    async with open_chat(tuned, base, blind=True) as chat:
        await chat.send("hello")
        await chat.until(lambda: tuned.running or base.running)
        await chat.press("left")
        assert chat.notice == "Wait for both answers, then choose."
        await chat.until(lambda: sorted(text[0] for text in chat.texts(".answer")) == ["A", "B"])
        for hidden in ("tuned:", "base:", "tuned ·", "base ·"):
            assert hidden not in chat.visible()
        tuned.gate.set()
        base.gate.set()
        await chat.until_idle()
        await chat.press("f6")
        assert chat.notice == "Choose first."


@async_test
async def test_keys_that_would_tell_the_models_apart_wait_for_the_choice() -> None:
    async with open_chat(*sessions("one two three", "four"), blind=True) as chat:
        await chat.send("hello")
        await chat.until_idle()
        for key in ("f3", "ctrl+y"):
            chat.screen.query_one("#foot").end_notice()  # type: ignore[attr-defined]
            await chat.press(key)
            assert chat.notice == "Choose first."
        assert chat.app.clipboard == ""
        assert chat.app.screen is chat.screen


@async_test
async def test_neither_the_nearest_row_nor_a_click_tells_the_models_apart() -> None:
    train = [Example(instruction="hello", output="one two three")]
    async with open_chat(*sessions("one two three", "four"), beside=True, train=train, size=(120, 30)) as chat:
        await chat.send("hello")
        await chat.until_idle()
        await chat.press("f10")
        await chat.until(lambda: "nearest training row" in chat.visible())
        await chat.press("f7")
        await chat.send("hello")
        await chat.until_idle()
        await chat.until(lambda: "ctrl+n neither" in chat.visible())
        assert chat.visible().count("nearest training row") == 1
        hidden = next(view for view in chat.screen.query(".answer") if text_of(view).startswith("A"))
        await chat.pilot.click(hidden, offset=(1, 0))
        await chat.press("end")
        assert not chat.screen.query(".-folded"), "a folded column of another turn would name the side"


# --- the title ----------------------------------------------------------------------------------------------------


@async_test
async def test_the_title_names_the_model_its_base_size_and_template() -> None:
    async with open_chat(*sessions(), model_name="runs/mine") as chat:
        title = str(chat.screen.query_one(Title).render())
        assert title == "runs/mine ← plain · 0.1M · a base model · alpaca"


@async_test
async def test_arrows_in_a_prompt_with_text_move_the_cursor_and_choose_nothing() -> None:
    async with open_chat(*sessions(), blind=True) as chat:
        await chat.send("hello")
        await chat.until_idle()
        chat.type("abc")
        for key in ("left", "left", "x"):
            await chat.press(key)
        assert chat.screen.query_one(Prompt).instruction == "axbc"
        assert chat.chat.conversation.turns[0].choice is None
