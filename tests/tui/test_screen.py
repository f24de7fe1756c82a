"""The chat on a scripted session, driven by keys. Tests check widgets and wait for conditions, never for a time."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest
from textual import events

from assistant.errors import ContextError, PrerequisiteError
from assistant.settings import GenerationSettings
from assistant.tui.prompt import Prompt
from assistant.tui.raw_text import INVISIBLE
from assistant.tui.turns import ErrorCard, ReplyMessage, UserMessage
from tests.support.chat_driver import ChatDriver, async_test, open_chat, text_of
from tests.support.scripted_session import ScriptedSession

MARKUP = "see [/etc/x] and [bold and [@click=app.quit]q[/] $primary"
HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b[31m a\u202eb\x00 \x9b2J \ud800 &#x202e; <b>tag</b> [name](http://example.org)"


# --- replies ------------------------------------------------------------------------------------------------------


@async_test
async def test_a_message_gets_a_reply() -> None:
    session = ScriptedSession("It is ", "**green", "**.\n", "Really.")
    async with open_chat(session, settings=GenerationSettings(max_new_tokens=9)) as chat:
        await chat.send("  Which colour\nis grass?  ")
        assert chat.prompt.instruction == ""
        await chat.until_idle()
        assert chat.texts("UserMessage .text") == ["  Which colour\nis grass?  "]
        assert chat.texts("ReplyMarkdown") == ["It is green.\nReally."]
        assert chat.texts("ReplyMessage .note") == ["4 tokens · 20.0 tokens/s · finished"]
        assert not chat.screen.query(ErrorCard)
    assert session.instructions == ["  Which colour\nis grass?  "]
    assert session.settings == [GenerationSettings(max_new_tokens=9)]


@async_test
async def test_escape_stops_the_reply_and_keeps_its_text() -> None:
    session = ScriptedSession("one ", "two ", "three", hold_at=2)
    async with open_chat(session, every_piece=True) as chat:
        await chat.send("count")
        await chat.until(lambda: "two" in "".join(chat.texts("ReplyMarkdown")))
        await chat.press("escape")
        await chat.until_idle()
        assert chat.texts("ReplyMarkdown") == ["one two"]
        assert chat.texts("ReplyMessage .note") == ["2 tokens · 20.0 tokens/s · stopped by you"]
        session.gate.set()
        await chat.send("again")  # the earlier stop must not affect the new reply
        await chat.until(lambda: len(chat.screen.query(ReplyMessage)) == 2 and chat.idle)
        assert chat.texts("ReplyMarkdown")[1] == "one two three"


@async_test
async def test_the_prompt_stays_locked_until_the_stopped_thread_has_ended() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    session.ignores_stop = True
    async with open_chat(session) as chat:
        await chat.send("first")
        await chat.until(lambda: session.running)
        await chat.press("escape")
        await chat.until(lambda: chat.texts("ReplyMessage .note") == ["stopping …"])
        await chat.send("second")
        assert chat.prompt.instruction == "second"
        assert session.instructions == ["first"]
        session.gate.set()
        await chat.until_idle()
        await chat.press("enter")
        await chat.until(lambda: len(chat.screen.query(ReplyMessage)) == 2 and chat.idle)
    assert session.instructions == ["first", "second"]
    assert session.max_running == 1


@async_test
async def test_enter_during_a_reply_keeps_the_typed_text() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        await chat.send("first")
        await chat.send("second")
        await chat.press("enter", "enter")
        assert chat.prompt.instruction == "second"
        assert chat.status == "Esc stops the reply. Your text stays here."
        assert len(chat.screen.query(UserMessage)) == 1
        session.gate.set()
        await chat.until_idle()
        assert chat.prompt.instruction == "second"
    assert session.instructions == ["first"]


@async_test
async def test_escape_at_any_moment_after_enter_stops_the_reply() -> None:
    """Actions run in the app's queue and messages in the screen's, so Esc can come while the screen takes a message."""
    session = ScriptedSession("one ", "two", hold_at=0)
    async with open_chat(session) as chat:
        for number in range(5):
            chat.prompt.post_message(Prompt.Submitted(f"message {number}"))
            await asyncio.sleep(0.001 * number)
            chat.screen.action_stop()
            await chat.until_idle()
        assert len(chat.screen.query(UserMessage)) == len(chat.screen.query(ReplyMessage)) == 5


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ContextError("prompt: expected at most 60 tokens, got 90. Shorten it."), "prompt: expected at most 60 tokens"),
        (RuntimeError(f"CUDA out of memory {MARKUP}"), f"RuntimeError: CUDA out of memory {MARKUP}"),
        (MemoryError(), "MemoryError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_after_an_error_the_text_stays_and_the_message_can_be_sent_again(error: BaseException, problem: str) -> None:
    session = ScriptedSession("half an ", error=error)

    @async_test
    async def scenario() -> None:
        async with open_chat(session) as chat:
            await chat.send("first")
            await chat.until(lambda: chat.screen.query(ErrorCard) and chat.idle)
            card = text_of(chat.screen.query_one(ErrorCard))
            assert problem in card
            assert "back in the prompt" in card
            assert chat.texts("ReplyMarkdown") == ["half an"]
            assert chat.texts("ReplyMessage .note") == ["not finished"]
            assert chat.texts("UserMessage .text") == ["first"]
            assert chat.prompt.instruction == "first"
            session.error = None
            await chat.press("enter")
            await chat.until(lambda: len(chat.screen.query(ReplyMessage)) == 2 and chat.idle)
            assert chat.texts("ReplyMessage .note")[1].endswith("finished")

    scenario()


@async_test
async def test_an_error_before_the_first_text_leaves_no_empty_reply() -> None:
    async with open_chat(ScriptedSession(error=ContextError("prompt: too long"))) as chat:
        await chat.send("first")
        await chat.until(lambda: chat.screen.query(ErrorCard) and chat.idle)
        assert not chat.screen.query(ReplyMessage)
        assert chat.prompt.instruction == "first"


@async_test
async def test_an_error_does_not_replace_a_draft_in_the_prompt() -> None:
    session = ScriptedSession("x", hold_at=0, error=RuntimeError("no"))
    async with open_chat(session) as chat:
        await chat.send("first")
        chat.type("a draft")
        session.gate.set()
        await chat.until(lambda: chat.screen.query(ErrorCard))
        assert chat.prompt.instruction == "a draft"
        assert "Press up" in text_of(chat.screen.query_one(ErrorCard))
        await chat.press("up")
        assert chat.prompt.instruction == "first"


# --- hostile text -------------------------------------------------------------------------------------------------


@async_test
async def test_markup_appears_as_plain_text_everywhere() -> None:
    session = ScriptedSession(MARKUP, error=RuntimeError(MARKUP))
    session.summary = MARKUP
    session.name = MARKUP
    async with open_chat(session, model_name=MARKUP, size=(160, 40)) as chat:
        assert MARKUP in chat.status
        assert text_of(chat.screen.query_one("#title")) == f"assistant · {MARKUP}"
        await chat.send(MARKUP)
        await chat.until(lambda: chat.screen.query(ErrorCard) and chat.idle)
        for selector in ("UserMessage .text", "ReplyMarkdown", "ErrorCard"):
            assert MARKUP in chat.texts(selector)[0]
        # in the title, message, reply, error, prompt and status
        await chat.until(lambda: chat.visible().count(MARKUP) == 6)


@async_test
async def test_control_characters_appear_as_visible_symbols_everywhere() -> None:
    session = ScriptedSession(*HOSTILE, error=RuntimeError(HOSTILE))
    session.summary = session.name = HOSTILE
    async with open_chat(session, model_name=HOSTILE, size=(200, 40)) as chat:
        chat.app.post_message(events.Paste(HOSTILE))
        await chat.until(lambda: chat.prompt.instruction)
        await chat.press("enter")
        await chat.until(lambda: chat.screen.query(ErrorCard) and chat.idle)
        symbols = r"␛]52;c;cm0gLXJm␇␛[31m a\u202eb␀ \u009b2J \ud800 &#x202e; <b>tag</b> [name](http://example.org)"
        await chat.until(lambda: chat.visible().count(symbols) == 4)  # in the title, reply, error and status
        typed = symbols.replace(r"\ud800", "\ufffd")  # no terminal can send half a character
        signs = typed.replace(r"\u202e", INVISIBLE).replace(r"\u009b", INVISIBLE)
        assert typed in chat.visible()  # the message
        assert signs in chat.visible()  # the prompt, where each character has one column
        assert chat.visible().replace("\n", "").isprintable()
        await chat.press("ctrl+y")  # copies nothing, because no reply is complete
        assert chat.app.clipboard == ""


# --- loading ------------------------------------------------------------------------------------------------------


@async_test
async def test_the_first_screen_is_painted_before_loading_starts() -> None:
    painted: list[tuple[bool, int, bool]] = []
    gate = threading.Event()
    session = ScriptedSession("Hello.")

    def load() -> ScriptedSession:
        shows_welcome = chat.screen.query_one("Welcome").size.height > 0
        painted.append(
            (
                chat.screen.focused is chat.prompt.instruction_field,
                chat.prompt.instruction_field.size.height,
                shows_welcome,
            )
        )
        gate.wait(10)
        return session

    async with open_chat(load=load) as chat:
        await chat.until(lambda: painted)
        assert painted == [(True, 1, True)]
        assert chat.status == "loading toy … you can type already"
        await chat.send("early")
        assert chat.texts("UserMessage .text") == ["early"]
        assert chat.texts("UserMessage .note") == ["waiting for the model …"]
        await chat.send("too much")
        assert chat.status == "Esc takes the waiting message back."
        assert chat.prompt.instruction == "too much"
        gate.set()
        await chat.until_idle()
        assert chat.texts("UserMessage .text") == ["early"]
        assert not chat.screen.query_one("UserMessage .note").display
        assert chat.texts("ReplyMarkdown") == ["Hello."]
        assert chat.prompt.instruction == "too much"
        assert chat.status == f"ready · {session.summary}"


@async_test
async def test_escape_takes_back_a_message_that_waits_for_the_model() -> None:
    gate = threading.Event()
    session = ScriptedSession("Hello.")

    def load() -> ScriptedSession:
        gate.wait(10)
        return session

    async with open_chat(load=load) as chat:
        await chat.send("early")
        await chat.until(lambda: chat.screen.query(UserMessage))
        await chat.press("escape")
        await chat.until(lambda: not chat.screen.query(UserMessage))
        assert chat.prompt.instruction == "early"
        gate.set()
        await chat.until_idle()
        assert session.instructions == []
        await chat.press("enter")
        await chat.until(lambda: chat.screen.query(ReplyMessage) and chat.idle)


@async_test
async def test_a_failed_load_shows_one_error_and_can_be_repeated() -> None:
    gate = threading.Event()
    problems = [f"models/x {MARKUP}: expected a model folder, got no such folder.", "still nothing", ""]

    def load() -> ScriptedSession:
        gate.wait(10)
        if problem := problems.pop(0):
            raise PrerequisiteError(problem)
        return ScriptedSession("Hello.")

    async with open_chat(load=load) as chat:
        await chat.send("early")
        gate.set()
        await chat.until(lambda: chat.screen.query(ErrorCard) and chat.status.startswith("no model"))
        assert MARKUP in text_of(chat.screen.query_one(ErrorCard))
        assert chat.prompt.instruction == "early"
        assert not chat.screen.query(UserMessage)
        for _ in range(3):
            await chat.press("enter")
            await chat.until(lambda: chat.prompt.instruction == "early")
            await chat.until(lambda: chat.screen.query(ErrorCard))
            assert len(chat.screen.query(ErrorCard)) == 1
        await chat.press("ctrl+l")
        await chat.until(lambda: chat.texts("ErrorCard") == ["still nothing\nPress ctrl+l to load the model again."])
        await chat.press("ctrl+l")
        await chat.until_idle()
        assert not chat.screen.query(ErrorCard)
        await chat.press("enter")
        await chat.until(lambda: chat.texts("ReplyMarkdown") == ["Hello."] and chat.idle)


# --- keys ---------------------------------------------------------------------------------------------------------


@async_test
async def test_the_footer_offers_only_keys_that_work() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:

        def offered() -> list[str]:
            bindings = [active.binding for active in chat.screen.active_bindings.values()]
            return [binding.description for binding in bindings if binding.show]

        assert offered() == ["Send", "New line", "Input", "Help", "Quit"]
        await chat.send("hello")
        assert offered() == ["Send", "New line", "Input", "Stop", "Help", "Quit"]
        session.gate.set()
        await chat.until_idle()
        assert offered() == ["Send", "New line", "Input", "Help", "Copy", "Quit"]


@async_test
async def test_copy_takes_the_last_complete_reply() -> None:
    async with open_chat(ScriptedSession("**one**\n", "\x1b[2Jtwo")) as chat:
        await chat.press("ctrl+y")
        assert chat.app.clipboard == ""
        await chat.send("hello")
        await chat.until_idle()
        await chat.press("ctrl+y")
        assert chat.app.clipboard == "**one**\n␛[2Jtwo"
        assert chat.status == "Sent the reply to your terminal's clipboard."


@async_test
async def test_the_command_palette_does_not_interrupt_the_reply() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        await chat.send("hello")
        await chat.press("ctrl+p")
        session.gate.set()
        await chat.until_idle()
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.texts("ReplyMarkdown") == ["one two"]


# --- layout -------------------------------------------------------------------------------------------------------


def has_size(chat: ChatDriver, width: int, height: int) -> bool:
    return (chat.screen.size.width, chat.screen.size.height) == (width, height)


@async_test
async def test_the_parts_fill_the_screen_at_every_size() -> None:
    async with open_chat(ScriptedSession("word " * 50)) as chat:
        await chat.send("hello")
        await chat.until_idle()
        chat.type("\n" * 20)
        for width, height in [(40, 12), (80, 24), (200, 60)]:
            await chat.pilot.resize_terminal(width, height)
            await chat.until(functools.partial(has_size, chat, width, height))
            parts = ("#title", "#conversation", "#prompt", "#status", "Footer")
            regions = [chat.screen.query_one(part).region for part in parts]
            assert [region.y for region in regions] == [0, *(region.bottom for region in regions[:-1])]
            assert regions[-1].bottom == height
            assert all(region.width == width for region in regions)
            assert regions[1].height >= 4


@async_test
async def test_the_conversation_follows_new_text_until_the_user_scrolls_up() -> None:
    lines = [f"item {number}\n\n" for number in range(30)]
    session = ScriptedSession(*lines, hold_at=20)
    async with open_chat(session, every_piece=True) as chat:
        conversation = chat.screen.query_one("#conversation")
        await chat.press("pageup")  # has nothing to scroll, and must not leave the end
        await chat.send("list")
        await chat.until(lambda: "item 19" in chat.visible())
        assert conversation.is_vertical_scroll_end
        await chat.press("pageup")
        await chat.until(lambda: not conversation.is_vertical_scroll_end)
        position = conversation.scroll_y
        session.gate.set()
        await chat.until_idle()
        assert conversation.scroll_y == position
        await chat.press("pagedown", "pagedown", "pagedown", "pagedown")
        await chat.until(lambda: conversation.is_vertical_scroll_end)
        await chat.press("pageup")
        session.gate.clear()
        await chat.send("again")  # sending goes back to the end
        await chat.until(lambda: "item 19" in chat.visible())
        await chat.press("pagedown")  # is at the end already, and must not leave it
        session.gate.set()
        await chat.until(lambda: len(chat.screen.query(ReplyMessage)) == 2 and chat.idle)
        await chat.until(lambda: "item 29" in chat.visible() and conversation.is_vertical_scroll_end)
