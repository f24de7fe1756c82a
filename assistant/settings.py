"""Options of a command line as validated settings."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from assistant.errors import SettingsError
from assistant.prompts import get_template

Settings = TypeVar("Settings", bound=BaseModel)


def make_settings(kind: type[Settings], **values: object) -> Settings:
    """Settings of that kind. Raises SettingsError that names every wrong option as it is typed."""
    if "template" in values:
        get_template(str(values["template"]))
    try:
        return kind(**values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = "--" + str(fault["loc"][0]).replace("_", "-")
            message = fault["msg"].removeprefix("Input should be ")
            faults.append(f"{name}: expected {message}, got {fault['input']!r}.")
        raise SettingsError("\n".join(faults)) from error
