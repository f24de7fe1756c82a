"""What the command lines share: where text goes, how errors end, and what Ctrl-C does.

Answers and tables go to stdout; progress, notes and errors to stderr, so that a pipe carries results only.
"""

from __future__ import annotations

import errno
import gc
import inspect
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any, ClassVar, NoReturn, TextIO

import typer
import typer.main
from typer.core import TyperGroup

from assistant.errors import AssistantError, SettingsError
from assistant.escape import displayable
from assistant.signals import SAME_REQUEST_S, STOP_SIGNALS

EXIT_FAILURE, EXIT_USAGE = 1, 2
SIGNAL_EXIT = 128
"""Added to a signal's number, as shells do, for the exit status of a command that it ended."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Commands(TyperGroup):
    """Reports every error that a person can cause as one sentence on stderr with an exit code, without a traceback."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show options and commands as typer does, but without importing a Markdown parser, an eighth of the time."""
        del formatter
        from rich.console import Console
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        console.print(Padding(Text(self.get_usage(ctx), style="bold"), 1))
        console.print(Padding(Text(_first_paragraph(self.help)), (0, 1, 1, 1)))
        options = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        commands = [(name, _first_paragraph(command.help)) for name, command in self.commands.items()]
        for title, rows in (("Options", options), ("Commands", commands)):
            table = Table(box=None, show_header=False, expand=True, pad_edge=False)
            table.add_column(style="bold cyan", no_wrap=True)
            table.add_column(ratio=1)
            for name, words in rows:
                table.add_row(Text(name), Text(words))
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except AssistantError as error:
            note(f"error: {error}")
            code = EXIT_USAGE if isinstance(error, SettingsError) else EXIT_FAILURE
            raise typer.Exit(code) from error
        except OSError as error:
            note(f"error: {describe_os_error(error)}")
            raise typer.Exit(EXIT_FAILURE) from error
        except KeyboardInterrupt as error:
            note("Interrupted.")
            raise typer.Exit(interrupt_exit_code(error)) from None


class LazyCommands(Commands):
    """Commands that are imported when they are called, so that each starts as fast as it can."""

    modules: ClassVar[Mapping[str, str]]
    """Where each command is: `module:function`, or `module:app` for a group."""

    @property
    def commands(self) -> dict[str, Any]:
        """All commands, imported: for the help, and for the words that were mistyped."""
        return {name: self._load(name) for name in self.modules}

    @commands.setter
    def commands(self, _: object) -> None:
        """Take nothing: `modules` says which commands there are."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of `modules`."""
        del ctx
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command."""
        del ctx
        return self._load(cmd_name) if cmd_name in self.modules else None

    def _load(self, name: str) -> Any:
        module, _, attribute = self.modules[name].partition(":")
        with fast_imports():
            found = getattr(import_module(module), attribute)
            if not isinstance(found, typer.Typer):
                callback, found = found, typer.Typer(add_completion=False, rich_markup_mode="markdown")
                found.command(name)(callback)
            command = typer.main.get_command(found)
        command.name = name
        return command


def _first_paragraph(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].replace("`", "").split())


def run_program(app: typer.Typer, name: str) -> NoReturn:
    """Run a command line as this whole process, and end it.

    Text that the output's encoding lacks is escaped. Once nobody can read stderr, what goes there is dropped and the
    command continues. Once nobody reads stdout, a command that prints a result there ends as SIGPIPE would end it.
    """
    prepare_streams()
    request = _raise_on_signals()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # to look for some takes 30 ms, and none is needed
    code: object = 0
    try:
        try:
            app(prog_name=name)
        except SystemExit as ending:
            # Outside `invoke`, typer takes every signal for Ctrl-C.
            code = request.exit_code if ending.code == SIGNAL_EXIT + signal.SIGINT else ending.code
        _ignore_signals()  # in the outer `try`: to free the memory of a command takes time, and a signal may come then
    except KeyboardInterrupt as error:
        _ignore_signals()
        code = interrupt_exit_code(error)
    try:
        sys.stdout.flush()
    except SystemExit as ending:
        code = code or ending.code
    except OSError as error:
        note(f"error: {describe_os_error(error)}")
        code = code or EXIT_FAILURE
    code = code if isinstance(code, int) else EXIT_FAILURE
    if code > SIGNAL_EXIT:
        # At once. The usual end, after a training run was interrupted, aborted the process in one of sixty tries:
        # "terminate called without an active exception".
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def fast_imports() -> Iterator[None]:
    """Import without garbage collection, which takes a tenth of the time: imports make many objects and no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def note(text: str) -> None:
    """Print a line on stderr, beside the results on stdout. Does nothing once stderr is gone."""
    with suppress(OSError):
        print(displayable(text), file=sys.stderr, flush=True)


def print_json(value: dict[str, Any]) -> None:
    """Print a result for scripts on stdout.

    It is ASCII only on a terminal, so that no text in it can control it, and where the encoding is not UTF-8.
    """
    stdout = sys.stdout
    is_utf8 = stdout is not None and (stdout.encoding or "utf-8").lower().replace("-", "").startswith("utf8")
    print(json.dumps(value, ensure_ascii=stdout is not None and (stdout.isatty() or not is_utf8), indent=2))


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ("room on the disk", "Free some space and try again")),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), ("permission to use it", "Change the permissions, or choose another")
    ),
}


def describe_os_error(error: OSError) -> str:
    """A sentence about a file that the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno not in _ADVICE:
        return f"{where}{reason}."
    expected, advice = _ADVICE[error.errno]
    return f"{where}expected {expected}, got: {reason}. {advice}."


# --- signals ------------------------------------------------------------------------------------------------------


class StopRequest:
    """Whether a signal has asked to stop, and which."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """Exit status of a command that was stopped. Another process of the run may have got the signal."""
        return SIGNAL_EXIT + (self.number or signal.SIGINT)


@contextmanager
def stop_on_signals(message: str, pass_on: Callable[[int], object] | None = None) -> Iterator[StopRequest]:
    """Yield a request that says whether Ctrl-C, SIGTERM or SIGHUP asked to stop.

    The first signal prints `message`, the second raises `Interrupted`. `pass_on` gets the number of every one. A
    signal that the process was told to ignore (`nohup`) stays ignored.
    """
    request, first_at = StopRequest(), 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first_at
        if pass_on is not None:
            pass_on(number)
        if request.number is None:
            request.number, first_at = number, time.monotonic()
            _write_at_once(message)
        elif time.monotonic() - first_at > SAME_REQUEST_S:
            raise Interrupted(number)

    with _handled_by(handle):
        yield request


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay stop signals until the block has ended: for C code that loses or changes an exception of a handler."""
    held: list[int] = []
    try:
        with _handled_by(lambda number, _frame: held.append(number)):
            yield
    finally:
        if held:
            signal.raise_signal(held[-1])


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS if not _is_ignored(number)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interrupt_exit_code(error: KeyboardInterrupt) -> int:
    """Exit status of a command that this exception ended."""
    return SIGNAL_EXIT + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def _raise_on_signals() -> StopRequest:
    """Make every stop signal raise `Interrupted`, so that a command cleans up before it ends.

    Return a request that holds the latest signal.

    During an import the process ends at once instead: there is nothing to clean up, and packages turn an exception in
    their import into another one, or swallow it.
    """
    request, raised_at = StopRequest(), -SAME_REQUEST_S

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal raised_at
        request.number = number
        if _is_importing(frame):
            _write_at_once("Interrupted.\n")
            os._exit(SIGNAL_EXIT + number)
        if time.monotonic() - raised_at >= SAME_REQUEST_S:
            raised_at = time.monotonic()
            raise Interrupted(number)

    for number in STOP_SIGNALS:
        if not _is_ignored(number):
            signal.signal(number, handle)
    return request


def _ignore_signals() -> None:
    """For the end of the process: the handlers that torch runs at exit would show a traceback."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def _write_at_once(text: str) -> None:
    """Write to stderr from a signal handler: not with print, which it may interrupt, and without ever waiting."""
    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode())


# --- streams ------------------------------------------------------------------------------------------------------


class _Notes(io.FileIO):
    """Standard error. What can no longer be written is dropped."""

    def write(self, data: Any) -> int:
        with suppress(OSError):
            written = super().write(data)
            if written is not None:
                return written
        return len(data)


class _Results(io.FileIO):
    """Standard output. It names itself in errors, and ends the process when the reader has gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _open_null(self.fileno())  # what is still buffered must not fail again at exit
            if error.errno in (errno.EPIPE, errno.EIO):
                raise SystemExit(SIGNAL_EXIT + signal.SIGPIPE) from error
            error.filename = "standard output"
            raise


def prepare_streams() -> None:
    """Make stdout and stderr safe for any text and for readers that go away. See `run_program`."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)  # or the next file that is opened would get this number, and our output
    sys.stdout = _text(sys.stdout, _Results(1, "w", closefd=False))
    sys.stderr = _text(sys.stderr, _Notes(2, "w", closefd=False))


def _text(replaced: TextIO | None, raw: io.FileIO) -> TextIO:
    encoding = replaced.encoding if replaced is not None else "utf-8"
    by_line = raw.fileno() == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=by_line)


def _open_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
