"""`assistant chat`: which model talks, in which conversation, and on which front."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.console import fast_imports, note
from assistant.cli.demo_model import ModelOrDemo, model_or_demo
from assistant.cli.options import derive_options
from assistant.errors import DataError
from assistant.escape import one_line
from assistant.settings import EngineSettings, GenerationSettings, TalkSettings


@derive_options(leave_out={"logprobs", "seed"}, names={"fixed_seed": "--seed"})
def chat(
    generation: GenerationSettings,
    engine: EngineSettings,
    talk: TalkSettings,
    model: ModelOrDemo = None,
    where: Annotated[
        bool,
        typer.Option("--where", help="Print where conversations are kept, and end.", rich_help_panel="Conversations"),
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print lines only: for screen readers, dumb terminals and pipes.")
    ] = False,
) -> None:
    """Chat with a model in the terminal, alone or beside its base model. F1 in the chat lists the keys.

    Example: `assistant chat runs/mine --temperature 0.7`
    """
    with fast_imports():
        from assistant.chat.setup import set_up
        from assistant.chat.state import ChatSettings
        from assistant.chat.store import NoStore, Store

    store = Store()
    if where:
        print(store.where())
        return
    if talk.fixed_seed is not None:
        generation = generation.model_copy(update={"seed": talk.fixed_seed})
    if talk.resume is not None and model is None:
        model = store.model_of(talk.resume)
    for path in talk.data:
        if not os.path.exists(path):  # noqa: PTH110  pathlib raises for names that are too long
            raise DataError(f"--data: {one_line(path)}: expected a file of rows, got no such file. Check the path.")
    setup = set_up(
        Path(model_or_demo(model)),
        settings=ChatSettings(generation=generation, seed=talk.fixed_seed),
        engine=engine,
        base=talk.base,
        data=tuple(map(Path, talk.data)),
        store=NoStore() if talk.no_save else store,
        resume=talk.resume,
    )
    from assistant.tui.terminal import terminal_problem

    problem = None if plain else terminal_problem()
    if plain or problem is not None:
        from assistant.cli.plain import run_plain

        if problem is not None:
            note(f"Plain chat: {problem}.")
        raise typer.Exit(run_plain(setup, sys.stdin, sys.stdout))
    with fast_imports():
        from assistant.tui.app import run_chat

    raise typer.Exit(run_chat(setup))
