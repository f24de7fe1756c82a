"""The chat as a program: the Textual app, how it starts and how it ends.

Knows neither the widgets of the conversation nor how a model writes a reply.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from assistant.decoding.reply import SessionLike
from assistant.errors import PrerequisiteError
from assistant.settings import DecodePrecision, GenerationSettings
from assistant.tui.driver import PasteDriver
from assistant.tui.ends import run_app
from assistant.tui.engine import LoadModel
from assistant.tui.screen import ChatScreen


def without_maximize(commands: Iterable[SystemCommand]) -> Iterable[SystemCommand]:
    """Leave out the commands that make one widget as large as the screen, which draw only hatching around it."""
    return (command for command in commands if command.title not in ("Maximize", "Minimize"))


class ChatApp(App[None]):
    """A chat with one model.

    Args:
        load: Returns the loaded model. The chat calls it in a thread, after the first screen is painted.
        model_name: The name to show until the model is loaded.
        settings: How each reply is decoded.
    """

    TITLE = "assistant"
    CSS_PATH = "chat.tcss"
    AUTO_FOCUS = "#instruction"
    # App declares these two as instance variables, so mypy rejects ClassVar.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", tooltip="Quit", priority=True),
    ]

    def __init__(self, *, load: LoadModel, model_name: str, settings: GenerationSettings) -> None:
        super().__init__(driver_class=PasteDriver)
        self._chat_screen = ChatScreen(load=load, model_name=model_name, settings=settings)

    def get_default_screen(self) -> ChatScreen:
        """Return the conversation, the lowest screen of the stack."""
        return self._chat_screen

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return Textual's commands for the palette, without the one that fills the screen with the prompt."""
        return without_maximize(super().get_system_commands(screen))

    def action_help_quit(self) -> None:
        """Answer ctrl+c with a notice.

        ctrl+c copies selected text, so it must not end the chat by accident.
        """
        self._chat_screen.show_notice("Press ctrl+q to quit.")


def check_terminal() -> None:
    """Check that the user can see the screen and press keys.

    Raises:
        PrerequisiteError: standard input or standard error is not a terminal.
    """
    for name, stream in (("input", sys.stdin), ("error", sys.stderr)):  # Textual draws on stderr
        if not stream.isatty():
            raise PrerequisiteError(
                f"chat: expected a terminal as standard {name}, got a file or a pipe. "
                f"To get one answer without a terminal, run: assistant ask MODEL TEXT"
            )


def run_chat(model: str, settings: GenerationSettings, *, precision: DecodePrecision = "auto") -> NoReturn:
    """Chat with the model of a folder until the user quits, and end the process.

    Raises:
        PrerequisiteError: standard input or standard error is not a terminal.
    """
    check_terminal()

    def load() -> SessionLike:
        from assistant.decoding.session import Session

        return Session.load(model, precision=precision)

    run_app(ChatApp(load=load, model_name=Path(model).name or model, settings=settings))
