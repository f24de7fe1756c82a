"""The commands `evaluation label` and `evaluation pairs`. Prints, as `evaluation.cli.app` does."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.console import note, print_json
from assistant.cli.options import Json
from assistant.errors import DataError, PrerequisiteError, SettingsError
from assistant.escape import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evaluation.people.labels import LabelSummary

FOLDER = typer.Argument(help="Answers folder.", metavar="DIR")


def label(
    folder: Annotated[Path, FOLDER],
    count: Annotated[int, typer.Option(help="Rows to label, earlier sessions included.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draw; the same seed continues the same rows.", min=0)] = 123,
    labeller: Annotated[
        str | None, typer.Option(help="Who scores; by default the name of the user.", metavar="NAME")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score some rows yourself, without seeing the judge's scores.

    The rows are drawn at random from those that only a judge or a person can score. Every key is saved at once, and the
    same command continues.
    """
    from assistant.jsonl import AppendOnly
    from evaluation.answers.folder import read_answers
    from evaluation.people.label_screen import run_labels
    from evaluation.people.labels import LABELS_FILE, Label, LabelSession, draw_rows, read_labels, summarise

    who = (labeller if labeller is not None else _user()).strip()
    if not who:
        raise SettingsError(f"--labeller: expected a name, got {labeller!r}. Try: --labeller me")
    answers = read_answers(folder)
    rows = draw_rows(answers.responses, seed=seed)
    if not rows:
        raise DataError(
            f"{folder}: expected rows that need a person, got none: all {len(answers.responses)} answers are exact "
            f"matches, empty or missing. Label other answers."
        )
    check_terminal(folder)
    with AppendOnly[Label](folder / LABELS_FILE) as file:
        session = LabelSession(rows, read_labels(answers), file, labeller=who, count=count)
        code = run_labels(session, str(folder))
    summary = summarise(answers, read_labels(answers).values(), open_rows=len(rows))
    if as_json:
        print_json(summary.model_dump(mode="json"))
    else:
        from rich.console import Console

        Console(highlight=False).print(label_table(summary))
        advice = "Give the same command again to continue."
        if session.done >= session.total:
            advice = f"To label more: --count {2 * count}." if len(rows) > session.total else "No other row needs one."
        note(f"{folder / LABELS_FILE}: {session.done} of {session.total} rows labelled by {who}. {advice}")
    if code:
        raise typer.Exit(code)


def pairs(
    folder: Annotated[Path, typer.Argument(help="Answers folder with several scored answers a row.", metavar="DIR")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the pairs.", metavar="FILE")],
    margin: Annotated[
        float, typer.Option(help="Least difference of the scores of a pair, in points.", min=1, max=100)
    ] = 20.0,
    per_row: Annotated[int, typer.Option(help="Largest number of pairs of a row.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Make preference pairs for `assistant prefer` from a judge's scores of several answers a row.

    The best answer of a row is chosen and the worst is rejected. Only answers to training rows are taken.
    """
    from assistant.files import write_atomic
    from evaluation.answers.folder import read_answers
    from evaluation.people.pairs import (
        check_part,
        describe_counts,
        dump_pairs,
        make_pairs,
        newest_scores,
        split_options,
    )

    if os.path.lexists(output) and not overwrite:  # a dangling link counts, too
        raise SettingsError(f"{output}: expected a name for a new file, got one that exists. Add --overwrite.")
    answers = read_answers(folder)
    check_part(answers)
    examples, counts = make_pairs(answers.responses, newest_scores(answers), margin=margin, per_row=per_row)
    sentence = describe_counts(counts, output, margin)
    if not examples:
        raise DataError(
            f"{sentence} Nothing was written. Ask for more different answers (respond --samples 4 --temperature 0.8), "
            f"or lower --margin."
        )
    write_atomic(output, dump_pairs(examples))
    if counts.unscored:
        note(f"note: {counts.unscored} answers have no score. Run: evaluation score {folder} --judge MODEL")
    if as_json:
        print_json({"output": str(output), "margin": margin, **counts.model_dump()})
        return
    typer.echo(visible(sentence))
    options = split_options(Path(answers.info.path))
    if options is None:
        note(
            "note: the model was trained on the book's split, which assistant prefer does not have. Write its test "
            "rows to a file with assistant data split --split book, and test the new model on that file."
        )
    command = f"assistant prefer {shlex.quote(str(output))} --model {shlex.quote(answers.info.path)}"
    typer.echo(visible(f"Next: {command} --output runs/preferred{options or ''}"))


def check_terminal(folder: Path) -> None:
    """Check that the person can see the screen and press keys.

    Raises:
        PrerequisiteError: standard input or standard error is not a terminal.
    """
    for name, stream in (("input", sys.stdin), ("error", sys.stderr)):  # Textual draws on stderr
        if stream is None or not stream.isatty():
            raise PrerequisiteError(
                f"label: expected a terminal as standard {name}, got a file or a pipe. "
                f"Run in a terminal: evaluation label {folder}"
            )


def label_table(summary: LabelSummary) -> RenderableType:
    """Return what the labels are worth, for a terminal: a table of the tags, and a sentence."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    if summary.tags:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("tag", "category", "n", "mean score"):
            is_number = name in {"n", "mean score"}
            table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis")
        for tag in summary.tags:
            mean = "n/a" if tag.mean is None else f"{tag.mean:.1f}"
            category = "(none)" if tag.category is None else visible(tag.category)
            table.add_row(Text(visible(tag.tag)), Text(category), str(tag.n), mean)
        parts += [table, Text()]
    if summary.mean is None:
        parts.append(Text("No row has a label yet.", style="bold"))
    else:
        rows = f"{summary.rows} of the {summary.open_rows} rows that only a judge or a person can score"
        parts.append(Text(f"Your labels: mean {summary.mean:.1f} of 100, on {rows}.", style="bold"))
    return Group(*parts)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
