"""`assistant demo`: the whole job on the shipped model, as the commands that a person would type.

Every step is a separate process, and the demo prints its command first. So what it shows is what the commands do.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant.cli.console import SIGNAL_EXIT, note, print_json, stop_on_signals
from assistant.cli.demo_model import DEMO_FOLDER
from assistant.cli.options import Json, derive_options
from assistant.errors import SettingsError
from assistant.escape import one_line
from assistant.files import check_can_be_folder, make_folder
from assistant.settings import FinetuneSettings
from assistant.shipped import COUNTED_APART, FREE_FORM, POCKET, ROWS, find_model, shipped

if TYPE_CHECKING:
    from assistant.dataset.instructions import Example

MARKER = "MADE_BY_DEMO.txt"
# float32 on every machine, so that the answers do not depend on which dtype is fast there.
PRECISION = ("--precision", "float32")
FINETUNE_OPTIONS = (
    *("--epochs", "1", "--learning-rate", "1.5e-4", "--batch-size", "16"),
    *("--loss-per", "row", "--freeze-embeddings", *PRECISION),
)
SHOWN_ROWS = 6
SHOWN_TOKENS = 40
SHOWN_CHARACTERS = 100


@derive_options(leave_out=FinetuneSettings.model_fields.keys() - {"seed"})
def demo(
    settings: FinetuneSettings,
    output: Annotated[Path, typer.Option(help="Folder for the model and the report.")] = DEMO_FOLDER,
    as_json: Json = False,
) -> None:
    """Run the whole job on the shipped model: fine-tune pocket, answer the test rows, score them, show the report.

    Example: `assistant demo`
    """
    raise typer.Exit(run_demo(output, seed=settings.seed, as_json=as_json))


def run_demo(output: Path, *, seed: int, as_json: bool) -> int:
    """Ask the base model, fine-tune it, answer the test rows, compare, score and report. Returns the exit code.

    Raises:
        SettingsError: `output` holds files that are not from an earlier demo.
    """
    base, data, model, run = POCKET, [_from_here(shipped(name)) for name in ROWS], output / "model", output / "run"
    clear_folder(output)
    note(
        f"The model {base} has read plain English and continues any text. "
        f"Fine-tuning teaches it to answer and to stop.\n"
        f"The test asks for facts and words that are in no training row. With a GPT-2 the steps are the same."
    )
    finetune = ["assistant", "finetune", *map(str, data), "--model", base, "--output", str(model), *FINETUNE_OPTIONS]
    with ThreadPoolExecutor(1) as beside:  # the base answers while the first step reads its data
        asked = beside.submit(_ask_base, data)
        for step in (
            [*finetune, "--seed", str(seed)],
            ["evaluation", "respond", str(model), *_options("--data", data), "--run", str(run)],
        ):
            if code := _do(step, capture=as_json):
                return code
    rows, before = asked.result()
    after = _answers(run, rows)
    _show_both(rows, before, after)
    if code := _do(["evaluation", "score", str(run)], capture=as_json):
        return code
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    report["closed"] = closed(report)
    note(f"\n{_in_words(report)}")
    if as_json:
        shown = [
            {"instruction": row.instruction, "input": row.input, "reference": row.output, "before": b, "after": a}
            for row, b, a in zip(rows, before, after, strict=True)
        ]
        print_json({"model": str(model), "run": str(run), "shown": shown, "report": report})
    note(
        f"\nNext, type one of these:\n{_activation()}"
        f"  assistant chat {shlex.quote(str(model))}\n"
        f'  assistant ask {shlex.quote(str(model))} "What is the opposite of brave?"\n'
        f"  evaluation score {shlex.quote(str(run))} --judge llama3.1      (with `ollama serve` running)"
    )
    return 0


def _activation() -> str:
    """The command that puts the others on the path, as a line, if they are not there."""
    script = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("assistant") or not script.is_file():
        return ""
    return f"  source {shlex.quote(str(_from_here(script)))}      (once: then the shell finds the commands)\n"


def clear_folder(output: Path) -> None:
    """Remove what an earlier demo left in `output`; other files are refused."""
    check_can_be_folder(output)
    marker = output / MARKER
    if output.exists() and not marker.exists() and any(output.iterdir()):
        raise SettingsError(
            f"{output}: expected an empty folder or an earlier demo's, got other files. Choose another --output."
        )
    for name in ("model", "run"):
        shutil.rmtree(output / name, ignore_errors=True)
    make_folder(output)
    marker.write_text(
        "Made by `assistant demo`, which replaces this folder's contents when it runs again.\n", encoding="utf-8"
    )


def closed(report: dict[str, Any]) -> dict[str, int]:
    """Rows and exact matches of a report in the categories that have one right answer."""
    categories = [category for category in report["categories"] if category["name"] not in COUNTED_APART]
    return {
        "n": sum(category["rows"] for category in categories),
        "exact_matches": sum(category["exact_matches"] for category in categories),
    }


def _options(name: str, values: Sequence[Path]) -> list[str]:
    """The option with each of the values."""
    return [word for value in values for word in (name, str(value))]


def _from_here(path: Path) -> Path:
    """The path relative to the current folder if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _do(step: Sequence[str], *, capture: bool) -> int:
    """Print a command and run it. `capture` hides what it prints on stdout. Returns its exit code."""
    note(f"\n$ {shlex.join(step)}")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", *step],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if capture else None,
    )
    with stop_on_signals("", pass_on=process.send_signal) as stop:  # the step saves and reports
        code = process.wait()
    if code < 0:  # a signal ended it
        code = SIGNAL_EXIT - code
    if code == 0 and stop():
        code = stop.exit_code
    if code != 0:
        ended = "was stopped" if stop() else "failed"
        note(f"The demo ended early: `{shlex.join(step)}` {ended}.")
    return code


# --- before and after ---------------------------------------------------------------------------------------------


def _shown_rows(data: Sequence[Path]) -> list[Example]:
    """Test rows to show: the first row of each of six categories with one right answer, spread over their names."""
    from assistant.dataset.instructions import read_examples
    from assistant.dataset.splits import split_examples

    firsts: dict[str, Example] = {}
    for example in split_examples(read_examples(*data)).test:
        if example.category is not None and example.category not in COUNTED_APART:
            firsts.setdefault(example.category, example)
    names = sorted(firsts)
    count = min(SHOWN_ROWS, len(names))
    return [firsts[names[index * len(names) // count]] for index in range(count)]


def _ask_base(data: Sequence[Path]) -> tuple[list[Example], list[str]]:
    """The rows to show, and the base model's answers to them."""
    from assistant.decoding.session import Session
    from assistant.settings import GenerationSettings

    rows = _shown_rows(data)
    session = Session.load(find_model(POCKET))
    settings = GenerationSettings(max_new_tokens=SHOWN_TOKENS)
    return rows, [session.reply(row.instruction, input=row.input, settings=settings).response for row in rows]


def _answers(run: Path, rows: Sequence[Example]) -> list[str]:
    """The fine-tuned model's answers to these rows."""
    lines = (run / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    responses = {(line["instruction"], line["input"]): line["response"] or "" for line in map(json.loads, lines)}
    return [responses[row.instruction, row.input] for row in rows]


def _show_both(rows: Sequence[Example], before: Sequence[str], after: Sequence[str]) -> None:
    """Print a table of both answers and the reference on stderr."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{len(rows)} test rows before and after fine-tuning",
        title_justify="left",
        show_lines=True,
        expand=True,
    )
    for name, ratio in (("asked", 5), ("before", 5), ("after", 4), ("expected", 4)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for row, old, new in zip(rows, before, after, strict=True):
        asked = f"{row.instruction} {row.input}".strip()
        is_right = new.strip() == row.output.strip()
        style = ("", "dim", "green" if is_right else "red", "")
        cells = (asked, old, new, row.output)
        table.add_row(*(Text(_short(cell), style=kind) for cell, kind in zip(cells, style, strict=True)))
    note("")
    console = Console(stderr=True)
    console.print(table)


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."


def _in_words(report: dict[str, Any]) -> str:
    """The demo's result in one or two sentences."""
    counts = report["closed"]
    free = [category for category in report["categories"] if category["name"] in FREE_FORM]
    rows = sum(category["rows"] for category in free)
    text = (
        f"One right answer: {counts['exact_matches']} of {counts['n']} test rows answered word for word "
        f"({100 * counts['exact_matches'] / max(1, counts['n']):.0f} %)."
    )
    if rows:
        likeness = sum(category["chrf"] * category["rows"] for category in free if category["chrf"] is not None) / rows
        stopped = sum(category["ended"] for category in free)
        text += f"\nFree answers: chrF {likeness:.0f} of 100; {stopped} of {rows} ended by themselves."
    return text
