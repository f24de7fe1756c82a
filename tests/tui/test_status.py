"""The status line."""

from __future__ import annotations

import pytest

from assistant.tui import status
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_a_notice_gives_way_to_the_state() -> None:
    session = ScriptedSession()
    state = f"ready · {session.summary}"
    async with open_chat(session) as chat:
        assert chat.status == state
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(status, "NOTICE_SECONDS", 0.01)
            chat.screen.show_notice("A short notice.")
            assert chat.status == "A short notice."
            await chat.until(lambda: chat.status == state)


@async_test
async def test_a_new_state_ends_a_notice() -> None:
    async with open_chat() as chat:
        chat.screen.show_notice("A short notice.")
        await chat.send("hello")
        await chat.until_idle()
        assert chat.status.startswith("ready")
