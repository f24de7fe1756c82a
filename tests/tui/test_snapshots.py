"""What the chat looks like. After a change that is meant: `pytest tests/test_tui_snapshots.py --snapshot-update`,
then look at every picture that changed in `tests/__snapshots__/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from assistant.errors import AssistantError, CheckpointError
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp
from tests.support.chat_double import Chat, ScriptedSession

Compare = Callable[..., bool]

REPLY = (
    "Here is **one** way:\n\n",
    "1. Boil the water.\n",
    "2. Add the tea.\n\n",
    "```python\n",
    "for minute in range(3):\n    wait(minute)  # patience\n",
    "```\n",
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the terminal the tests are started in shows in the pictures."""
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_COLOR_SYSTEM"):
        monkeypatch.delenv(name, raising=False)


def app(session: ScriptedSession | AssistantError) -> ChatApp:
    """A chat with a scripted model, or with one that cannot be loaded."""

    def load() -> ScriptedSession:
        if isinstance(session, AssistantError):
            raise session
        return session

    settings = GenerationSettings(max_new_tokens=64, temperature=0.7, seed=7)
    made = ChatApp(load=load, model_name="toy", settings=settings)
    made.theme = "textual-dark"
    return made


def after(message: str = "", *keys: str) -> Callable[[Pilot[None]], Any]:
    """Send a message and wait for the end of the reply, then press the keys."""

    async def run(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, ChatApp)
        chat = Chat(pilot.app, pilot)
        chat.prompt.cursor_blink = False
        await chat.until(lambda: chat.idle or chat.status.startswith("no model"))
        if message:
            await chat.send(message)
            await chat.until_idle()
        await chat.press(*keys)

    return run


def test_empty(snap_compare: Compare) -> None:
    assert snap_compare(app(ScriptedSession("")), run_before=after())


def test_one_turn(snap_compare: Compare) -> None:
    assert snap_compare(app(ScriptedSession(*REPLY)), run_before=after("How do I make tea?\nBriefly, please."))


def test_reply_failed(snap_compare: Compare) -> None:
    session = ScriptedSession("First, ", "boil ", error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert snap_compare(app(session), run_before=after("How do I make tea?"))


def test_load_failed(snap_compare: Compare) -> None:
    problem = "models/mine: expected a model folder, got no such folder. See which there are: assistant models"
    assert snap_compare(app(CheckpointError(problem)), run_before=after())


def test_narrow(snap_compare: Compare) -> None:
    session = ScriptedSession("Green, ", "red ", "and ", "blue.")
    assert snap_compare(app(session), terminal_size=(40, 12), run_before=after("Name three colours.", *"and 2"))


def test_help(snap_compare: Compare) -> None:
    assert snap_compare(app(ScriptedSession("")), run_before=after("", "f1"))
