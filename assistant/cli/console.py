"""What the command lines share: where text goes, how errors end, and what Ctrl-C does.

Answers and tables go to stdout; progress, notes and errors to stderr, so that a pipe carries results only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from assistant.errors import AssistantError, SettingsError
from assistant.escape import displayable

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Reports every error that a person can cause as one sentence on stderr with an exit code, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except AssistantError as error:
            note(f"error: {error}")
            code = EXIT_USAGE if isinstance(error, SettingsError) else EXIT_FAILURE
            raise typer.Exit(code) from error
        except BrokenPipeError:
            raise  # nobody reads our output any more; click exits silently
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            note(f"error: {where}{error.strerror or error}.")
            raise typer.Exit(EXIT_FAILURE) from error
        except KeyboardInterrupt:
            note("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None


def note(text: str) -> None:
    """Print a line on stderr, beside the results on stdout."""
    print(displayable(text), file=sys.stderr, flush=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a result for scripts on stdout. On a terminal it is ASCII only, so that no text in it can control it."""
    print(json.dumps(value, ensure_ascii=sys.stdout is not None and sys.stdout.isatty(), indent=2))


@contextmanager
def stop_on_interrupt(message: str) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether Ctrl-C was pressed. The first prints `message`, the second interrupts."""
    pressed = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        # Not print: the signal may arrive in the middle of one.
        os.write(2, message.encode())
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)
