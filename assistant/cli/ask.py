"""`assistant ask`: one answer, for scripts and pipes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from assistant.cli.console import note, print_json
from assistant.cli.demo_model import ModelOrDemo, model_or_demo
from assistant.cli.options import Json, derive_options
from assistant.errors import DataError, SettingsError
from assistant.escape import displayable
from assistant.settings import EngineSettings, GenerationSettings


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
    if session.template_note:
        note(f"note: {session.template_note}")
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    safe = displayable if on_terminal else str  # a pipe gets the model's own text

    def show(new: str) -> None:
        print(safe(new), end="", flush=True)

    session.reply(text, input=input_text, settings=generation, on_text=show)
    print()


def _read_instruction() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise SettingsError("instruction: expected some text, got none. Type it after the model, or pipe it in.")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: expected UTF-8, got {error.reason} at byte {error.start}. Convert it."
        ) from error
