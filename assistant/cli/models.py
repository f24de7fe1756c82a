"""`assistant pull` and `assistant models`: models from the Hugging Face Hub, and what is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.console import note, print_json
from assistant.cli.options import Json
from assistant.errors import SettingsError
from assistant.escape import displayable, one_line
from assistant.hub_cache import SHOWN_COMMIT

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from assistant.interop.inventory import ModelEntry
    from assistant.interop.transfer import HubFile, PullObserver


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="gpt2, smollm2-135m or another known name, or a repository OWNER/NAME; also with @REVISION.",
            metavar="NAME",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Download a model from the Hugging Face Hub, so that `--model NAME` finds it, also without a network.

    It goes to Hugging Face's cache. A download that was cut is resumed. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
    HF_HUB_OFFLINE and HF_TOKEN work as with all programs that use the Hub.

    Example: `assistant pull gpt2`
    """
    from assistant.interop import hub

    with _observer() as observer:
        model = hub.pull(name, observer)
    if as_json:
        print_json(model.as_json())
        return
    fetched = (
        f", {_megabytes(model.downloaded)} of it downloaded now" if model.downloaded else ", all of it here before"
    )
    print(f"{one_line(model.repository)} at commit {one_line(model.commit)}: {_megabytes(model.size)}, {fetched}.")
    print(f"In {one_line(str(model.folder))}")
    note(f"Next: assistant finetune mine.json --model {model.name} --output runs/mine")


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Option("--dir", help="Folder to look in; may be repeated. By default the current folder."),
    ] = None,
    known: Annotated[
        bool,
        typer.Option("--known", help="List the models that `assistant pull` knows by name, and what they cost."),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models on this machine: in folders and their `runs`, pulled from the Hub, and pocket.

    Example: `assistant models`  or, to choose a base:  `assistant models --known`
    """
    from assistant.interop.inventory import list_models

    if known:
        if folders:
            raise SettingsError("--known: expected without --dir, got both. Leave one out.")
        _show_known(as_json)
        return
    for folder in folders or ():
        if not folder.is_dir():
            raise SettingsError(f"--dir: expected a folder, got {folder}. Check the path.")
    entries = list_models(folders or [Path()])
    if as_json:
        print_json({"models": [entry.as_json() for entry in entries]})
        return
    rows: list[tuple[str, ...]] = [("name", "size", "template", "where it came from", "last score", "modified")]
    rows += [_row(entry) for entry in entries]
    for line, entry in zip(_lines(rows), [None, *entries], strict=True):
        print(line)
        if entry is not None and entry.problem is not None:
            print(f"    cannot be used: {one_line(entry.problem)}")


def _lines(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """The rows of a table as lines with columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _show_known(as_json: bool) -> None:
    """Print the models to choose a base from: a table on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.table import Table

    from assistant.interop.known import KNOWN, read_costs

    costs = read_costs()
    if as_json:
        print_json({"known": [asdict(model) | {"is_here": model.is_here} for model in KNOWN], **costs})
        return
    rows: list[tuple[str, ...]] = [("name", "weights", "licence", "context", "train all", "with LoRA", "here")]
    rows += [(*model.row(costs), "yes" if model.is_here else "no") for model in KNOWN]
    console = Console()
    if console.is_terminal:
        table = Table(*rows[0], box=None, padding=(0, 1, 0, 0))
        for row in rows[1:]:
            table.add_row(*row, style="bold" if row[-1] == "yes" else "")
        console.print(table)
    else:
        print(*_lines(rows), sep="\n")
    note(
        f"Memory and time: {costs['rows']:,} short rows, two epochs, {costs['machine']}; ~ is only calculated.\n"
        f"Get a model that is not here: assistant pull NAME. Plan your own run: assistant finetune with --plan."
    )


def _row(entry: ModelEntry) -> tuple[str, ...]:
    size = "-"
    if entry.parameters is not None:
        size = f"{entry.parameters / 1e6:,.1f} M"
    elif entry.size:
        size = _megabytes(entry.size)
    score = "-" if entry.score is None else f"{entry.score.mean:.4g} {entry.score.by}".strip()
    modified = "-" if entry.modified is None else entry.modified.astimezone().strftime("%Y-%m-%d %H:%M")
    cells = (entry.name, size, entry.template or "-", entry.origin or "-", score, modified)
    return tuple(one_line(cell) for cell in cells)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# --- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def _observer() -> Iterator[PullObserver]:
    """A progress bar on a terminal, plain lines elsewhere; both on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainPull()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.fields[file]}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        yield _BarPull(progress)


def _describe(repository: str, commit: str, files: tuple[HubFile, ...], missing: int) -> str:
    size = sum(file.size for file in files)
    return (
        f"{repository} at commit {commit[:SHOWN_COMMIT]}: {len(files)} files, {_megabytes(size)}, "
        f"{_megabytes(missing)} to download."
    )


class _PlainPull:
    """A line for each file, and every tenth of a large one."""

    def __init__(self) -> None:
        self._tenth = 0

    def on_plan(self, repository: str, commit: str, files: tuple[HubFile, ...], missing: int) -> None:
        note(_describe(repository, commit, files, missing))

    def on_bytes(self, file: HubFile, done: int) -> None:
        tenth = 10 if done >= file.size else 10 * done // file.size
        if tenth == self._tenth:
            return
        self._tenth = 0 if tenth == 10 else tenth
        note(f"{file.name}: {_megabytes(done)} of {_megabytes(file.size)}")

    def on_note(self, text: str) -> None:
        note(text)


class _BarPull:
    """One bar for all files, with notes above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._done: dict[str, int] = {}

    def on_plan(self, repository: str, commit: str, files: tuple[HubFile, ...], missing: int) -> None:
        self.on_note(_describe(repository, commit, files, missing))
        if missing:
            self._task = self._progress.add_task("", total=sum(file.size for file in files), file="")

    def on_bytes(self, file: HubFile, done: int) -> None:
        if self._task is not None:
            self._done[file.name] = done
            self._progress.update(self._task, completed=sum(self._done.values()), file=one_line(file.name))

    def on_note(self, text: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(displayable(text)))
