"""The chat's keys: the prompt, its history, scrolling, help, copying; and the layout they need."""

from __future__ import annotations

from textual import events
from textual.binding import Binding

from assistant.tui.help import HelpScreen
from assistant.tui.inputs import InputHistory
from assistant.tui.prompt import Prompt
from assistant.tui.turns import ReplyMessage, UserMessage
from tests.support.chat_double import ScriptedSession, async_test, chat, text_of

# --- the prompt ---------------------------------------------------------------------------------------------------


@async_test
async def test_new_lines_and_growth() -> None:
    async with chat() as c:
        await c.press("a", "ctrl+j", "b")
        assert c.prompt.text == "a\nb"
        await c.until(lambda: c.prompt.size.height == 2)
        await c.press(*["ctrl+j"] * 12)
        await c.until(lambda: c.prompt.size.height == 8)
        assert c.prompt.cursor_location == (13, 0)
        c.prompt.clear()
        await c.until(lambda: c.prompt.size.height == 1)
        c.type("word " * 40)  # a long line is several rows
        await c.until(lambda: c.prompt.size.height == 3)


@async_test
async def test_blank_input_does_nothing() -> None:
    async with chat() as c:
        await c.press("enter")
        await c.send(" \n\t ")
        assert c.prompt.text == " \n\t "
        assert not c.screen.query(UserMessage)
        assert not c.prompt.locked


@async_test
async def test_a_paste_of_several_lines_is_one_message() -> None:
    session = ScriptedSession("ok")
    async with chat(session) as c:
        await c.press(*"ab")
        c.app.post_message(events.Paste("one\r\ntwo\rthree\x1b[31m"))
        await c.until(lambda: c.prompt.text == "abone\ntwo\nthree␛[31m")
        await c.press("enter")
        await c.until(lambda: session.instructions and c.idle)
    assert session.instructions == ["abone\ntwo\nthree␛[31m"]


@async_test
async def test_earlier_inputs_come_back_at_the_edges() -> None:
    async with chat() as c:
        for text in ("first", "second\nline"):
            await c.send(text)
            await c.until(lambda: not c.prompt.locked)
        c.type("a\ndraft")
        await c.press("up")  # within the draft
        assert (c.prompt.text, c.prompt.cursor_location[0]) == ("a\ndraft", 0)
        await c.press("up")
        assert (c.prompt.text, c.prompt.cursor_location) == ("second\nline", (1, 4))
        await c.press("up", "up")
        assert c.prompt.text == "first"
        await c.press("up")  # the beginning
        assert c.prompt.text == "first"
        await c.press("down", "down")
        assert c.prompt.text == "a\ndraft"
        await c.press("down")
        assert c.prompt.text == "a\ndraft"


@async_test
async def test_the_arrows_move_inside_a_wrapped_line_first() -> None:
    async with chat() as c:
        await c.send("first")
        await c.until(lambda: not c.prompt.locked)
        c.type("word " * 30)
        await c.until(lambda: c.prompt.size.height == 2)
        await c.press("up")
        assert c.prompt.text == "word " * 30
        await c.press("up")
        assert c.prompt.text == "first"


def test_history_keeps_what_was_edited_on_the_way() -> None:
    history = InputHistory()
    assert history.earlier("draft") is None
    history.add("one")
    history.add("two")
    history.add("two")
    assert history.earlier("draft") == "two"
    assert history.earlier("two, edited") == "one"
    assert history.earlier("one") is None
    assert history.later("one") == "two, edited"
    assert history.later("two, edited") == "draft"
    assert history.later("draft") is None
    history.add("three")
    assert [history.earlier(""), history.earlier("three"), history.earlier("two")] == ["three", "two", "one"]


@async_test
async def test_typing_always_reaches_the_prompt() -> None:
    async with chat() as c:
        await c.send("hello")
        await c.until_idle()
        for selector in ("#conversation", "UserMessage", "ReplyMarkdown", "#status", "#title"):
            await c.pilot.click(selector)
        await c.press("tab", "x", "shift+tab", "y")
        assert c.prompt.text == "xy"


@async_test
async def test_undo_and_redo() -> None:
    async with chat() as c:
        c.type("text")
        await c.press("ctrl+z")
        assert c.prompt.text == ""
        await c.press("ctrl+shift+z")
        assert c.prompt.text == "text"


# --- what is offered, and what it does ----------------------------------------------------------------------------


@async_test
async def test_only_keys_that_work_are_offered() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with chat(session) as c:

        def offered() -> list[str]:
            shown = [active.binding for active in c.screen.active_bindings.values() if active.binding.show]
            return [binding.description for binding in shown]

        assert offered() == ["Send", "New line", "Help", "Quit"]
        await c.send("hello")
        assert offered() == ["Send", "New line", "Stop", "Help", "Quit"]
        session.gate.set()
        await c.until_idle()
        assert offered() == ["Send", "New line", "Help", "Copy", "Quit"]


@async_test
async def test_copy_gives_the_last_complete_reply() -> None:
    async with chat(ScriptedSession("**one**\n", "\x1b[2Jtwo")) as c:
        await c.press("ctrl+y")
        assert c.app.clipboard == ""
        await c.send("hello")
        await c.until_idle()
        await c.press("ctrl+y")
        assert c.app.clipboard == "**one**\n␛[2Jtwo"
        assert c.status == "Sent to your terminal's clipboard."


@async_test
async def test_help_lists_every_key_and_a_reply_goes_on_below_it() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with chat(session) as c:
        await c.send("hello")
        await c.press("f1")
        assert isinstance(c.app.screen, HelpScreen)
        listed = text_of(c.app.screen)
        for key in ("enter", "ctrl+j", "up", "down", "pageup", "pagedown", "esc", "ctrl+l", "ctrl+y", "f1", "ctrl+q"):
            assert f"\n{key}\n" in f"\n{listed}\n"
        session.gate.set()
        await c.until_idle()
        await c.press("escape")
        assert c.app.screen is c.screen
        assert c.texts("ReplyMessage .note") == ["2 tokens · 20.0 tokens/s · finished"]


@async_test
async def test_the_command_palette_does_not_disturb_a_reply() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with chat(session) as c:
        await c.send("hello")
        await c.press("ctrl+p")
        session.gate.set()
        await c.until_idle()
        await c.press("escape")
        await c.until(lambda: c.app.screen is c.screen)
        assert c.texts("ReplyMarkdown") == ["one two"]


@async_test
async def test_ctrl_c_does_not_end_the_chat() -> None:
    async with chat() as c:
        await c.press("ctrl+c", "ctrl+c")
        assert c.status == "ctrl+q quits."
        assert c.app.is_running


def test_every_key_of_ours_is_explained() -> None:
    for binding in Prompt.BINDINGS:
        assert isinstance(binding, Binding)
        assert binding.tooltip or not binding.show


# --- layout -------------------------------------------------------------------------------------------------------


@async_test
async def test_everything_has_its_place() -> None:
    async with chat(ScriptedSession("word " * 50)) as c:
        await c.send("hello")
        await c.until_idle()
        c.type("\n" * 20)
        for width, height in [(40, 12), (80, 24), (200, 60)]:
            await c.pilot.resize_terminal(width, height)
            await c.until(lambda size=(width, height): c.screen.size == size)
            places = ("#title", "#conversation", "#prompt", "#status", "Footer")
            regions = [c.screen.query_one(place).region for place in places]
            assert [region.y for region in regions] == [0, *(region.bottom for region in regions[:-1])]
            assert regions[-1].bottom == height
            assert all(region.width == width for region in regions)
            assert regions[1].height >= 4


@async_test
async def test_the_conversation_follows_until_it_is_scrolled() -> None:
    lines = [f"item {number}\n\n" for number in range(30)]
    session = ScriptedSession(*lines, hold_at=20)
    async with chat(session, every_piece=True) as c:
        view = c.screen.query_one("#conversation")
        await c.press("pageup")  # nothing to scroll: must not let go of the end
        await c.send("list")
        await c.until(lambda: "item 19" in c.visible())
        assert view.is_vertical_scroll_end
        await c.press("pageup")
        await c.until(lambda: not view.is_vertical_scroll_end)
        position = view.scroll_y
        session.gate.set()
        await c.until_idle()
        assert view.scroll_y == position
        await c.press("pagedown", "pagedown", "pagedown", "pagedown")
        await c.until(lambda: view.is_vertical_scroll_end)
        await c.press("pageup")
        session.gate.clear()
        await c.send("again")  # whoever sends wants to see the reply
        await c.until(lambda: "item 19" in c.visible())
        await c.press("pagedown")  # already there: must not let go either
        session.gate.set()
        await c.until(lambda: len(c.screen.query(ReplyMessage)) == 2 and c.idle)
        await c.until(lambda: "item 29" in c.visible() and view.is_vertical_scroll_end)
