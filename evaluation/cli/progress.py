"""Shows on stderr how far a command is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from assistant.cli.console import note


@contextmanager
def progress(verb: str, total: int, *, start: int = 0) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each row. A terminal shows a bar; a pipe gets a line per tenth of the rows."""
    if not sys.stderr.isatty():
        done = start

        def count() -> None:
            nonlocal done
            done += 1
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                note(f"{verb} {done} of {total}")

        yield count
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=total, completed=start)
        yield lambda: bar.advance(task)


class Bar:
    """Progress over a number of questions that is known only later. Use it in a `with` block."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._stack = ExitStack()
        self._step: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def start(self, total: int) -> None:
        """Begin to show this many steps, after the bar before has ended. Shows nothing if there are none."""
        self._stack.close()
        self._step = self._stack.enter_context(progress(self._verb, total)) if total else None

    def step(self) -> None:
        """Show that one more is done."""
        if self._step is not None:
            self._step()
