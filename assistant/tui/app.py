"""The chat as a program: the Textual app, its theme, its palette, and how it starts and ends."""

from __future__ import annotations

import gc
import os
import shlex
from collections.abc import Callable, Iterable
from typing import ClassVar, NoReturn

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from assistant.chat.setup import ChatSetup
from assistant.escape import one_line
from assistant.tui.clipboard import copy_sequence
from assistant.tui.driver import PasteDriver
from assistant.tui.ends import run_app
from assistant.tui.palette import ChatCommands, Palette
from assistant.tui.screen import ChatScreen
from assistant.tui.themes import ThemeFile


class ChatApp(App[None]):
    """A chat. `setup` says with which model, and in which conversation. `on_first_frame` is called after that."""

    TITLE = "assistant"
    CSS_PATH = "chat.tcss"
    COMMANDS: ClassVar[set[type[ChatCommands]]] = {ChatCommands}  # type: ignore[assignment]
    AUTO_FOCUS = "#instruction"
    # App declares these two as instance variables, so mypy rejects ClassVar.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+p", "command_palette", "Palette", tooltip="Find a command by its name", priority=True),
        Binding("ctrl+q", "quit", "Quit", tooltip="Quit; the conversation is saved", priority=True),
    ]

    def __init__(
        self, setup: ChatSetup, *, theme: ThemeFile | None = None, on_first_frame: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(driver_class=PasteDriver)
        self._on_first_frame = on_first_frame
        self._setup = setup
        self._theme_file = theme
        self._chat_screen = ChatScreen(setup)

    def get_default_screen(self) -> ChatScreen:
        """Return the conversation, the lowest screen of the stack."""
        return self._chat_screen

    def on_ready(self) -> None:
        """Call back after the first frame."""
        self._on_first_frame()

    def on_mount(self) -> None:
        """Take the remembered theme, and remember the next one."""
        if self._theme_file is not None:
            self.theme = self._theme_file.read(self.available_themes)
            self.theme_changed_signal.subscribe(self, lambda theme: self._theme_file.write(theme.name))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Our commands first, then Textual's, without those that break the screen."""
        for binding in ChatScreen.BINDINGS:
            if isinstance(binding, Binding) and binding.tooltip:
                action = binding.action
                yield SystemCommand(
                    f"{binding.description} ({binding.key_display or binding.key})",
                    binding.tooltip,
                    lambda action=action: self.call_later(self._chat_screen.run_action, action),
                )
        for command in super().get_system_commands(screen):
            if command.title not in ("Maximize", "Minimize", "Keys"):
                yield command

    def copy_to_clipboard(self, text: str) -> None:
        """Copy a text through the terminal, also inside tmux."""
        self._clipboard = text
        if self._driver is not None:
            self._driver.write(copy_sequence(text))

    def action_command_palette(self) -> None:
        """Open the palette."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette())

    async def action_quit(self) -> None:
        """Save what has been written of an answer, and end."""
        self._chat_screen.close_chat()
        self.exit()

    def action_help_quit(self) -> None:
        """Answer ctrl+c with a notice.

        ctrl+c copies selected text, so it must not end the chat by accident.
        """
        self._chat_screen.show_notice("Press ctrl+q to quit.")

    def farewell(self) -> str:
        """Return the line that says how to go on, or why nothing is saved."""
        self._chat_screen.close_chat()
        id = self._chat_screen.conversation_id()
        if id is None:
            return one_line(self._chat_screen.close_problem)
        return f"The conversation is saved. To go on with it: assistant chat --resume {shlex.quote(one_line(id))}"


def run_chat(setup: ChatSetup) -> NoReturn:
    """Chat until the person quits, and end the process."""
    gc.disable()  # until the first frame, which then comes a tenth sooner
    app = ChatApp(
        setup, theme=ThemeFile(setup.store.where().parent / "theme", os.environ), on_first_frame=_collect_garbage
    )
    run_app(app, farewell=app.farewell)


def _collect_garbage() -> None:
    """Collect garbage from now on, but never among the modules: they stay, and a search of them delays keys."""
    gc.freeze()
    gc.enable()
