"""What the tests of the command share: the current folder, an Ollama double, and a file of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.judging import calls
from tests.support.ollama_double import OllamaDouble, verdict


async def do_not_wait(_seconds: float) -> None:
    """Take the place of the pause between tries."""


@pytest.fixture
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put default folders under the test's own folder, and do not wait between tries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(calls, "sleep", do_not_wait)


@pytest.fixture
def double() -> Iterator[OllamaDouble]:
    with OllamaDouble(default=verdict(3)) as running:
        yield running


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A file of twelve answers: two exact, one empty, nine that need a judge."""
    rows = [
        {"instruction": f"Question {number}?", "output": f"Answer {number}.", "model_response": f"Guess {number}."}
        for number in range(12)
    ]
    rows[0]["model_response"] = "\nAnswer 0."
    rows[1]["model_response"] = "Answer 1."
    rows[2]["model_response"] = " \n"
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path
