"""The app: how it starts and ends, and what it imports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from textual.binding import Binding
from textual.command import CommandList, CommandPalette

from assistant.chat.store import Store
from assistant.dataset.examples import Example
from assistant.tui import app as app_module
from assistant.tui.app import ChatApp, run_chat
from assistant.tui.prompt import Field
from assistant.tui.screen import ChatScreen
from tests.support.chat_driver import async_test, open_chat
from tests.support.chat_setup import make_setup
from tests.support.scripted_session import HOLD_LIMIT_SECONDS, ScriptedSession


@pytest.mark.parametrize("hold_at", [0, 1])
def test_quitting_does_not_wait_for_the_rest_of_the_reply(hold_at: int) -> None:
    session = ScriptedSession("one ", "two", hold_at=hold_at)

    async def quit_during_reply() -> None:
        async with open_chat(session) as chat:
            await chat.send("first")
            await chat.until(lambda: session.running)
            await chat.press("ctrl+q")

    asyncio.run(quit_during_reply())
    deadline = time.monotonic() + HOLD_LIMIT_SECONDS / 2  # the session itself would wait twice as long
    while session.running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert session.running == 0


@async_test
async def test_ctrl_c_does_not_end_the_chat() -> None:
    async with open_chat() as chat:
        await chat.press("ctrl+c", "ctrl+c")
        assert chat.notice == "Press ctrl+q to quit."
        assert chat.app.is_running


@async_test
async def test_the_palette_has_our_commands_first_and_no_maximize() -> None:
    async with open_chat() as chat:
        assert not chat.prompt.instruction_field.allow_maximize
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Field, "ALLOW_MAXIMIZE", True)  # as of every other widget that can have the focus
            await chat.press("ctrl+p")
            await chat.until(lambda: isinstance(chat.app.screen, CommandPalette))
            commands = chat.app.screen.query_one(CommandList)
            await chat.until(lambda: commands.option_count)
        names = [str(option.prompt).splitlines()[0] for option in commands.options]
        ours = [one for one in ChatScreen.BINDINGS if isinstance(one, Binding)]
        assert names[0] == "Stop (esc)"
        assert [name.partition(" (")[0] for name in names[: len(ours)]] == [one.description for one in ours]
        assert set(names[len(ours) :]) == {"Theme", "Quit", "Screenshot"}


@async_test
async def test_a_command_of_the_palette_does_what_its_key_does() -> None:
    async with open_chat(rows=[Example(instruction="Say it.", input="", output="Hello.")]) as chat:
        await chat.press("ctrl+p")
        await chat.until(lambda: isinstance(chat.app.screen, CommandPalette))
        await chat.press(*"testrow")
        commands = chat.app.screen.query_one(CommandList)
        await chat.until(lambda: [str(one.prompt).splitlines()[0] for one in commands.options] == ["Test row (ctrl+t)"])
        await chat.press("enter", "enter")
        await chat.until_idle()
        assert chat.texts(".question") == ["Say it."]


def test_importing_the_chat_does_not_import_torch() -> None:
    code = "import sys, assistant.tui.app; print(*{'torch', 'pandas', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_theme_is_remembered_beside_the_conversations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[ChatApp] = []

    def record_app(app: ChatApp, **_: object) -> NoReturn:
        apps.append(app)
        raise SystemExit(7)

    async def use(app: ChatApp, theme: str) -> str:
        async with app.run_test():
            before = app.theme
            app.theme = theme or before
        return before

    monkeypatch.setattr(app_module, "run_app", record_app)
    for name in ("TEXTUAL_THEME", "COLORFGBG"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        with pytest.raises(SystemExit, match="7"):
            run_chat(make_setup(folder=tmp_path / "data" / "chats"))
    assert asyncio.run(use(apps[0], "nord")) == "textual-dark"
    assert (tmp_path / "data" / "theme").read_text() == "nord\n"
    assert asyncio.run(use(apps[1], "")) == "nord"


@pytest.mark.parametrize("asks", [True, False])
def test_the_farewell_says_how_to_go_on_if_there_is_something_to_go_on_with(tmp_path: Path, asks: bool) -> None:
    @async_test
    async def talk() -> None:
        async with open_chat(folder=tmp_path) as chat:
            if asks:
                await chat.send("hello")
                await chat.until_idle()
            farewell = chat.app.farewell()
            ids = [one.id for one in Store(tmp_path).list()]
            assert len(ids) == asks
            assert farewell == (
                f"The conversation is saved. To go on with it: assistant chat --resume {ids[0]}" if asks else ""
            )

    talk()
