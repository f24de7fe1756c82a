"""The model that a command uses: the one that was named, or else the demo's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.console import note
from assistant.cli.options import A_MODEL
from assistant.errors import PrerequisiteError
from assistant.escape import one_line
from assistant.shipped import find_model

DEMO_FOLDER = Path("demo")
DEMO_MODEL = DEMO_FOLDER / "model"

ModelOrDemo = Annotated[
    str | None,
    typer.Argument(help=f"Model that answers; by default the demo's. {A_MODEL}", show_default=False),
]


def model_or_demo(model: str | None) -> str:
    """Return the folder of the model that was named, or of the demo's model.

    Raises:
        PrerequisiteError: the model does not exist; or none was named, and the demo was not run.
    """
    if model is not None:
        folder = find_model(model)
        if not folder.exists():
            from assistant.chat.models import missing_model_sentence

            raise PrerequisiteError(missing_model_sentence(model))
        return str(folder)
    if not (DEMO_MODEL / "config.json").exists():
        raise PrerequisiteError(
            f"model: expected a model folder, or the demo's model in {DEMO_MODEL}, got neither. "
            f"Run `assistant demo` first, or name a model folder."
        )
    note(f"Using the demo's model in {one_line(str(DEMO_MODEL))}.")
    return str(DEMO_MODEL)
