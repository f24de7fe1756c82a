"""The help screen."""

from __future__ import annotations

from assistant.tui.help import HelpScreen
from tests.support.chat_driver import async_test, open_chat, text_of
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_help_lists_every_key_and_does_not_interrupt_the_reply() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with open_chat(session) as chat:
        await chat.send("hello")
        await chat.press("f1")
        help_screen = chat.app.screen
        assert isinstance(help_screen, HelpScreen)
        lines = text_of(help_screen).splitlines()
        for key in ("enter", "ctrl+j", "up", "down", "pageup", "pagedown", "esc", "ctrl+l", "ctrl+y", "f1", "ctrl+q"):
            assert key in lines
        session.gate.set()
        await chat.until_idle()
        await chat.press("escape")
        assert chat.app.screen is chat.screen
        assert chat.texts(".answer") == ["one two\n2 tokens · 20/s · ended by itself"]
