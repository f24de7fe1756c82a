"""The chat as a program: the app, its start and its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from assistant.decoding.reply import SessionLike
from assistant.errors import PrerequisiteError
from assistant.settings import DecodePrecision, GenerationSettings
from assistant.tui.engine import Load
from assistant.tui.screen import ChatScreen


class ChatApp(App[None]):
    """A chat with one model. `load` is called in a thread, after the screen has been painted."""

    TITLE = "assistant"
    CSS_PATH = "chat.tcss"
    AUTO_FOCUS = "#prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal")]  # noqa: RUF012  an instance variable to mypy
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", tooltip="Quit", priority=True),
    ]

    def __init__(self, *, load: Load, model_name: str, settings: GenerationSettings) -> None:
        super().__init__()
        self._chat = ChatScreen(load=load, model_name=model_name, settings=settings)

    def get_default_screen(self) -> Screen[None]:
        """The conversation is at the bottom of every stack of screens."""
        return self._chat

    def action_help_quit(self) -> None:
        """Answer ctrl+c, which copies where text is selected, and must not end the chat by accident."""
        self._chat.show_notice("ctrl+q quits.")

    @property
    def is_loading(self) -> bool:
        """Whether the model is being loaded."""
        return self._chat.model_state == "loading"


def check_terminal() -> None:
    """Refuse to draw where nobody would see it.

    Raises:
        PrerequisiteError: keys cannot be read from stdin, or the screen cannot be drawn on stderr.
    """
    for name, stream in (("input", sys.stdin), ("error output", sys.stderr)):  # Textual draws on stderr
        if not stream.isatty():
            raise PrerequisiteError(
                f"chat: expected a terminal, got standard {name} that is a file or a pipe. "
                f"For one answer without a terminal, run: assistant ask MODEL TEXT"
            )


def run_chat(model: str, settings: GenerationSettings, *, precision: DecodePrecision = "auto") -> int:
    """Chat with a model folder until the user quits. Returns the exit code.

    Raises:
        PrerequisiteError: there is no terminal to draw on or to read keys from.
    """
    check_terminal()

    def load() -> SessionLike:
        from assistant.decoding.session import Session

        return Session.load(model, precision=precision)

    return run_app(ChatApp(load=load, model_name=Path(model).name or model, settings=settings))


def run_app(app: ChatApp) -> int:
    """Run the chat and return the exit code. Ends the process itself where a model is still loading."""
    app.run()
    code = app.return_code or 0
    if app.is_loading:
        # The thread may be anywhere inside torch, and an interpreter that shuts down under it aborts with a core
        # dump ("terminate called without an active exception"). Nothing of it needs an end in good order.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
