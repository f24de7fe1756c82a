"""Options of the command lines: those that several commands share, and how options become validated settings."""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from assistant.config import BOOK, FinetuneSettings, GenerationSettings
from assistant.errors import SettingsError
from assistant.prompts import get_template

Settings = TypeVar("Settings", bound=BaseModel)

ANSWER = GenerationSettings()

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
Stop = Annotated[list[str] | None, typer.Option(help="End the reply before this text; may be repeated.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn by chance.")]
TestShare = Annotated[float, typer.Option(help="Part of the rows kept for testing.", min=0, max=1)]
ValidationShare = Annotated[float, typer.Option(help="Part that the best weights are chosen by.", min=0, max=1)]


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
    return make_settings(
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


def make_settings(kind: type[Settings], *, prefix: str = "", **values: object) -> Settings:
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
