"""The errors a person can cause. Every one is a sentence; the fronts print it and choose the exit code.

    AssistantError
    ├── DataError          a file of instructions or responses
    ├── SettingsError      an option, or options that contradict each other
    ├── CheckpointError    a model folder
    ├── ContextError       a text that does not fit into the model's context
    ├── PrerequisiteError  something that has to be installed, started or fetched first
    └── JudgeError         the judge's server

A message reads `<where>: <what was expected>, got <value>. <what to do next>`.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PROBLEMS_SHOWN = 20


class AssistantError(Exception):
    """Base of everything a person can cause. `str()` of it is ready to be shown."""


class DataError(AssistantError, ValueError):
    """A file of instructions or responses is not what it should be.

    `problems` holds every fault found, one sentence each; `str()` shows the first twenty.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        shown = "\n".join(self.problems[:MAX_PROBLEMS_SHOWN])
        hidden = len(self.problems) - MAX_PROBLEMS_SHOWN
        super().__init__(f"{shown}\n... and {hidden} more." if hidden > 0 else shown)


class SettingsError(AssistantError, ValueError):
    """An option has a value that cannot be used."""


class CheckpointError(AssistantError, ValueError):
    """A model folder cannot be read or written."""


class ContextError(AssistantError, ValueError):
    """A text does not fit into the model's context."""


class PrerequisiteError(AssistantError):
    """Something has to be installed, started or fetched first; the message names the command."""


class JudgeError(AssistantError):
    """The judge's server refused in a way that concerns every row, not one."""
