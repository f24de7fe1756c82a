"""Shows on stderr how far a command is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
