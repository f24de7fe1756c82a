"""Options of the command lines, derived from the settings models. No option is declared a second time.

A command names a settings model as the type of a parameter; `derive_options` replaces that parameter by one option for
each field, and calls the command with the validated settings.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from assistant.errors import SettingsError
from assistant.settings import (
    BOOK,
    FinetuneSettings,
    Panel,
    Settings,
    field_docstring,
    validate_settings,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
DataFiles = Annotated[
    list[Path],
    typer.Argument(
        help="Instruction files: JSON, JSONL, CSV, TSV or Parquet, also with .gz; folders of them; or - for stdin."
    ),
]
A_MODEL = "A model is a folder, a pulled model such as gpt2, or pocket."
"""For the help of every option that names a model."""
BaseModelFolder = Annotated[Path, typer.Option("--model", "-m", help=f"Model to start from. {A_MODEL}")]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the new model.")]
PlanOnly = Annotated[
    bool,
    typer.Option("--plan", help="Only forecast time and memory, from a few real steps.", rich_help_panel="Output"),
]
NOTHING: Mapping[str, Any] = MappingProxyType({})


def derive_options(
    *, leave_out: Collection[str] = (), defaults: Mapping[str, Any] = NOTHING, names: Mapping[str, str] = NOTHING
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for every field of the settings models among its parameters.

    Fields in `leave_out` get no option. `defaults` replaces the fields' defaults, also of fields that are left out.
    `names` gives a field another option, such as `{"split_seed": "--seed"}`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        models = {p.name: p.annotation for p in signature.parameters.values() if _is_settings(p.annotation)}
        derived = {name: list(_options_of(model, leave_out, defaults, names)) for name, model in models.items()}
        parameters = [one for p in signature.parameters.values() for one in derived.get(p.name, [p])]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            settings, problems = {}, []
            for name, model in models.items():
                try:
                    settings[name] = _collect(model, derived[name], given, defaults, names)
                except SettingsError as error:
                    problems.append(str(error))
            if problems:
                raise SettingsError("\n".join(problems))
            command(**{name: given[name] for name in signature.parameters if name not in models}, **settings)

        # typer reads the signature, and calls with keywords only.
        keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _options_of(
    model: type[BaseModel], leave_out: Collection[str], defaults: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[inspect.Parameter]:
    """The parameters for typer. One for a field of a nested model has the names of both fields."""
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        nested = _nested_model(field)
        default = defaults.get(name, field.default)
        option, text = _option_name(name, names), field_docstring(model, name)
        if nested is None:
            yield _parameter(name, option, text, field, field.annotation, default)
            continue
        yield _parameter(name, option, text, field, bool, default is not None)
        inner_defaults = nested() if default is None else default
        for inner_name, inner in nested.model_fields.items():
            inner_option = f"{option}-{inner_name.replace('_', '-')}"
            inner_default = getattr(inner_defaults, inner_name)
            inner_text = field_docstring(nested, inner_name)
            yield _parameter(f"{name}_{inner_name}", inner_option, inner_text, inner, inner.annotation, inner_default)


def _option_name(field: str, names: Mapping[str, str]) -> str:
    return names.get(field, f"--{field.replace('_', '-')}")


def _parameter(
    name: str, option: str, help_text: str | None, field: FieldInfo, annotation: Any, default: Any
) -> inspect.Parameter:
    """A field as a parameter that typer understands, without its range: the settings model checks that."""
    kind = _without_metadata(annotation)
    flags = [option]
    if kind is bool and default:
        flags = [f"{option}/--no-{option.removeprefix('--')}"]
    elif get_origin(kind) is tuple:
        is_choice = get_origin(get_args(kind)[0]) is Literal
        kind = str if is_choice else list[str] | None
        default = ",".join(default) if is_choice else list(default)  # choices are separated by commas, texts repeated
    panel = next((entry.title for entry in field.metadata if isinstance(entry, Panel)), None)
    info = typer.Option(*flags, help=help_text, rich_help_panel=panel)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _collect(
    model: type[Settings],
    parameters: list[inspect.Parameter],
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    names: Mapping[str, str],
) -> Settings:
    """The settings that the given options make. Raises SettingsError that names every wrong option."""
    values = {name: value for name, value in defaults.items() if name in model.model_fields}
    default_of = {parameter.name: parameter.default for parameter in parameters}
    for name, field in model.model_fields.items():
        if name not in default_of:
            continue
        nested, switch = _nested_model(field), _option_name(name, names)
        if nested is None:
            values[name] = _value(field, given[name])
            continue
        inner = {key: given[f"{name}_{key}"] for key in nested.model_fields}
        lone = [key for key, value in inner.items() if value != default_of[f"{name}_{key}"]]
        if lone and not given[name]:
            flag = f"{switch}-{lone[0].replace('_', '-')}"
            raise SettingsError(f"{flag}: expected {switch} beside it, got {flag} alone. Add {switch}.")
        fields = {key: _value(nested.model_fields[key], value) for key, value in inner.items()}
        prefix = switch.removeprefix("--") + "-"
        values[name] = validate_settings(nested, fields, prefix=prefix) if given[name] else None
    return validate_settings(model, values, names=names)


def _value(field: FieldInfo, given: Any) -> Any:
    """The typed value in the form that the field accepts."""
    if get_origin(_without_metadata(field.annotation)) is not tuple:
        return given
    if isinstance(given, str):
        return tuple(part.strip() for part in given.split(",") if part.strip())
    return tuple(given or ())


def _without_metadata(annotation: Any) -> Any:
    """A type without the metadata that `Annotated` adds, because the settings model checks ranges."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _without_metadata(arguments[0])
    if origin in (Union, UnionType):
        return Union[tuple(_without_metadata(argument) for argument in arguments)]  # noqa: UP007 - made at run time
    if origin is tuple:
        return tuple.__class_getitem__((_without_metadata(arguments[0]), ...))
    return annotation


def _nested_model(field: FieldInfo) -> type[Settings] | None:
    """The model of a field such as `LoraSettings | None`, else None."""
    return next((kind for kind in get_args(_without_metadata(field.annotation)) if _is_settings(kind)), None)


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def book_recipe(
    given: FinetuneSettings, *, recipe: FinetuneSettings = BOOK, defaults: Mapping[str, Any] = NOTHING
) -> FinetuneSettings:
    """The book's settings, with the values of `given` for fields that the recipe leaves open.

    `defaults` are those of the command, where they differ from those of the fields. The fields of a classifier count as
    options of their own.

    Raises:
        SettingsError: `given` changes a field that the recipe sets to another value.
    """
    changed = _changed(given, {"classifier": given.classifier, **defaults})
    free = {"epochs", "max_steps", "validate_every", "validation_answers"}
    wrong = [name for name in sorted(changed - free) if getattr(given, name) != getattr(recipe, name)]
    if given.classifier is not None and recipe.classifier is not None:
        for name in sorted(_changed(given.classifier, defaults)):
            wrong += [name] if getattr(given.classifier, name) != getattr(recipe.classifier, name) else []
    if wrong:
        names = ", ".join("--" + name.replace("_", "-") for name in wrong)
        raise SettingsError(f"--book: expected no other option that the recipe sets, got {names}. Leave one out.")
    return recipe.model_copy(update={name: getattr(given, name) for name in free})


def _changed(given: Settings, defaults: Mapping[str, Any]) -> set[str]:
    """The fields whose value is not their default, or the one in `defaults`."""
    fields = type(given).model_fields
    unchanged = type(given)(**{name: value for name, value in defaults.items() if name in fields})
    return {name for name in fields if getattr(given, name) != getattr(unchanged, name)}
