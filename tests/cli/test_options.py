"""Options come from the fields of settings models, and from nowhere else."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pytest
import typer
import typer.main
from pydantic import Field
from typer.testing import CliRunner

import assistant.cli.app
import evaluation.cli
from assistant.cli.console import Commands
from assistant.cli.options import derive_options
from assistant.cli.prefer import DEFAULTS as PREFER_DEFAULTS
from assistant.settings import (
    EngineSettings,
    FinetuneSettings,
    GenerationSettings,
    Panel,
    RunSettings,
    Settings,
    SplitSettings,
)

FRUIT = Panel("Fruit")


class Inner(Settings):
    """A nested model."""

    rank: Annotated[int, Field(ge=1), FRUIT] = 8
    """Rank of the inner model."""


class Throwaway(Settings):
    """A model with a field of every kind."""

    apples: Annotated[int, Field(ge=1), FRUIT] = 3
    """Number of apples."""
    is_ripe: bool = False
    """Whether the fruit is ripe."""
    is_washed: bool = True
    """Whether the fruit is washed."""
    colour: Literal["red", "green"] = "red"
    """Colour of the apples."""
    weight: Annotated[float | None, Field(gt=0)] = None
    """Weight in grams."""
    names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """A name; may be repeated."""
    parts: tuple[Literal["skin", "core"], ...] = ("skin", "core")
    """Parts to eat, separated by commas."""
    inner: Inner | None = None
    """Use the inner model."""
    hidden: int = 1
    """Without an option."""


class Other(Settings):
    """A second model of the same command."""

    pears: Annotated[int, Field(ge=1)] = 2
    """Number of pears."""


received: list[Any] = []
app = typer.Typer(cls=Commands)


@app.command()
@derive_options(leave_out={"hidden"}, defaults={"apples": 5, "hidden": 7}, names={"is_ripe": "--ripe"})
def eat(throwaway: Throwaway, other: Other, plate: str = "blue") -> None:
    """Eat."""
    received[:] = [throwaway, other, plate]


@app.command()
def fast() -> None:
    """A second command, so that the first needs its name."""


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["eat", *words], env={"COLUMNS": "200", "TERM": "dumb"})


def test_the_command_gets_validated_settings() -> None:
    assert run().exit_code == 0
    assert received == [Throwaway(apples=5, hidden=7), Other(), "blue"]
    words = ("--apples", "9", "--ripe", "--no-is-washed", "--colour", "green", "--weight", "1.5", "--plate", "red")
    more = ("--names", "a", "--names", "b", "--parts", "core", "--inner", "--inner-rank", "2", "--pears", "4")
    assert run(*words, *more).exit_code == 0
    assert received == [
        Throwaway(
            apples=9, is_ripe=True, is_washed=False, colour="green", weight=1.5, names=("a", "b"), parts=("core",),
            inner=Inner(rank=2), hidden=7,
        ),
        Other(pears=4),
        "red",
    ]  # fmt: skip


def test_a_nested_model_needs_its_switch() -> None:
    assert run("--inner-rank", "2").exit_code == 0
    assert received[0].inner is None


def test_help_shows_docstrings_defaults_and_panels() -> None:
    text = run("--help").stdout
    fruit = text[text.index("─ Fruit ─") :]
    for words in ("--apples", "Number of apples.", "[default: 5]", "--inner-rank", "[default: 8]"):
        assert words in fruit
    assert "--hidden" not in text
    assert "--is-ripe" not in text
    assert re.search(r"--ripe .*Whether the fruit is ripe\.", text)
    assert re.search(r"--is-washed\s+--no-is-washed .*\[default: is-washed\]", text)
    assert re.search(r"--parts .*\[default: skin,core\]", text)


def test_range_errors_name_the_options_of_all_models() -> None:
    refused = run("--apples", "0", "--weight", "-1", "--names", "", "--parts", "skin,stone", "--pears", "0")
    assert refused.exit_code == 2
    for sentence in (
        "--apples: expected greater than or equal to 1, got 0.",
        "--weight: expected greater than 0, got -1.0.",
        "--names: expected at least 1 character, got ''.",
        "--parts: expected 'skin' or 'core', got 'stone'.",
        "--pears: expected greater than or equal to 1, got 0.",
    ):
        assert sentence in refused.stderr
    assert "--inner-rank: expected greater than" in run("--inner", "--inner-rank", "0").stderr


def command(program: Any, *words: str) -> dict[str, Any]:
    """The options of a command by their longest name."""
    found = typer.main.get_command(program)
    for word in words:
        found = found.commands[word]  # type: ignore[attr-defined]
    return {max(parameter.opts, key=len): parameter for parameter in found.params}


@pytest.mark.parametrize(
    ("program", "words", "models", "replaced"),
    [
        (assistant.cli.app.app, ("finetune",), (FinetuneSettings, SplitSettings, RunSettings), {}),
        (assistant.cli.app.app, ("prefer",), (FinetuneSettings, SplitSettings, RunSettings), PREFER_DEFAULTS),
        (assistant.cli.app.app, ("ask",), (GenerationSettings, EngineSettings), {}),
        (assistant.cli.app.app, ("chat",), (GenerationSettings, EngineSettings), {}),
        (evaluation.cli.app, ("respond",), (GenerationSettings, EngineSettings), {}),
        (assistant.cli.app.app, ("data", "split"), (SplitSettings,), {}),
    ],
)
def test_no_option_is_declared_a_second_time(
    program: Any, words: tuple[str, ...], models: tuple[type[Settings], ...], replaced: dict[str, Any]
) -> None:
    options, n_derived = command(program, *words), 0
    for model in models:
        for name, field in model.model_fields.items():
            option = options.get(f"--{name.replace('_', '-')}")
            if option is None or not isinstance(field.default, int | float | str):
                continue
            if (model, name) == (FinetuneSettings, "template") and words == ("prefer",):
                continue  # by default the template that the model was trained with
            n_derived += 1
            assert option.help == field.description, name
            assert option.default == replaced.get(name, field.default), name
    assert n_derived >= 3


def test_finetune_lists_its_options_by_subject() -> None:
    env = {"COLUMNS": "200", "TERM": "dumb"}
    text = CliRunner().invoke(assistant.cli.app.app, ["finetune", "--help"], env=env).stdout
    panels = re.findall(r"─ ([A-Z][A-Za-z ]+) ─", text)
    assert panels == [
        "Arguments", "Options", "Data", "Batches", "Optimisation", "LoRA", "Speed and memory", "Validation", "Output",
    ]  # fmt: skip
    first = text[text.index("─ Options ─") : text.index("─ Data ─")]
    names = re.findall(r"--[a-z-]+", first)
    assert names[:5] == ["--model", "--output", "--epochs", "--learning-rate", "--batch-size"]
