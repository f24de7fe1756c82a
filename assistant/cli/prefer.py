"""`assistant prefer`: what a person types to teach a model which of two answers is the better one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.options import (
    ALL_MODULES,
    Accumulation,
    BaseModelFolder,
    BatchSize,
    Best,
    Deterministic,
    Device,
    Epochs,
    GradientCheckpointing,
    Json,
    LearningRate,
    LongRows,
    LoraAlpha,
    LoraModules,
    LoraRank,
    MaxGradNorm,
    MaxLength,
    MaxSteps,
    Output,
    Overwrite,
    Patience,
    PlanOnly,
    Resume,
    SaveEvery,
    Seed,
    Shard,
    SplitSeed,
    TestShare,
    ValidateEvery,
    ValidationAnswers,
    ValidationShare,
    WarmupSteps,
    WeightDecay,
    lora_settings,
    split_fractions,
    validate_settings,
)
from assistant.dataset.splits import DEFAULT_FRACTIONS, DEFAULT_SPLIT_SEED
from assistant.settings import FinetuneSettings, LoraSettings, Precision
from assistant.shipped import find_model

# The steps are small, because the model is to keep what it knows, and weights do not decay towards zero: what holds
# them is the model they began as.
DEFAULTS = FinetuneSettings(beta=0.1, epochs=1, batch_size=4, learning_rate=5e-6, weight_decay=0.0)
LORA = LoraSettings()


def prefer(
    data: Annotated[list[Path], typer.Argument(help="Files of preferences, JSON or JSONL.")],
    model: BaseModelFolder,
    output: Output,
    beta: Annotated[float, typer.Option(help="Smaller lets the model move further from where it began.")] = 0.1,
    split_seed: SplitSeed = DEFAULT_SPLIT_SEED,
    test_share: TestShare = DEFAULT_FRACTIONS[1],
    validation_share: ValidationShare = DEFAULT_FRACTIONS[2],
    epochs: Epochs = DEFAULTS.epochs,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = DEFAULTS.batch_size,
    gradient_accumulation_steps: Accumulation = DEFAULTS.gradient_accumulation_steps,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train small matrices beside frozen weights; try --learning-rate 5e-5.")
    ] = False,
    lora_rank: LoraRank = LORA.rank,
    lora_alpha: LoraAlpha = LORA.alpha,
    lora_modules: LoraModules = ALL_MODULES,
    learning_rate: LearningRate = DEFAULTS.learning_rate,
    warmup_steps: WarmupSteps = DEFAULTS.warmup_steps,
    weight_decay: WeightDecay = DEFAULTS.weight_decay,
    max_grad_norm: MaxGradNorm = 1.0,
    template: Annotated[
        str | None, typer.Option(help="alpaca, alpaca-stanford or phi3; the model's own where not given.")
    ] = None,
    max_length: MaxLength = None,
    too_long: LongRows = DEFAULTS.too_long,
    precision: Annotated[
        Precision, typer.Option(help="auto is float32: bfloat16 is coarse beside what is learnt from.")
    ] = DEFAULTS.precision,
    gradient_checkpointing: GradientCheckpointing = False,
    deterministic: Deterministic = False,
    shard: Shard = False,
    validate_every: ValidateEvery = None,
    validation_answers: ValidationAnswers = DEFAULTS.validation_answers,
    best_by: Best = DEFAULTS.best_by,
    patience: Patience = None,
    seed: Seed = DEFAULTS.seed,
    device: Device = "auto",
    save_every: SaveEvery = 60.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
    plan: PlanOnly = False,
    as_json: Json = False,
) -> None:
    """Teach a fine-tuned model which of two answers is the better one, by DPO.

    Rows are `{"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}`; `prompt` may stand for `instruction`.

    Example: `assistant prefer pairs.json --model runs/mine --output runs/preferred`
    """
    folder = find_model(model)
    settings = validate_settings(
        FinetuneSettings,
        beta=beta,
        lora=lora_settings(lora_rank, lora_alpha, lora_modules) if lora else None,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm or None,
        template=template or _template_of(folder),
        max_length=max_length,
        too_long=too_long,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        validate_every=validate_every,
        validation_answers=validation_answers,
        best_by=best_by,
        patience=patience,
        seed=seed,
    )
    from assistant.cli.job import Job, carry_out

    job = Job(
        data=tuple(data),
        model=folder,
        output=output,
        split="grouped",
        split_seed=split_seed,
        fractions=split_fractions(test_share, validation_share),
        settings=settings,
        device=device,
        deterministic=deterministic,
        shard=shard,
        save_seconds=save_every,
        resume=resume,
        overwrite=overwrite,
    )
    raise typer.Exit(carry_out(job, plan=plan, as_json=as_json))


def _template_of(folder: Path) -> str:
    """The template a model was trained with, or the usual one."""
    from assistant.model.checkpoint import load_info

    info = load_info(folder)
    return DEFAULTS.template if info is None else info.template.name
