"""The input box: typing, sending, pasting and recalling messages with the keys."""

from __future__ import annotations

from textual import events
from textual.binding import Binding

from assistant.tui.prompt import Prompt
from assistant.tui.turns import UserMessage
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_the_prompt_grows_with_its_lines_up_to_a_limit() -> None:
    async with open_chat() as chat:
        await chat.press("a", "ctrl+j", "b")
        assert chat.prompt.text == "a\nb"
        await chat.until(lambda: chat.prompt.size.height == 2)
        await chat.press(*["ctrl+j"] * 12)
        await chat.until(lambda: chat.prompt.size.height == 8)
        assert chat.prompt.cursor_location == (13, 0)
        chat.prompt.clear()
        await chat.until(lambda: chat.prompt.size.height == 1)
        chat.type("word " * 40)  # one long line wraps into several rows
        await chat.until(lambda: chat.prompt.size.height == 3)


@async_test
async def test_enter_does_nothing_on_blank_text() -> None:
    async with open_chat() as chat:
        await chat.press("enter")
        await chat.send(" \n\t ")
        assert chat.prompt.text == " \n\t "
        assert not chat.screen.query(UserMessage)
        assert not chat.prompt.locked


@async_test
async def test_a_paste_of_several_lines_is_one_message() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await chat.press(*"ab")
        chat.app.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m"))
        await chat.until(lambda: chat.prompt.text == "abone\ntwo\nthree␛[31m")
        await chat.press("enter")
        await chat.until(lambda: session.instructions and chat.idle)
    assert session.instructions == ["abone\ntwo\nthree␛[31m"]


@async_test
async def test_up_and_down_recall_messages_only_from_the_first_and_last_row() -> None:
    async with open_chat() as chat:
        for text in ("first", "second\nline"):
            await chat.send(text)
            await chat.until(lambda: not chat.prompt.locked)
        chat.type("a\ndraft")
        await chat.press("up")  # moves the cursor inside the draft
        assert (chat.prompt.text, chat.prompt.cursor_location[0]) == ("a\ndraft", 0)
        await chat.press("up")
        assert (chat.prompt.text, chat.prompt.cursor_location) == ("second\nline", (1, 4))
        await chat.press("up", "up")
        assert chat.prompt.text == "first"
        await chat.press("up")  # already at the oldest message
        assert chat.prompt.text == "first"
        await chat.press("down", "down")
        assert chat.prompt.text == "a\ndraft"
        await chat.press("down")
        assert chat.prompt.text == "a\ndraft"


@async_test
async def test_up_moves_inside_a_wrapped_line_before_it_recalls() -> None:
    async with open_chat() as chat:
        await chat.send("first")
        await chat.until(lambda: not chat.prompt.locked)
        chat.type("word " * 30)
        await chat.until(lambda: chat.prompt.size.height == 2)
        await chat.press("up")
        assert chat.prompt.text == "word " * 30
        await chat.press("up")
        assert chat.prompt.text == "first"


@async_test
async def test_clicks_and_tab_do_not_take_the_focus_from_the_prompt() -> None:
    async with open_chat() as chat:
        await chat.send("hello")
        await chat.until_idle()
        for selector in ("#conversation", "UserMessage", "ReplyMarkdown", "#status", "#title"):
            await chat.pilot.click(selector)
        await chat.press("tab", "x", "shift+tab", "y")
        assert chat.prompt.text == "xy"


@async_test
async def test_undo_and_redo() -> None:
    async with open_chat() as chat:
        chat.type("text")
        await chat.press("ctrl+z")
        assert chat.prompt.text == ""
        await chat.press("ctrl+shift+z")
        assert chat.prompt.text == "text"


def test_every_key_in_the_footer_has_an_explanation() -> None:
    for binding in Prompt.BINDINGS:
        assert isinstance(binding, Binding)
        assert binding.tooltip or not binding.show
