"""The options of a judge on the command line, for every command that asks one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from assistant.errors import SettingsError
from assistant.settings import validate_settings
from evaluation.judging.controls import ITEMS_PER_KIND
from evaluation.judging.judgement import JudgeSettings, ServerSettings
from evaluation.judging.rubric import Method, MethodName, Rubric


class JudgeOptions(ServerSettings):
    """Which judge a person asks, where, and how. The docstring under a field is the help text of its option."""

    judge: str | None = None
    """Model that judges the answers."""
    host: tuple[str, ...] = ()
    """Address of the judge's server; may be repeated. By default OLLAMA_HOST, or this machine."""
    method: MethodName = "explain"
    """explain: an analysis, then a score from 0 to 5; quick: the expected digit, one token; book: the book's prompt, 0
    to 100."""
    rubric: Path | None = None
    """File with your own scale and rules for the judge."""
    prompt: Path | None = None
    """File with your own prompt to the judge."""
    controls: Annotated[int, Field(ge=0)] = ITEMS_PER_KIND
    """Control items of each kind, which test the judge; 0 leaves it untested."""
    timeout: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 300.0
    """Seconds to wait for the next piece of a verdict."""

    def words(self) -> list[str]:
        """Return these options as words of a command line, without those that have their default."""
        words = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.default:
                for one in value if isinstance(value, tuple) else (value,):
                    words += [f"--{name.replace('_', '-')}", f"{one:g}" if isinstance(one, float) else str(one)]
        return words

    def settings(self) -> JudgeSettings:
        """Return the settings of this judge.

        Raises:
            SettingsError: no judge is named, an address is wrong, or OpenAI's API has none.
        """
        from assistant.ollama_server import find_host

        if self.judge is None or not self.judge.strip():
            given = "none" if self.judge is None else repr(self.judge)
            raise SettingsError(f"--judge: expected the name of a model, got {given}. Try: --judge llama3.1")
        if self.api == "openai" and not self.host:
            raise SettingsError("--api: expected --host with openai, got none. Add the server's address: --host URL")
        urls = list(dict.fromkeys(map(find_host, self.host))) if self.host else [find_host()]
        server = {name: getattr(self, name) for name in ServerSettings.model_fields}
        limits = {
            "first_byte_timeout_s": self.timeout,
            "silence_timeout_s": self.timeout,
            "deadline_s": 3 * self.timeout,
        }
        return validate_settings(JudgeSettings, {"model": self.judge.strip(), "urls": urls, **server, **limits})

    def read_method(self) -> Method:
        """Return how the judge is asked about a row.

        Raises:
            DataError: a file cannot be read, or is not a rubric or a prompt.
            SettingsError: the book's method has no place for them.
        """
        from evaluation.judging.rubric_files import read_rubric, read_template

        return Method(
            name=self.method,
            rubric=Rubric() if self.rubric is None else read_rubric(self.rubric),
            template=None if self.prompt is None else read_template(self.prompt),
        )
