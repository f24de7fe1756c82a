"""Drives the chat in tests: opens it on a scripted session, presses keys, waits, and reads the screen."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from assistant.chat import worker
from assistant.chat.chat import Chat
from assistant.tui.app import ChatApp
from assistant.tui.foot import Foot
from assistant.tui.prompt import Prompt
from assistant.tui.screen import ChatScreen
from tests.support.chat_setup import SessionSource, make_setup

TIMEOUT_SECONDS = 10.0


def async_test(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn an async test into a plain one that runs on its own event loop."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(function(*args, **kwargs))

    return run


class ChatDriver:
    """A running chat that a test operates with keys."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def screen(self) -> ChatScreen:
        """The conversation's screen, also when another screen covers it."""
        screen = self.app.screen_stack[0]
        assert isinstance(screen, ChatScreen)
        return screen

    @property
    def prompt(self) -> Prompt:
        """The input box."""
        return self.screen.query_one(Prompt)

    @property
    def notice(self) -> str:
        """The notice in the last line, or an empty text."""
        return self.screen.query_one("#foot", Foot).notice

    @property
    def state(self) -> str:
        """What the last line says of the chat's state."""
        return self.screen.query_one("#foot", Foot)._state.plain

    @property
    def chat(self) -> Chat:
        """The conversation behind the screen."""
        assert self.screen.chat is not None
        return self.screen.chat

    @property
    def idle(self) -> bool:
        """Whether the models and the data are loaded, and nothing is answered or waits."""
        chat = self.screen.chat
        return (
            chat is not None
            and chat.has_read_data
            and not chat.open_answers
            and not chat.waiting
            and all(run.has_ended for run in chat.runs.values())
        )

    def type(self, text: str) -> None:
        """Insert the text into the prompt at once."""
        self.prompt.instruction_field.insert(text)

    async def press(self, *keys: str) -> None:
        """Press all keys at once, as a terminal sends them, without waiting for the effect of each."""
        for key in keys:
            self.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await self.settle()

    async def settle(self) -> None:
        """Wait until the app, the screens and the prompt have handled the messages between them.

        Pilot's own pause waits for an idle processor, which on a busy machine takes most of a test's time.
        """
        fields = (self.prompt.instruction_field, self.prompt.input_field)
        for pump in (self.app, *fields, self.prompt, self.app.screen, self.screen) * 2:
            handled = asyncio.Event()
            if pump.call_later(handled.set):
                await handled.wait()

    async def send(self, text: str) -> None:
        """Insert a message and press Enter."""
        self.type(text)
        await self.press("enter")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds. Fails after `TIMEOUT_SECONDS`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"failed for {TIMEOUT_SECONDS} s; the screen shows:\n{self.visible()}")
            await asyncio.sleep(0.005)
        await self.settle()

    async def until_idle(self) -> None:
        """Wait until the model is loaded and the reply has ended."""
        await self.until(lambda: self.idle)

    def texts(self, selector: str) -> list[str]:
        """Return the text of each widget that matches the selector."""
        return [text_of(widget) for widget in self.screen.query(selector)]

    def visible(self) -> str:
        """Return the text that the terminal shows."""
        return "\n".join("".join(s.text for s in strip) for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def open_chat(
    session: SessionSource | None = None,
    base: SessionSource | None = None,
    *,
    size: tuple[int, int] = (80, 24),
    every_piece: bool = False,
    waits: bool = True,
    **setup: Any,
) -> AsyncIterator[ChatDriver]:
    """Open a chat on scripted sessions, and wait until they are loaded, or with `waits=False` do not.

    With `every_piece`, the chat shows each piece of a reply at once, so the screen has all text before a hold. `setup`
    goes to `make_setup`.
    """
    app = ChatApp(make_setup(session, base, **setup))
    with pytest.MonkeyPatch.context() as patch:
        if every_piece:
            patch.setattr(worker, "FLUSH_SECONDS", 0.0)
        async with app.run_test(size=size, notifications=True) as pilot:
            driver = ChatDriver(app, pilot)
            try:
                if waits:
                    await driver.until_idle()
                yield driver
            finally:
                driver.screen.close_chat()


def text_of(widget: Widget) -> str:
    """Return all text of a widget and its descendants, one widget a line. Markdown appears as it is drawn."""
    parts = [str(part.visual) for part in [widget, *widget.query("*")] if isinstance(part, Static)]
    return "\n".join(part for part in parts if part)
