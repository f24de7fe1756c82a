"""`assistant finetune`: learn to answer, from instruction files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.options import (
    BaseModelFolder,
    DataFiles,
    Json,
    OutputFolder,
    PlanOnly,
    book_recipe,
    derive_options,
)
from assistant.errors import SettingsError
from assistant.settings import DataSettings, FinetuneSettings, RunSettings, SplitSettings
from assistant.shipped import find_model

PromptTemplate = Annotated[
    str | None, typer.Option(help="Prompt template; by default the model's own, or alpaca.", rich_help_panel="Data")
]


@derive_options(leave_out={"beta", "classifier", "template"})
def finetune(
    data: DataFiles,
    model: BaseModelFolder,
    output: OutputFolder,
    settings: FinetuneSettings,
    split: SplitSettings,
    run: RunSettings,
    reading: DataSettings,
    template: PromptTemplate = None,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a language model on instruction files.

    Example: `assistant finetune mine.json --model gpt2 --output runs/mine --epochs 2`
    """
    from assistant.dataset.prompts import get_template

    folder = find_model(model)
    name = get_template(template or default_template(folder, settings.template)).name
    settings = settings.model_copy(update={"template": name})
    if settings.book:
        settings, split = book_recipe(settings), split.model_copy(update={"split": "book"})
    from assistant.cli.job import InstructionJob, run_or_plan

    job = InstructionJob(
        data=tuple(data),
        model=folder,
        output=output,
        split=split,
        settings=settings,
        run=run,
        reading=reading,
    )
    raise typer.Exit(run_or_plan(job, plan=plan, as_json=as_json))


def default_template(folder: Path, default: str | None = None) -> str:
    """The name of a model's template; for an adapter, its base's. A default counts for models that need no markers.

    Raises:
        SettingsError: the model has a chat template that is unknown here.
    """
    from assistant.dataset.tokenizer import read_tokenizer
    from assistant.model.checkpoint import folder_template, folder_to_open, has_unknown_template

    folder = folder_to_open(folder)
    tokenizer = read_tokenizer(folder)
    own = folder_template(folder, tokenizer)
    if has_unknown_template(folder, tokenizer, own):
        raise SettingsError(
            f"{folder}: expected a chat template that this project knows, got another one. "
            f"Choose the prompts to train with, for example --template alpaca."
        )
    return own.name if own.markers or default is None else default
