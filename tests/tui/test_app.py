"""The app: how it starts and ends, and what it imports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import NoReturn

import pytest
from textual.command import CommandPalette

from assistant.errors import PrerequisiteError
from assistant.settings import GenerationSettings
from assistant.tui import app as app_module
from assistant.tui.app import ChatApp, run_chat
from assistant.tui.prompt import Field
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@pytest.mark.parametrize("hold_at", [0, 1])
def test_quitting_does_not_wait_for_the_rest_of_the_reply(hold_at: int) -> None:
    session = ScriptedSession("one ", "two", hold_at=hold_at)

    async def quit_during_reply() -> None:
        async with open_chat(session) as chat:
            await chat.send("first")
            await chat.until(lambda: session.running)
            await chat.press("ctrl+q")

    start = time.monotonic()
    asyncio.run(quit_during_reply())  # waits for the threads
    assert session.running == 0
    assert time.monotonic() - start < 2


@async_test
async def test_ctrl_c_does_not_end_the_chat() -> None:
    async with open_chat() as chat:
        await chat.press("ctrl+c", "ctrl+c")
        assert chat.status == "Press ctrl+q to quit."
        assert chat.app.is_running


@async_test
async def test_the_palette_has_no_maximize() -> None:
    async with open_chat() as chat:
        assert not chat.prompt.instruction_field.allow_maximize
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Field, "ALLOW_MAXIMIZE", True)  # as of every other widget that can have the focus
            await chat.press("ctrl+p")
            await chat.until(lambda: isinstance(chat.app.screen, CommandPalette) and "Screenshot" in chat.visible())
        assert "Theme" in chat.visible()
        assert "Maximize" not in chat.visible()


def test_importing_the_chat_does_not_import_torch() -> None:
    code = "import sys, assistant.tui.app; print(*{'torch', 'pandas', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_run_chat_loads_the_given_model_with_the_given_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[ChatApp] = []

    def record_app(app: ChatApp) -> NoReturn:
        apps.append(app)
        raise SystemExit(7)

    monkeypatch.setattr(app_module, "run_app", record_app)
    monkeypatch.setattr(app_module, "check_terminal", lambda: None)
    with pytest.raises(SystemExit, match="7"):
        run_chat("models/mine", GenerationSettings(), precision="int8")

    load_calls: list[tuple[str, str]] = []
    session = ScriptedSession()

    def load(model: str, precision: str) -> ScriptedSession:
        load_calls.append((model, precision))
        return session

    module = SimpleNamespace(Session=SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "assistant.decoding.session", module)
    screen = apps[0].get_default_screen()
    assert screen._load() is session
    assert load_calls == [("models/mine", "int8")]
    assert screen._model_name == "mine"


@pytest.mark.parametrize(("stdin", "stderr", "stream"), [(False, True, "input"), (True, False, "error")])
def test_without_a_terminal_the_error_suggests_ask(
    monkeypatch: pytest.MonkeyPatch, stdin: bool, stderr: bool, stream: str
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: stdin))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: stderr))
    with pytest.raises(PrerequisiteError, match=f"standard {stream}, .*assistant ask"):
        run_chat("models/mine", GenerationSettings())
