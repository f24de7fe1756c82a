"""The command `evaluation` in this process, for its tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evaluation.cli import app as cli
from tests.support.ollama_double import OllamaDouble


@dataclass(frozen=True)
class CommandResult:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The value that the command printed with --json."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The last line on stderr. It must be an error without a traceback."""
        lines = self.err.strip().splitlines()
        assert lines[-1].startswith("error: "), self.err
        assert "Traceback" not in self.err
        return lines[-1]


def evaluation(*arguments: object) -> CommandResult:
    """Run a command in the current folder."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return CommandResult(result.exit_code, result.stdout, result.stderr)


def score(path: Path, double: OllamaDouble, *options: object) -> CommandResult:
    """Score answers with the judge of the double, without control items unless `options` ask for them."""
    return evaluation("score", path, "--judge", "llama3.1", "--host", double.url, "--json", "--controls", 0, *options)
