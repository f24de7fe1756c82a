"""The command `assistant`: the names of its commands. A command is imported when it is called."""

from __future__ import annotations

from typing import Annotated, ClassVar

import typer

from assistant import __version__
from assistant.cli.console import LazyCommands, run_program


class AssistantCommands(LazyCommands):
    """The commands, in the order of the help."""

    modules: ClassVar[dict[str, str]] = {
        "demo": "assistant.cli.demo:demo",
        "chat": "assistant.cli.chat:chat",
        "ask": "assistant.cli.ask:ask",
        "finetune": "assistant.cli.finetune:finetune",
        "prefer": "assistant.cli.prefer:prefer",
        "classify": "assistant.cli.classify:classify_app",
        "pull": "assistant.cli.models:pull",
        "models": "assistant.cli.models:models",
        "export": "assistant.cli.export:export",
        "import": "assistant.cli.import_command:import_file",
        "doctor": "assistant.cli.doctor:doctor",
        "data": "assistant.cli.data:data_app",
    }


app = typer.Typer(
    cls=AssistantCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    help="Fine-tune a small language model to follow instructions, and chat with it. `evaluation` scores answers.",
)


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
