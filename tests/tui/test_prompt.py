"""The input box: typing, sending, pasting and recalling messages with the keys."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message

from assistant.tui.prompt import Prompt, _from_entry, _to_entry
from assistant.tui.turn_view import TurnView
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_the_prompt_grows_with_its_lines_up_to_a_limit() -> None:
    async with open_chat() as chat:
        await chat.press("a", "ctrl+j", "b")
        assert chat.prompt.instruction == "a\nb"
        await chat.until(lambda: chat.prompt.instruction_field.size.height == 2)
        await chat.press(*["ctrl+j"] * 12)
        await chat.until(lambda: chat.prompt.instruction_field.size.height == 8)
        assert chat.prompt.instruction_field.cursor_location == (13, 0)
        chat.prompt.instruction_field.clear()
        await chat.until(lambda: chat.prompt.instruction_field.size.height == 1)
        chat.type("word " * 40)  # one long line wraps into several rows
        await chat.until(lambda: chat.prompt.instruction_field.size.height == 3)


@async_test
async def test_enter_does_nothing_on_blank_text() -> None:
    async with open_chat() as chat:
        await chat.press("enter")
        await chat.send(" \n\t ")
        assert chat.prompt.instruction == " \n\t "
        assert not chat.screen.query(TurnView)


@async_test
async def test_a_paste_of_several_lines_is_one_message() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await chat.press(*"ab")
        chat.app.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m"))
        await chat.until(lambda: chat.prompt.instruction == "abone\ntwo\nthree\x1b[31m")
        await chat.press("enter")
        await chat.until(lambda: session.instructions and chat.idle)
    assert session.instructions == ["abone\ntwo\nthree\x1b[31m"]


@async_test
async def test_up_and_down_recall_messages_only_from_the_first_and_last_row() -> None:
    async with open_chat() as chat:
        for text in ("first", "second\nline"):
            await chat.send(text)
            await chat.until_idle()
        chat.type("a\ndraft")
        await chat.press("up")  # moves the cursor inside the draft
        assert (chat.prompt.instruction, chat.prompt.instruction_field.cursor_location[0]) == ("a\ndraft", 0)
        await chat.press("up")
        assert (chat.prompt.instruction, chat.prompt.instruction_field.cursor_location) == ("second\nline", (1, 4))
        await chat.press("up", "up")
        assert chat.prompt.instruction == "first"
        await chat.press("up")  # already at the oldest message
        assert chat.prompt.instruction == "first"
        await chat.press("down", "down")
        assert chat.prompt.instruction == "a\ndraft"
        await chat.press("down")
        assert chat.prompt.instruction == "a\ndraft"


@async_test
async def test_up_moves_inside_a_wrapped_line_before_it_recalls() -> None:
    async with open_chat() as chat:
        await chat.send("first")
        await chat.until_idle()
        chat.type("word " * 30)
        await chat.until(lambda: chat.prompt.instruction_field.size.height == 2)
        await chat.press("up")
        assert chat.prompt.instruction == "word " * 30
        await chat.press("up")
        assert chat.prompt.instruction == "first"


@async_test
async def test_clicks_do_not_take_the_focus_from_the_prompt() -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.until_idle()
        for selector in ("#conversation", ".question", ".answer", "#foot", "#title", "#prompt"):
            await chat.pilot.click(selector)
        await chat.press("x", "y")
        assert chat.prompt.instruction == "xy"


@async_test
async def test_undo_and_redo() -> None:
    async with open_chat() as chat:
        chat.type("text")
        await chat.press("ctrl+z")
        assert chat.prompt.instruction == ""
        await chat.press("ctrl+shift+z")
        assert chat.prompt.instruction == "text"


def test_every_key_in_the_footer_has_an_explanation() -> None:
    for binding in Prompt.BINDINGS:
        assert isinstance(binding, Binding)
        assert binding.tooltip or not binding.show


class Host(App[None]):
    """A prompt alone, and what it posts."""

    AUTO_FOCUS = "#instruction"

    def __init__(self) -> None:
        super().__init__()
        self.prompt = Prompt()
        self.posted: list[Message] = []

    def compose(self) -> ComposeResult:
        yield self.prompt

    @on(Prompt.Submitted)
    @on(Prompt.Flipped)
    @on(Prompt.TurnSelected)
    def keep(self, message: Message) -> None:
        """Keep what the prompt posts."""
        self.posted.append(message)

    async def press(self, *keys: str) -> None:
        """Press all keys at once, as a terminal sends them, and wait until all are handled."""
        for key in keys:
            self.post_message(events.Key(key, key if len(key) == 1 else None))
        for pump in (self, self.prompt.instruction_field, self.prompt.input_field, self.prompt, self) * 3:
            handled = asyncio.Event()
            pump.call_later(handled.set)
            await handled.wait()

    def is_input_open(self) -> bool:
        """Whether the input has a place on the screen."""
        return self.prompt.input_field.region.height > 0


@async_test
async def test_tab_opens_the_input_and_closes_it_when_it_is_empty() -> None:
    app = Host()
    async with app.run_test() as pilot:
        assert not app.is_input_open()
        await app.press("tab")
        await pilot.pause()
        assert app.is_input_open()
        assert app.focused is app.prompt.input_field
        await app.press("tab")
        await pilot.pause()
        assert not app.is_input_open()
        assert app.focused is app.prompt.instruction_field
        await app.press("tab", "x", "shift+tab", "y")
        await pilot.pause()
        assert app.is_input_open()
        assert (app.prompt.instruction, app.prompt.input) == ("y", "x")


@pytest.mark.parametrize("end", [[], ["tab"], ["shift+tab"]])
def test_both_texts_are_sent_from_either_field_however_fast_the_keys_come(end: list[str]) -> None:
    @async_test
    async def send_fast() -> None:
        app = Host()
        async with app.run_test():
            for number in range(5):
                await app.press(*f" do {number} ", "tab", *f"it {number}", "ctrl+j", *end, "enter")
            assert app.posted == [Prompt.Submitted(f" do {number} ", f"it {number}\n") for number in range(5)]
            assert not app.prompt.has_text
            assert app.focused is app.prompt.instruction_field

    send_fast()


@async_test
async def test_a_paste_that_is_sent_at_once_leaves_the_focus_where_one_types() -> None:
    app = Host()
    async with app.run_test() as pilot:
        await app.press("x", "tab")
        app.post_message(events.Paste("pasted"))
        await app.press("enter")
        await pilot.pause()
        assert app.posted == [Prompt.Submitted("x", "pasted")]
        assert app.focused is app.prompt.instruction_field


@async_test
async def test_an_input_alone_is_not_sent_and_not_lost() -> None:
    app = Host()
    async with app.run_test() as pilot:
        await app.press("tab", *"abc", "enter")
        await pilot.pause()
        assert app.posted == []
        assert app.prompt.input == "abc"
        assert app.focused is app.prompt.instruction_field
        await app.press("x", "enter")
        assert app.posted == [Prompt.Submitted("x", "abc")]


@async_test
async def test_the_history_recalls_both_texts() -> None:
    app = Host()
    async with app.run_test():
        for keys in (["one", "tab", "1", "enter"], ["two", "enter"], ["dr", "tab", "aft"]):
            await app.press(*(key for word in keys for key in ([word] if word in ("tab", "enter") else word)))
        texts = []
        # The first up goes from the input into the instruction. A down goes the other way before it recalls.
        for key in ("up", "up", "up", "up", "down", "down", "down"):
            await app.press(key)
            texts.append((app.prompt.instruction, app.prompt.input))
        draft, one, two = ("dr", "aft"), ("one", "1"), ("two", "")
        assert texts == [draft, two, one, one, one, two, draft]


@given(st.text(), st.text())
def test_an_entry_of_the_history_gives_both_texts_back(instruction: str, text: str) -> None:
    assert _from_entry(_to_entry(instruction, text)) == (instruction, text)
    assert _to_entry("as typed", "") == "as typed"


@async_test
async def test_set_and_restore() -> None:
    app = Host()
    async with app.run_test():
        app.prompt.set("one", "input")
        assert (app.prompt.instruction, app.prompt.input) == ("one", "input")
        assert not app.prompt.restore("two")
        await app.press("enter")
        assert app.prompt.restore("two", "more")
        await app.press("enter")
        assert app.posted == [Prompt.Submitted("one", "input"), Prompt.Submitted("two", "more")]


@async_test
async def test_arrows_in_an_empty_prompt_flip_and_ctrl_arrows_select_a_turn() -> None:
    app = Host()
    async with app.run_test():
        await app.press("left", "right", "ctrl+up")
        for key in ("x", "left", "y", "right", "ctrl+down"):
            await app.press(key)
        assert app.posted == [
            Prompt.Flipped(-1),
            Prompt.Flipped(1),
            Prompt.TurnSelected(-1),
            Prompt.TurnSelected(1),
        ]
        assert app.prompt.instruction == "yx"
