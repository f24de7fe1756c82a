"""`assistant doctor`."""

from __future__ import annotations

import json

import pytest

from tests.support.commands import invoke
from tests.support.ollama_double import OllamaDouble


def test_doctor_says_how_to_start_a_missing_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    done = invoke("doctor")
    assert done.exit_code == 0
    assert "--  ollama server" in done.stdout
    assert "`ollama serve`" in done.stdout
    as_json = json.loads(invoke("doctor", "--json").stdout)
    assert as_json["ollama server"]["ok"] is False
    assert as_json["torch"]["ok"] is True


def test_doctor_shows_no_escape_sequences_from_a_server() -> None:
    with OllamaDouble(models=("evil\x1b[2J:latest",)) as double:
        done = invoke("doctor", "--host", double.url)
    assert "evil" in done.stdout
    assert "\x1b" not in done.stdout
