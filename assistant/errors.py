"""The errors that a user can cause. Commands and the chat show the message; commands also choose the exit code.

A message reads `<where>: <what was expected>, got <value>. <what to do next>`.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PROBLEMS_SHOWN = 20


class AssistantError(Exception):
    """Base class of all errors that a user can cause. `str(error)` is ready to show."""


class DataError(AssistantError, ValueError):
    """A file of instructions or responses is invalid.

    `problems` holds one sentence for every fault. `str(error)` shows the first `MAX_PROBLEMS_SHOWN` of them, and then
    always the `advice`: what to do about all of them.
    """

    def __init__(self, problems: str | Sequence[str], *, advice: str = "") -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        lines = list(self.problems[:MAX_PROBLEMS_SHOWN])
        hidden = len(self.problems) - MAX_PROBLEMS_SHOWN
        lines += [f"... and {hidden} more."] if hidden > 0 else []
        super().__init__("\n".join([*lines, advice] if advice else lines))


class SettingsError(AssistantError, ValueError):
    """An option has an invalid value, or two options contradict each other."""


class CheckpointError(AssistantError, ValueError):
    """A model folder cannot be read or written."""


class ContextError(AssistantError, ValueError):
    """A text does not fit into the model's context."""


class PrerequisiteError(AssistantError):
    """You must install, start or download something first. The message names the command."""


class ExportError(AssistantError):
    """A model cannot be written for another program or pushed to a server."""


class JudgeError(AssistantError):
    """The judge's server fails in a way that affects every row, not only one."""
