"""`assistant finetune`: learn to answer, from instruction files."""

from __future__ import annotations

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
from assistant.settings import DataSettings, FinetuneSettings, RunSettings, SplitSettings
from assistant.shipped import find_model


@derive_options(leave_out={"beta", "classifier"})
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
    from assistant.cli.job import InstructionJob, run_or_plan

    job = InstructionJob(
        data=tuple(data),
        model=find_model(model),
        output=output,
        split=split,
        settings=settings,
        run=run,
        reading=reading,
    )
    raise typer.Exit(run_or_plan(job, plan=plan, as_json=as_json))
