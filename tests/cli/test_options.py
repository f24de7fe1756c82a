"""Options come from the fields of settings models, and from nowhere else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
import typer
import typer.main
from pydantic import Field
from pydantic._internal._docs_extraction import extract_docstrings_from_cls
from typer.testing import CliRunner

import assistant.cli.app
import evaluation.cli.app
from assistant.cli.console import Commands
from assistant.cli.options import derive_options
from assistant.cli.prefer import DEFAULTS as PREFER_DEFAULTS
from assistant.settings import (
    ClassifierSettings,
    DataSettings,
    EngineSettings,
    FinetuneSettings,
    GenerationSettings,
    LoraSettings,
    Panel,
    RunSettings,
    Settings,
    SplitSettings,
)
from evaluation.judging.judge_options import JudgeOptions

PROGRAMS = {"assistant": assistant.cli.app.app, "evaluation": evaluation.cli.app.app}
TRAINING = (FinetuneSettings, SplitSettings, RunSettings, DataSettings)
DECODING = (GenerationSettings, EngineSettings)
OTHER_MEANING = {
    ("assistant prefer", "--template"),
    ("assistant finetune", "--template"),
    ("assistant chat", "--seed"),
    ("assistant chat", "--resume"),
    ("assistant data split", "--overwrite"),
    ("assistant data split", "--seed"),
    ("assistant data check", "--seed"),
    ("assistant data convert", "--overwrite"),
    ("assistant export", "--overwrite"),
    ("assistant import", "--max-length"),
    ("assistant classify train", "--columns"),
    ("assistant classify train", "--learning-rate"),
    ("assistant classify predict", "--columns"),
    ("assistant classify predict", "--overwrite"),
    ("evaluation respond", "--batch-size"),
    ("assistant doctor", "--host"),
    ("assistant export", "--host"),
    ("evaluation label", "--seed"),
    ("evaluation pairs", "--overwrite"),
}
"""Options that have the name of a setting, and are not it."""
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
    shops: tuple[str, ...] = ("market", "farm")
    """A shop; may be repeated."""
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
@derive_options(
    leave_out={"hidden"},
    defaults={"apples": 5, "hidden": 7},
    names={"is_ripe": "--ripe", "weight": "--grams", "inner": "--centre"},
)
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
    words = (
        "--apples 9 --ripe --no-is-washed --colour green --grams 1.5 --names a --names b --shops mill --parts core "
        "--centre --centre-rank 2 --pears 4 --plate red"
    )
    assert run(*words.split()).exit_code == 0
    assert received == [
        Throwaway(
            apples=9, is_ripe=True, is_washed=False, colour="green", weight=1.5, names=("a", "b"), shops=("mill",),
            parts=("core",), inner=Inner(rank=2), hidden=7,
        ),
        Other(pears=4),
        "red",
    ]  # fmt: skip


def test_a_nested_model_needs_its_switch() -> None:
    assert run("--centre-rank", "8").exit_code == 0  # the default changes nothing
    assert received[0].inner is None
    done = run("--centre-rank", "2")
    assert done.exit_code != 0
    assert "--centre-rank: expected --centre beside it, got --centre-rank alone." in f"{done.output}{done.exception}"


def test_help_shows_types_docstrings_defaults_and_panels() -> None:
    text = run("--help").stdout
    fruit = text[text.index("─ Fruit ─") :]
    for words in ("--apples", "Number of apples.", "[default: 5]", "--centre-rank", "[default: 8]"):
        assert words in fruit
    kinds = {
        "apples": "int", "ripe": "bool", "colour": "red|green", "grams": "float", "names": "list[str]", "parts": "str",
        "centre": "bool", "centre-rank": "int", "pears": "int",
    }  # fmt: skip
    for name, kind in kinds.items():
        assert re.search(rf"--{name} +<{re.escape(kind)}>", text), name
    assert "--hidden" not in text
    for replaced in ("--is-ripe", "--weight", "--inner"):
        assert replaced not in text
    assert re.search(r"--ripe .*Whether the fruit is ripe\.", text)
    assert re.search(r"--is-washed\s+--no-is-washed .*\[default: is-washed\]", text)
    assert re.search(r"--shops .*\[default: market, farm\]", text)
    assert re.search(r"--parts .*\[default: skin,core\]", text)


def test_range_errors_name_the_options_of_all_models() -> None:
    refused = run("--apples", "0", "--grams", "-1", "--names", "", "--parts", "skin,stone", "--pears", "0")
    assert refused.exit_code == 2
    for sentence in (
        "--apples: expected greater than or equal to 1, got 0.",
        "--grams: expected greater than 0, got -1.0.",
        "--names: expected at least 1 character, got ''.",
        "--parts: expected 'skin' or 'core', got 'stone'.",
        "--pears: expected greater than or equal to 1, got 0.",
    ):
        assert sentence in refused.stderr
    assert "--centre-rank: expected greater than" in run("--centre", "--centre-rank", "0").stderr


def commands(program: str) -> Iterator[tuple[str, Any]]:
    """Every command of a program, such as `assistant data split`, and its click command."""
    found = [(program, typer.main.get_command(PROGRAMS[program]))]
    for name, command in found:
        below: dict[str, Any] = getattr(command, "commands", {})
        found += [(f"{name} {word}", child) for word, child in below.items()]
        if not below:
            yield name, command


def options(command: Any) -> dict[str, Any]:
    """The options of a click command by their longest name."""
    return {max(parameter.opts, key=len): parameter for parameter in command.params}


def fields(model: type[Settings]) -> Iterator[tuple[str, str, object]]:
    """The name of every field of a model and its nested models as an option, its docstring, and the option's default.

    pydantic reads the docstrings here.
    """
    docstrings: dict[str, str] = {}
    for kind in reversed([kind for kind in model.__mro__ if issubclass(kind, Settings)]):
        docstrings |= extract_docstrings_from_cls(kind, use_inspect=True)
    for name, field in model.model_fields.items():
        option, default, text = f"--{name.replace('_', '-')}", field.default, docstrings[name]
        if name == "lora":
            yield option, text, default is not None
            for inner, inner_text, inner_default in fields(LoraSettings):
                yield f"{option}-{inner[2:]}", inner_text, inner_default
        elif isinstance(default, tuple):
            yield option, text, ",".join(default) or None  # repeated or separated by commas
        else:
            yield option, text, default


@pytest.mark.parametrize(
    ("name", "models", "left_out", "replaced"),
    [
        ("assistant finetune", TRAINING, {"--beta", "--classifier", "--template"}, {}),
        (
            "assistant prefer",
            TRAINING,
            {
                "--book",
                "--classifier",
                "--freeze-embeddings",
                "--loss-per",
                "--optimizer",
                "--split",
                "--train-on",
                "--template",
            },
            {f"--{name.replace('_', '-')}": default for name, default in PREFER_DEFAULTS.items()},
        ),
        ("assistant ask", DECODING, set(), {}),
        ("assistant chat", DECODING, {"--logprobs", "--seed"}, {}),
        ("evaluation respond", (*DECODING, DataSettings), {"--logprobs", "--device"}, {}),
        ("evaluation score", (JudgeOptions, DataSettings), set(), {}),
        ("evaluation check-judge", (JudgeOptions, DataSettings), set(), {}),
        ("assistant data split", (SplitSettings, DataSettings), {"--split-seed"}, {}),
    ],
)
def test_every_setting_of_a_command_is_an_option(
    name: str, models: tuple[type[Settings], ...], left_out: set[str], replaced: dict[str, Any]
) -> None:
    """The option has the field's docstring as its help, and the field's default."""
    found = options(dict(commands(name.split()[0]))[name])
    for option, text, default in (entry for model in models for entry in fields(model)):
        if option not in left_out:
            assert found[option].help == text
            assert (found[option].default or None) == (replaced.get(option, default) or None), option
            assert found[option].required is False


@pytest.mark.parametrize("name", [name for program in PROGRAMS for name, _ in commands(program)])
def test_no_option_is_declared_a_second_time(name: str) -> None:
    """An option that is named like a setting is that setting: it has its help."""
    settings = defaultdict(set)
    for model in (*TRAINING, ClassifierSettings, *DECODING, JudgeOptions):
        for option, text, _ in fields(model):
            settings[option].add(text)
    for option, parameter in options(dict(commands(name.split()[0]))[name]).items():
        if option in settings and (name, option) not in OTHER_MEANING:
            assert parameter.help in settings[option], option


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
