"""A scripted model for the chat, and what its tests share: running an app, waiting, reading the screen."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from assistant.dataset.instructions import Exchange
from assistant.decoding.reply import Reply
from assistant.settings import GenerationSettings
from assistant.tui import engine
from assistant.tui.app import ChatApp
from assistant.tui.engine import Load
from assistant.tui.prompt import Prompt
from assistant.tui.screen import ChatScreen

PATIENCE_SECONDS = 10.0


class ScriptedSession:
    """Says its pieces, one a token. At piece `hold_at` it waits until `gate` is set or it is asked to stop."""

    name = "toy"
    summary = "toy · 0.1M parameters · template alpaca · context 64"
    context_length = 64

    def __init__(self, *pieces: str, hold_at: int | None = None, error: BaseException | None = None) -> None:
        self.pieces = pieces
        self.hold_at = hold_at
        self.error = error
        """Raised after the last piece."""
        self.gate = threading.Event()
        self.deaf = False
        """Whether a stop is not even looked for while holding, as in a token that takes long."""
        self.instructions: list[str] = []
        self.settings: list[GenerationSettings] = []
        self.running = 0
        self.most_running = 0

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",
        history: Sequence[Exchange] = (),
        settings: GenerationSettings,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Reply:
        """Play the script."""
        assert (input, tuple(history)) == ("", ())
        assert on_text is not None
        assert should_stop is not None
        self.instructions.append(instruction)
        self.settings.append(settings)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            said: list[str] = []
            for index, piece in enumerate(self.pieces):
                self._hold(index, should_stop)
                if should_stop():
                    return self._reply(instruction, said, "cancelled")
                said.append(piece)
                on_text(piece)
            if self.error is not None:
                raise self.error
            return self._reply(instruction, said, "eos")
        finally:
            self.running -= 1

    def _hold(self, index: int, should_stop: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while index == self.hold_at and not self.gate.wait(0.005):
            if should_stop() and not self.deaf:
                return
            assert time.monotonic() < deadline, "held for too long: nobody opened the gate, nobody asked to stop"

    def _reply(self, instruction: str, said: list[str], reason: Any) -> Reply:
        return Reply(
            prompt=instruction,
            prompt_token_ids=(1, 2, 3),
            response="".join(said),
            token_ids=tuple(range(len(said))),
            stop_reason=reason,
            seconds=len(said) / 20,
        )


def async_test(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test to its end, on a loop of its own."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(function(*args, **kwargs))

    return run


class Chat:
    """A running chat, driven by keys."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def screen(self) -> ChatScreen:
        """The screen of the conversation, whatever lies over it."""
        screen = self.app.screen_stack[0]
        assert isinstance(screen, ChatScreen)
        return screen

    @property
    def prompt(self) -> Prompt:
        """The input box."""
        return self.screen.query_one(Prompt)

    @property
    def status(self) -> str:
        """The status line."""
        return text_of(self.screen.query_one("#status"))

    @property
    def idle(self) -> bool:
        """Whether the model is ready and nothing is under way."""
        return self.screen.model_state == "ready" and self.screen.turn is None and self.status.startswith("ready")

    def type(self, text: str) -> None:
        """Put the text into the prompt at once, as typing would."""
        self.prompt.insert(text)

    async def press(self, *keys: str) -> None:
        """Press keys as a terminal sends them: all at once, not each after the effects of the one before."""
        for key in keys:
            self.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await self.settle()

    async def settle(self) -> None:
        """Wait until what was under way between the app, the screens and the prompt has arrived.

        Pilot's own pause waits for an idle processor, which on a busy machine takes most of a test's time.
        """
        for pump in (self.app, self.prompt, self.app.screen, self.screen) * 2:
            arrived = asyncio.Event()
            if pump.call_later(arrived.set):
                await arrived.wait()

    async def send(self, text: str) -> None:
        """Type a message and press Enter."""
        self.type(text)
        await self.press("enter")

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {PATIENCE_SECONDS} s in vain; the screen says:\n{self.visible()}")
            await asyncio.sleep(0.005)
        await self.settle()

    async def until_idle(self) -> None:
        """Wait for the reply to be over."""
        await self.until(lambda: self.idle)

    def texts(self, selector: str) -> list[str]:
        """The texts of the widgets a selector finds."""
        return [text_of(widget) for widget in self.screen.query(selector)]

    def visible(self) -> str:
        """What the terminal shows."""
        return "\n".join("".join(s.text for s in strip) for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def chat(
    session: ScriptedSession | None = None,
    *,
    load: Load | None = None,
    model_name: str = "toy",
    settings: GenerationSettings | None = None,
    size: tuple[int, int] = (80, 24),
    every_piece: bool = False,
) -> AsyncIterator[Chat]:
    """A chat on a scripted model, ready to be typed into; with `load` it is not waited for.

    With `every_piece` text is not gathered: what was said before a hold is on the screen.
    """
    app = ChatApp(
        load=load or (lambda: session or ScriptedSession("Hello.")),
        model_name=model_name,
        settings=settings or GenerationSettings(max_new_tokens=32),
    )
    with pytest.MonkeyPatch.context() as patch:
        if every_piece:
            patch.setattr(engine, "FLUSH_SECONDS", 0.0)
        async with app.run_test(size=size, notifications=True) as pilot:
            running = Chat(app, pilot)
            if load is None:
                await running.until_idle()
            yield running


def text_of(widget: Widget) -> str:
    """All text of a widget and of those in it, one a line; a Markdown is read as it is drawn."""
    parts = [str(part.visual) for part in [widget, *widget.query("*")] if isinstance(part, Static)]
    return "\n".join(part for part in parts if part)
