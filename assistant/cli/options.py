"""Options of the command lines: those that several commands share, and how options become validated settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from assistant.dataset.prompts import get_template
from assistant.errors import SettingsError
from assistant.settings import (
    BOOK,
    BestBy,
    DecodePrecision,
    FinetuneSettings,
    GenerationSettings,
    LoraSettings,
    OverlongPolicy,
    Precision,
)

Settings = TypeVar("Settings", bound=BaseModel)

ANSWER = GenerationSettings()
ALL_MODULES = ",".join(LoraSettings().modules)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest reply, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that make up this probability.")]
MinP = Annotated[float | None, typer.Option(help="Draw from tokens at least p times as likely as the likeliest.")]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Above 1 makes tokens that stand in the prompt or reply already less likely.")
]
Kept = Annotated[
    DecodePrecision,
    typer.Option("--precision", help="How weights are kept; auto answers as float32 does, in less time."),
]
Stop = Annotated[list[str] | None, typer.Option(help="End the reply before this text; may be repeated.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn by chance.")]
TestShare = Annotated[float, typer.Option(help="Part of the rows kept for testing.", min=0, max=1)]
ValidationShare = Annotated[float, typer.Option(help="Part that the best weights are chosen by.", min=0, max=1)]

# Of the commands that train.
BaseModelFolder = Annotated[Path, typer.Option("--model", "-m", help="Folder of the GPT-2 to start from, or pocket.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")]
SplitSeed = Annotated[int, typer.Option(help="Of the grouped split.")]
Epochs = Annotated[int, typer.Option(help="Times every training row is seen.")]
MaxSteps = Annotated[int | None, typer.Option(help="Steps to do, whatever the epochs.")]
BatchSize = Annotated[int, typer.Option(help="Rows a micro-batch.")]
Accumulation = Annotated[int, typer.Option(help="Micro-batches a step.")]
LoraRank = Annotated[int, typer.Option(help="Width of these matrices.", min=1)]
LoraAlpha = Annotated[float, typer.Option(help="Their product counts alpha / rank times.")]
LoraModules = Annotated[str, typer.Option(help="The layers that get some, of each block, parted by commas.")]
LearningRate = Annotated[float, typer.Option(help="Its peak.")]
WarmupSteps = Annotated[int, typer.Option(help="At most a tenth of all.")]
WeightDecay = Annotated[float, typer.Option(help="On matrices only.")]
MaxGradNorm = Annotated[float, typer.Option(help="Longer gradients are shortened to it; 0: never.")]
MaxLength = Annotated[int | None, typer.Option(help="Longest row in tokens; the context where not given.")]
LongRows = Annotated[OverlongPolicy, typer.Option(help="What becomes of longer rows.")]
Arithmetic = Annotated[
    Precision, typer.Option(help="auto: bfloat16 on a GPU that has it, and on a processor that is much faster with it.")
]
GradientCheckpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory for more time.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="On a GPU too: the same weights from the same run, for some speed.")
]
Shard = Annotated[
    bool, typer.Option("--shard", help="Under torchrun: each process keeps a part of the model, for one too large.")
]
ValidateEvery = Annotated[
    int | None, typer.Option(help="Steps; where not given four times an epoch, at most 20 times.")
]
ValidationAnswers = Annotated[int, typer.Option(help="Validation rows to answer at every validation.")]
Best = Annotated[
    BestBy, typer.Option(help="Keep the weights of the least loss, the most matching or ended answers, or the last.")
]
Patience = Annotated[int | None, typer.Option(help="End early after so many validations without better weights.")]
SaveEvery = Annotated[float, typer.Option(help="Seconds that a killed run may lose.", min=0)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run in the output folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the model in the output folder.")]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Only say how long it would take and what memory, from a few steps.")
]


def split_fractions(test: float, validation: float) -> tuple[float, float, float]:
    """The shares of training, test and validation. Raises SettingsError where nothing is left to train on."""
    if test + validation >= 1:
        raise SettingsError(
            f"--test-share and --validation-share: expected less than 1 together, got {test} and {validation}."
        )
    return (round(1 - test - validation, 12), test, validation)


def generation_settings(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
    seed: int,
    stop: list[str] | None,
    logprobs: int | None = None,
) -> GenerationSettings:
    """How to decode, from the options above. Raises SettingsError that names every wrong one."""
    return validate_settings(
        GenerationSettings,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        logprobs=logprobs,
    )


def validate_settings(kind: type[Settings], *, prefix: str = "", **values: object) -> Settings:
    """Settings of that kind. Raises SettingsError that names every wrong option as it is typed, `--prefix-name`."""
    if "template" in values:
        get_template(str(values["template"]))
    try:
        return kind(**values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = "--" + prefix + str(fault["loc"][0]).replace("_", "-")
            message = fault["msg"].removeprefix("Input should be ").removeprefix("String should have ")
            faults.append(f"{name}: expected {message}, got {fault['input']!r}.")
        raise SettingsError("\n".join(faults)) from error


def lora_settings(rank: int, alpha: float, modules: str) -> LoraSettings:
    """The small matrices, from the options above. Raises SettingsError that names every wrong one."""
    names = tuple(name.strip() for name in modules.split(",") if name.strip())
    return validate_settings(LoraSettings, prefix="lora-", rank=rank, alpha=alpha, modules=names)


def book_recipe(given: FinetuneSettings) -> FinetuneSettings:
    """The book's settings, with those of `given` that do not change the weights a step leads to.

    Raises:
        SettingsError: an option was given that the book's recipe does not leave open.
    """
    plain = FinetuneSettings()
    changed = {name for name in FinetuneSettings.model_fields if getattr(given, name) != getattr(plain, name)}
    free = {"epochs", "max_steps", "validate_every", "validation_answers"}
    refused = [name for name in sorted(changed - free) if getattr(given, name) != getattr(BOOK, name)]
    if refused:
        names = ", ".join("--" + name.replace("_", "-") for name in refused)
        raise SettingsError(f"--book: expected none of the options that the recipe sets, got {names}. Leave one out.")
    return BOOK.model_copy(update={name: getattr(given, name) for name in free})
