"""The chat on a scripted session, driven by keys. Tests check widgets and wait for conditions, never for a time."""

from __future__ import annotations

import asyncio
import functools
import threading
from pathlib import Path

import pytest

from assistant.chat.commands import COMMANDS
from assistant.errors import ContextError, PrerequisiteError
from assistant.settings import GenerationSettings
from assistant.tui.cards import ProblemCard
from assistant.tui.foot import Foot
from assistant.tui.help import HelpScreen
from assistant.tui.prompt import Prompt
from assistant.tui.turn_view import TurnView
from tests.support.chat_driver import ChatDriver, async_test, open_chat, text_of
from tests.support.scripted_session import ScriptedSession

HELLO = "Hello.\n1 token · 20/s · ended by itself"
MARKUP = "see [/etc/x] and [bold and [@click=app.quit]q[/] $primary"


def loader(session: ScriptedSession, gate: threading.Event) -> ScriptedSession:
    """Return the session as soon as the gate is open."""
    gate.wait(10)
    return session


# --- answers ------------------------------------------------------------------------------------------------------


@async_test
async def test_a_message_gets_an_answer() -> None:
    session = ScriptedSession("It is ", "**green", "**.\n", "Really.")
    async with open_chat(session, generation=GenerationSettings(max_new_tokens=9)) as chat:
        await chat.send("  Which colour\nis grass?  ")
        assert chat.prompt.instruction == ""
        await chat.until_idle()
        assert chat.texts(".question") == ["  Which colour\nis grass?  "]
        assert chat.texts(".answer") == ["It is **green**.\nReally.\n4 tokens · 20/s · ended by itself"]
        assert not chat.screen.query(ProblemCard)
    assert session.instructions == ["  Which colour\nis grass?  "]
    assert session.settings == [GenerationSettings(max_new_tokens=9)]


@async_test
async def test_the_input_goes_to_the_model_and_stands_beside_the_instruction() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await chat.press(*"sum", "tab", *"1", "ctrl+j", *"2", "enter")
        await chat.until(lambda: session.instructions and chat.idle)
        await chat.press(*"do", "tab", *"it", "enter")
        await chat.until(lambda: len(session.instructions) == 2 and chat.idle)
        assert chat.texts(".question") == ["sum\n1\n2", "do  it"]
    assert (session.instructions, session.inputs) == (["sum", "do"], ["1\n2", "it"])


@async_test
async def test_escape_stops_the_answer_and_keeps_its_text() -> None:
    session = ScriptedSession("one ", "two ", "three", hold_at=2)
    async with open_chat(session, every_piece=True) as chat:
        await chat.send("count")
        await chat.until(lambda: chat.texts(".answer") == ["one two \nwriting …"])
        await chat.until(lambda: "tuned 2 tokens" in chat.state)
        assert "esc stop" in chat.visible().splitlines()[-1]
        await chat.press("escape")
        await chat.until_idle()
        assert chat.texts(".answer") == ["one two \n2 tokens · 20/s · stopped by you"]
        session.gate.set()
        await chat.send("again")  # the earlier stop must not affect the new answer
        await chat.until(lambda: len(chat.screen.query(TurnView)) == 2 and chat.idle)
        assert chat.texts(".answer")[1].startswith("one two three\n")


@async_test
async def test_messages_queue_and_are_answered_in_order() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        for text in ("first", "second", "third"):
            await chat.send(text)
        await chat.until(lambda: session.running)
        assert chat.prompt.instruction == ""
        assert chat.texts(".question") == ["first"]
        assert "2 waiting" in chat.state
        session.gate.set()
        await chat.until_idle()
        assert chat.texts(".question") == ["first", "second", "third"]
        assert chat.texts(".answer") == ["one two\n2 tokens · 20/s · ended by itself"] * 3
    assert session.instructions == ["first", "second", "third"]
    assert session.max_running == 1


@async_test
async def test_escape_stops_the_answer_first_and_then_the_next_one_begins() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    session.ignores_stop = True
    async with open_chat(session) as chat:
        await chat.send("first")
        await chat.send("second")
        await chat.until(lambda: session.running)
        await chat.press("escape")
        await chat.until(lambda: chat.texts(".answer")[0].endswith("stopping …"))
        assert session.instructions == ["first"]
        session.gate.set()
        await chat.until(lambda: len(session.instructions) == 2 and chat.idle)
        assert [text.split(" · ")[-1] for text in chat.texts(".answer")] == ["stopped by you", "ended by itself"]
    assert session.max_running == 1


@async_test
async def test_escape_at_any_moment_after_enter_stops_the_answer() -> None:
    """Actions run in the app's queue and messages in the screen's, so Esc can come while the screen takes a message."""
    session = ScriptedSession("one ", "two", hold_at=0)
    async with open_chat(session) as chat:
        for number in range(5):
            chat.prompt.post_message(Prompt.Submitted(f"message {number}"))
            await asyncio.sleep(0.001 * number)
            await chat.until(lambda: chat.chat.open_answers)
            chat.screen.action_stop()
            await chat.until_idle()
        assert len(chat.screen.query(TurnView)) == 5


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
            await chat.until(lambda: chat.screen.query(ProblemCard) and chat.idle)
            card = text_of(chat.screen.query_one(ProblemCard))
            assert problem in card
            assert "back in the prompt" in card
            assert chat.texts(".answer") == ["half an \nnot finished"]
            assert chat.texts(".question") == ["first"]
            assert chat.prompt.instruction == "first"
            session.error = None
            await chat.press("enter")
            await chat.until(lambda: len(chat.screen.query(TurnView)) == 2 and chat.idle)
            assert chat.texts(".answer")[1].endswith("ended by itself")

    scenario()


@async_test
async def test_an_error_does_not_replace_a_draft_in_the_prompt() -> None:
    session = ScriptedSession("x", hold_at=0, error=RuntimeError("no"))
    async with open_chat(session) as chat:
        await chat.send("first")
        chat.type("a draft")
        session.gate.set()
        await chat.until(lambda: chat.screen.query(ProblemCard))
        assert chat.prompt.instruction == "a draft"
        assert "Press up" in text_of(chat.screen.query_one(ProblemCard))
        await chat.press("up")
        assert chat.prompt.instruction == "first"


@async_test
async def test_a_text_that_is_too_long_is_refused_before_it_is_sent() -> None:
    session = ScriptedSession("ok", context_length=100)
    async with open_chat(session) as chat:
        chat.type("word " * 200)
        await chat.until(lambda: "/100 tokens" in chat.state)
        await chat.press("enter")
        assert chat.notice.endswith("tokens leave no room for an answer in 100. Shorten the text.")
        assert chat.prompt.instruction == "word " * 200
        assert not chat.screen.query(TurnView)
    assert session.instructions == []


# --- loading ------------------------------------------------------------------------------------------------------


@async_test
async def test_the_first_screen_is_painted_before_loading_starts() -> None:
    painted: list[tuple[bool, int, bool]] = []
    gate = threading.Event()

    def load() -> ScriptedSession:
        shows_welcome = chat.screen.query_one("Welcome").size.height > 0
        field = chat.prompt.instruction_field
        painted.append((chat.screen.focused is field, field.size.height, shows_welcome))
        return loader(ScriptedSession("Hello."), gate)

    async with open_chat(load, waits=False) as chat:
        await chat.until(lambda: painted)
        assert painted == [(True, 1, True)]
        assert chat.state == "loading toy … you can type"
        await chat.send("early")
        await chat.send("more")
        assert chat.texts(".question") == []
        assert "esc take back" in chat.visible()
        await chat.press("escape")
        assert chat.prompt.instruction == "more"
        gate.set()
        await chat.until(lambda: chat.texts(".answer") == [HELLO] and chat.idle)
        assert chat.texts(".question") == ["early"]
        assert chat.prompt.instruction == "more"


@async_test
async def test_a_failed_load_gives_the_message_back_and_can_be_repeated() -> None:
    gate = threading.Event()
    problems = [f"models/x {MARKUP}: expected a model folder, got no such folder.", "still nothing", ""]

    def load() -> ScriptedSession:
        gate.wait(10)
        if problem := problems.pop(0):
            raise PrerequisiteError(problem)
        return ScriptedSession("Hello.")

    async with open_chat(load, waits=False) as chat:
        await chat.send("early")
        gate.set()
        await chat.until(lambda: chat.screen.query(ProblemCard) and chat.state == "no model")
        assert MARKUP in text_of(chat.screen.query_one(ProblemCard))
        assert chat.prompt.instruction == "early"
        await chat.press("enter", "enter")
        assert chat.prompt.instruction == "early"
        assert chat.notice == "There is no model. ctrl+l loads it again."
        await chat.press("ctrl+l")
        await chat.until(lambda: len(chat.screen.query(ProblemCard)) == 2)
        assert chat.texts("ProblemCard")[1] == "still nothing\nPress ctrl+l to load the model again."
        await chat.press("ctrl+l")
        await chat.until_idle()
        await chat.until(lambda: chat.chat.state("tuned") == "ready")
        await chat.press("enter")
        await chat.until(lambda: chat.texts(".answer") == [HELLO] and chat.idle)


@async_test
async def test_what_a_model_says_about_its_template_is_shown() -> None:
    session = ScriptedSession("ok")
    session.template_note = "Its template is unknown here."
    async with open_chat(session) as chat:
        await chat.until(lambda: chat.notice == session.template_note)


# --- commands -----------------------------------------------------------------------------------------------------


@async_test
async def test_commands_are_carried_out_and_two_slashes_send_one() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await chat.send("/help")
        await chat.until(lambda: isinstance(chat.app.screen, HelpScreen))
        await chat.press("escape")
        await chat.send("/halp me")
        assert chat.prompt.instruction == "/halp me"
        assert "Did you mean /help?" in chat.notice
        chat.prompt.set("")
        await chat.send("//etc/hosts")
        await chat.until(lambda: session.instructions and chat.idle)
        await chat.send("/usr/bin is a folder")
        await chat.until(lambda: len(session.instructions) == 2 and chat.idle)
    assert session.instructions == ["/etc/hosts", "/usr/bin is a folder"]


@async_test
async def test_a_bare_quit_asks_once() -> None:
    session = ScriptedSession("ok")
    async with open_chat(session) as chat:
        await chat.send("quit")
        assert chat.prompt.instruction == ""
        assert chat.notice == "quit: type it again to send it to the model. /quit leaves the chat."
        await chat.send("quit")
        await chat.until(lambda: session.instructions == ["quit"] and chat.idle)
        await chat.send("/quit")
        await asyncio.sleep(0)
        assert not chat.app.is_running or chat.app._exit
    assert session.instructions == ["quit"]


@async_test
async def test_every_command_does_something(tmp_path: Path) -> None:
    arguments = {"keep": "1", "choose": "left", "correct": "Right.", "open": "no-such-id"}
    arguments |= {"rename": "A name", "input": "text"}
    names = [command.name for command in COMMANDS if command.name != "quit"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        async with open_chat(
            ScriptedSession("ok"), ScriptedSession("ok"), folder=tmp_path / "chats", beside=True
        ) as chat:
            await chat.send("hello")
            await chat.until_idle()
            for name in sorted(names, key="new".__eq__):  # `new` leaves nothing for the others
                chat.screen.query_one(Foot).end_notice()
                before = what_is_seen(chat)
                await chat.send(f"/{name} {arguments.get(name, '')}".strip())
                await chat.until(lambda: what_is_seen(chat) != before and chat.idle)  # noqa: B023
                assert chat.prompt.instruction == "", name
                if chat.app.screen is not chat.screen:
                    await chat.press("escape")
                    await chat.until(lambda: chat.app.screen is chat.screen)
                chat.prompt.set("")


def what_is_seen(chat: ChatDriver) -> object:
    """What a command may change: the screen on top, the notice, the turns, and the second field."""
    return (
        type(chat.app.screen),
        chat.notice,
        chat.texts("TurnView"),
        chat.prompt.input_field.region,
        chat.chat.settings.generation,
    )


@async_test
async def test_a_command_changes_a_setting() -> None:
    async with open_chat() as chat:
        await chat.send("/settings temperature 0.7")
        assert chat.notice == "temperature 0.7 · a new seed for each answer · at most 4096 tokens"
        await chat.send("/settings seed 7")
        assert (chat.chat.settings.generation.temperature, chat.chat.settings.seed) == (0.7, 7)
        await chat.send("/settings heat 7")
        assert chat.notice == "settings: expected temperature, seed, length, got heat."


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
            parts = ("#title", "#conversation", "#prompt", "#foot")
            regions = [chat.screen.query_one(part).region for part in parts]
            assert [region.y for region in regions] == [0, *(region.bottom for region in regions[:-1])]
            assert regions[-1].bottom == height
            assert all(region.width == width for region in regions)
            assert regions[1].height >= 4


@async_test
async def test_the_conversation_follows_new_text_until_the_person_scrolls_up() -> None:
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
        await chat.until(lambda: len(chat.screen.query(TurnView)) == 2 and chat.idle)
        await chat.until(lambda: "item 29" in chat.visible() and conversation.is_vertical_scroll_end)


@async_test
async def test_the_foot_names_only_keys_that_do_something_now() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        foot = chat.screen.query_one("#foot", Foot)

        def words() -> list[str]:
            return [key.word for key in foot._keys]

        assert words() == ["send", "keys", "test row", "tokens", "quit"]
        await chat.send("hello")
        await chat.until(lambda: session.running)
        assert words()[0] == "stop"
        session.gate.set()
        await chat.until_idle()
        assert words() == ["keys", "test row", "tokens", "quit"]
        chat.type("x")
        await chat.until(lambda: words()[0] == "send")


@async_test
async def test_a_history_of_messages_that_cannot_be_kept_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir(parents=True)
    async with open_chat(ScriptedSession("ok"), folder=tmp_path) as chat:
        await chat.send("one")
        await chat.until_idle()
        assert "expected to keep what you type for later chats, got Is a directory." in chat.notice
        chat.screen.query_one(Foot).end_notice()
        await chat.send("two")
        await chat.until_idle()
        assert chat.notice == ""
