"""What the chat looks like.

If you change its look on purpose, run `pytest tests/tui/test_snapshots.py --snapshot-update`. Then look at every
changed picture in `tests/tui/__snapshots__/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from assistant.errors import AssistantError, CheckpointError
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp
from tests.support.chat_driver import ChatDriver
from tests.support.scripted_session import ScriptedSession

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
    """Keep the settings of the developer's terminal out of the pictures."""
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_COLOR_SYSTEM"):
        monkeypatch.delenv(name, raising=False)


def make_app(session: ScriptedSession | AssistantError) -> ChatApp:
    """Make a chat on a scripted session. With an error, loading the model raises it."""

    def load() -> ScriptedSession:
        if isinstance(session, AssistantError):
            raise session
        return session

    settings = GenerationSettings(max_new_tokens=64, temperature=0.7, seed=7)
    app = ChatApp(load=load, model_name="toy", settings=settings)
    app.theme = "textual-dark"
    return app


def actions(message: str = "", *keys: str) -> Callable[[Pilot[None]], Any]:
    """Return a function that sends a message, waits for the end of the reply, and presses the keys."""

    async def run(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, ChatApp)
        chat = ChatDriver(pilot.app, pilot)
        chat.prompt.instruction_field.cursor_blink = False
        await chat.until(lambda: chat.idle or chat.status.startswith("no model"))
        if message:
            await chat.send(message)
            await chat.until_idle()
        await chat.press(*keys)

    return run


def test_empty(snap_compare: Compare) -> None:
    assert snap_compare(make_app(ScriptedSession("")), run_before=actions())


def test_one_turn(snap_compare: Compare) -> None:
    assert snap_compare(make_app(ScriptedSession(*REPLY)), run_before=actions("How do I make tea?\nBriefly, please."))


def test_reply_failed(snap_compare: Compare) -> None:
    session = ScriptedSession("First, ", "boil ", error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert snap_compare(make_app(session), run_before=actions("How do I make tea?"))


def test_load_failed(snap_compare: Compare) -> None:
    problem = "models/mine: expected a model folder, got no such folder. Check the path."
    assert snap_compare(make_app(CheckpointError(problem)), run_before=actions())


def test_narrow(snap_compare: Compare) -> None:
    session = ScriptedSession("Green, ", "red ", "and ", "blue.")
    assert snap_compare(make_app(session), terminal_size=(40, 12), run_before=actions("Name three colours.", *"and 2"))


def test_help(snap_compare: Compare) -> None:
    assert snap_compare(make_app(ScriptedSession("")), run_before=actions("", "f1"))
