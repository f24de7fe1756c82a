"""Fields over the conversation: what is pasted into them is shown, and never obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events
from textual.command import CommandPalette
from textual.widgets import Input

from assistant.tui.correction import CorrectionArea, CorrectionScreen
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession

HOSTILE = "\x1b]52;c;eA==\x07\u202eend"


@pytest.mark.parametrize("keys", [("ctrl+o",), ("ctrl+p",), ("f2",)])
def test_a_field_shows_what_is_pasted(keys: tuple[str, ...], tmp_path: Path) -> None:
    @async_test
    async def scenario() -> None:
        async with open_chat(folder=tmp_path) as chat:
            await chat.press(*keys)
            await chat.until(lambda: isinstance(chat.app.focused, Input))
            if keys == ("ctrl+p",):
                assert isinstance(chat.app.screen, CommandPalette)
            field = chat.app.focused
            assert isinstance(field, Input)
            field.value = ""
            field.post_message(events.Paste(HOSTILE))
            await chat.until(lambda: field.value)
            assert field.value == "␛]52;c;eA==␇\\u202eend"
            chat.app.copy_to_clipboard(HOSTILE)
            await chat.press("end", "ctrl+v")
            assert field.value == "␛]52;c;eA==␇\\u202eend" * 2

    scenario()


@async_test
async def test_the_editor_of_an_answer_keeps_every_character_and_shows_it() -> None:
    async with open_chat(ScriptedSession("a\x1b[31mb")) as chat:
        await chat.send("hello")
        await chat.until_idle()
        await chat.press("f6")
        await chat.until(lambda: isinstance(chat.app.screen, CorrectionScreen))
        area = chat.app.screen.query_one(CorrectionArea)
        chat.app.post_message(events.Paste("\x9bc"))
        await chat.until(lambda: area.text.endswith("c"))
        assert "a␛[31mb" in "".join(segment.text for segment in area.render_line(0))
        await chat.press("enter")
        await chat.until(lambda: chat.app.screen is chat.screen)
        assert chat.chat.conversation.turns[0].correction == "a\x1b[31mb\x9bc"
