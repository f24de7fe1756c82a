"""The chat as a program: the Textual app, how it starts and how it ends.

Knows neither the widgets of the conversation nor how a model writes a reply.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from assistant.decoding.reply import SessionLike
from assistant.errors import PrerequisiteError
from assistant.settings import DecodePrecision, GenerationSettings
from assistant.tui.driver import PasteDriver
from assistant.tui.engine import LoadModel
from assistant.tui.screen import ChatScreen


class ChatApp(App[None]):
    """A chat with one model.

    Args:
        load: Returns the loaded model. The chat calls it in a thread, after the first screen is painted.
        model_name: The name to show until the model is loaded.
        settings: How each reply is decoded.
    """

    TITLE = "assistant"
    CSS_PATH = "chat.tcss"
    AUTO_FOCUS = "#prompt"
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

    def action_help_quit(self) -> None:
        """Answer ctrl+c with a notice.

        ctrl+c copies selected text, so it must not end the chat by accident.
        """
        self._chat_screen.show_notice("Press ctrl+q to quit.")

    @property
    def is_loading(self) -> bool:
        """Whether the model is still loading."""
        return self._chat_screen.model_state == "loading"


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


def run_chat(model: str, settings: GenerationSettings, *, precision: DecodePrecision = "auto") -> int:
    """Chat with the model of a folder until the user quits, and return the exit code.

    Raises:
        PrerequisiteError: standard input or standard error is not a terminal.
    """
    check_terminal()

    def load() -> SessionLike:
        from assistant.decoding.session import Session

        return Session.load(model, precision=precision)

    return run_app(ChatApp(load=load, model_name=Path(model).name or model, settings=settings))


def run_app(app: ChatApp) -> int:
    """Run the chat and return the exit code.

    SIGTERM, SIGHUP and SIGINT (which ctrl+c does not send here) end the chat and give the terminal back. If the model
    is still loading when the chat ends, this function ends the process and does not return.
    """
    with terminal_given_back(app):
        app.run()
    code = app.return_code or 0
    if app.is_loading:
        # The loading thread may be inside torch. If the interpreter shuts down then, the process aborts with a core
        # dump ("terminate called without an active exception"). Loading leaves nothing to clean up.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNAL_EXIT = 128
CLOSING_S = 3.0
"""Time that Textual gets to close after a signal. It waits without end if the terminal has gone."""
RESTORED = (
    "\x1b[?2004l\x1b[?7h\x1b[?2048l"  # bracketed paste, line wrap, in-band resize
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l"  # mouse
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l"  # keyboard protocol, alternate screen, cursor, focus
)
"""What Textual writes when it closes."""


@contextmanager
def terminal_given_back(app: App[Any]) -> Iterator[None]:
    """Close the app on a signal, and restore the terminal by hand if that fails or an error ends the block."""
    attributes = _terminal_attributes()

    def restore() -> None:
        with suppress(OSError, termios.error):
            if attributes is not None:
                termios.tcsetattr(0, termios.TCSANOW, attributes)
            if select.select([], [2], [], 0)[1]:
                os.write(2, RESTORED.encode())

    def end(code: int) -> None:
        restore()
        os._exit(code)

    def handle(number: int, _frame: FrameType | None) -> None:
        code = SIGNAL_EXIT + number
        timer = threading.Timer(CLOSING_S, end, [code])
        timer.daemon = True
        timer.start()
        app.exit(return_code=code)

    previous = {
        number: signal.signal(number, handle)
        for number in END_SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    if isinstance(sys.__stderr__, io.TextIOWrapper):
        sys.__stderr__.reconfigure(errors="replace")  # a screen's columns need one sign for one sign
    try:
        yield
    except BaseException:
        restore()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _terminal_attributes() -> list[Any] | None:
    try:
        return termios.tcgetattr(0)
    except (OSError, termios.error):
        return None
