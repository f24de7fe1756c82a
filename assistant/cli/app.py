"""The command `assistant`. Torch, Textual and the rest are imported by the command that needs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from assistant import __version__
from assistant.cli.chat import ModelOrDemo, chat, model_or_demo
from assistant.cli.console import Commands, note, print_json, run_program
from assistant.cli.data import data_app
from assistant.cli.demo import DEMO_FOLDER, run_demo
from assistant.cli.export import export
from assistant.cli.import_command import import_pth_file
from assistant.cli.models import models, pull
from assistant.cli.options import (
    BaseModelFolder,
    DataFiles,
    Json,
    OutputFolder,
    PlanOnly,
    book_recipe,
    derive_options,
)
from assistant.cli.prefer import prefer
from assistant.errors import DataError, SettingsError
from assistant.escape import displayable, one_line
from assistant.settings import (
    DataSettings,
    EngineSettings,
    FinetuneSettings,
    GenerationSettings,
    RunSettings,
    SplitSettings,
)
from assistant.shipped import find_model

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Fine-tune a GPT-2 to follow instructions, and chat with it. `evaluation` scores its answers.",
)
app.add_typer(data_app, name="data")


def main() -> None:
    """The console script."""
    run_program(app, "assistant")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"assistant {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # its callback has done the work


@app.command()
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


app.command()(chat)


@app.command()
@derive_options()
def ask(
    generation: GenerationSettings,
    engine: EngineSettings,
    model: ModelOrDemo = None,
    text: Annotated[
        str | None, typer.Argument(help="The instruction; by default read from stdin.", show_default=False)
    ] = None,
    input_text: Annotated[str, typer.Option("--input", help="The text that the instruction is about.")] = "",
    as_json: Json = False,
) -> None:
    """Answer one instruction and exit, for scripts and pipes.

    Example: `assistant ask runs/mine "Name a synonym of happy."`  or  `echo "Name a synonym of happy." | assistant ask`
    """
    if model is not None and text is None and len(model.split()) > 1 and not os.path.isdir(model):  # noqa: PTH112
        model, text = None, model  # a lone sentence is the instruction; pathlib cannot test very long names
    if generation.logprobs is not None and not as_json:
        note("note: --logprobs does nothing without --json.")
    folder = model_or_demo(model)
    text = _read_instruction() if text is None else text
    if not text.strip():
        raise SettingsError("instruction: expected some text, got nothing. Type it after the model, or pipe it in.")

    from assistant.decoding.session import Session

    session = Session.load(folder, device=engine.device, precision=engine.precision)
    if as_json:
        reply = session.reply(text, input=input_text, settings=generation)
        print_json(reply.model_dump(mode="json"))
        return
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    safe = displayable if on_terminal else str  # a pipe gets the model's own text

    def show(new: str) -> None:
        print(safe(new), end="", flush=True)

    session.reply(text, input=input_text, settings=generation, on_text=show)
    print()


@app.command()
@derive_options(leave_out={"beta"})
def finetune(
    data: DataFiles,
    model: BaseModelFolder,
    output: OutputFolder,
    settings: FinetuneSettings,
    split: SplitSettings,
    run: RunSettings,
    reading: DataSettings,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a GPT-2 on instruction files.

    Example: `assistant finetune mine.json --model gpt2 --output runs/mine --epochs 2`
    """
    from assistant.dataset.prompts import get_template

    get_template(settings.template)
    if settings.book:
        settings, split = book_recipe(settings), split.model_copy(update={"split": "book"})
    from assistant.cli.job import Job, run_or_plan

    job = Job(
        data=tuple(data),
        model=find_model(model),
        output=output,
        split=split,
        settings=settings,
        run=run,
        reading=reading,
    )
    raise typer.Exit(run_or_plan(job, plan=plan, as_json=as_json))


app.command()(prefer)
app.command()(pull)
app.command()(models)
app.command()(export)
app.command("import")(import_pth_file)


@app.command()
def doctor(
    host: Annotated[
        str | None, typer.Option(help="Address of Ollama; by default OLLAMA_HOST, or this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Report what is installed, what is reachable, and what to do next.

    Example: `assistant doctor`
    """
    from assistant.cli.doctor import examine

    findings = examine(host)
    if as_json:
        print_json({finding.name: {"ok": finding.ok, "found": finding.found} for finding in findings})
        return
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'ok' if finding.ok else '--'}  {finding.name:<{width}}  {one_line(finding.found)}")
        if finding.advice:
            print(f"    {'':<{width}}  {finding.advice}")


def _read_instruction() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise SettingsError("instruction: expected some text, got none. Type it after the model, or pipe it in.")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: expected UTF-8, got {error.reason} at byte {error.start}. Convert it."
        ) from error
