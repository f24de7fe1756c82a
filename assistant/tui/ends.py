"""How a full-screen program ends: the terminal is given back, and the process is gone at once.

Knows Textual's `App`, and nothing of the chat.
"""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from textual.app import App

END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
SIGNAL_EXIT = 128
CLOSING_S = 3.0
"""Time that Textual gets to close after a signal. It waits without end if the terminal has gone."""
RESTORED = (
    "\x1b[?2004l\x1b[?7h\x1b[?2048l"  # bracketed paste, line wrap, in-band resize
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l"  # mouse
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l"  # keyboard protocol, alternate screen, cursor, focus
)
"""What Textual writes when it closes."""


def run_app(app: App[Any], *, farewell: Callable[[], str] = str) -> NoReturn:
    """Run the app until it ends, say how to go on, and end the process with the app's exit code.

    The process ends without the interpreter's shutdown, which waits for every thread that is not a daemon, and aborts
    with a core dump if a thread is inside torch. So what must not be lost is written before the app ends.

    Args:
        app: SIGTERM, SIGHUP, SIGQUIT and SIGINT (which ctrl+c does not send here) end it.
        farewell: Returns the line to print on standard error after the screen is gone. An empty text prints nothing.
    """

    async def run() -> NoReturn:
        await app.run_async()  # gives the terminal back, also after an error
        _leave(app.return_code or 0, farewell)  # here, because asyncio.run would wait for its threads

    with terminal_given_back(app):
        asyncio.run(run())
    raise AssertionError  # `_leave` has ended the process


def _leave(code: int, farewell: Callable[[], str]) -> NoReturn:
    try:
        # A terminal that nobody reads would block the last line, and with it the process.
        if (line := farewell()) and select.select([], [sys.stderr], [], 0)[1]:
            print(line, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # whatever failed, there is nobody left to tell
        os._exit(code)


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
        try:
            # Wakes the loop. `app.exit` alone would wait for the app's next timer.
            asyncio.get_running_loop().call_soon_threadsafe(app.exit, None, code)
        except RuntimeError:  # no loop runs
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
