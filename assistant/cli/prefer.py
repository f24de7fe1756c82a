"""`assistant prefer`: learn from pairs of a better and a worse answer, by DPO."""

from __future__ import annotations

import typer

from assistant.cli.finetune import PromptTemplate, default_template
from assistant.cli.options import BaseModelFolder, DataFiles, Json, OutputFolder, PlanOnly, derive_options
from assistant.settings import DataSettings, FinetuneSettings, RunSettings, SplitSettings
from assistant.shipped import find_model

# Small steps, because the model should keep what it knows. No weight decay towards zero: the loss itself pulls the
# weights towards the model they started from.
DEFAULTS = {"beta": 0.1, "epochs": 1, "batch_size": 4, "learning_rate": 5e-6, "weight_decay": 0.0}


@derive_options(
    leave_out={"book", "classifier", "freeze_embeddings", "loss_per", "optimizer", "split", "template", "train_on"},
    defaults=DEFAULTS,
)
def prefer(
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
    """Teach a fine-tuned model which of two answers is better, by DPO.

    Rows are `{"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}`; `prompt` may replace `instruction`.
    `--precision auto` is float32 here.

    Example: `assistant prefer pairs.json --model runs/mine --output runs/preferred`
    """
    from assistant.dataset.prompts import get_template

    folder = find_model(model)
    name = template or default_template(folder)
    get_template(name)
    from assistant.cli.job import InstructionJob, run_or_plan

    settings = settings.model_copy(update={"template": name})
    job = InstructionJob(
        data=tuple(data), model=folder, output=output, split=split, settings=settings, run=run, reading=reading
    )
    raise typer.Exit(run_or_plan(job, plan=plan, as_json=as_json))
