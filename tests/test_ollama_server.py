"""The address of the Ollama server, and the probe."""

from __future__ import annotations

import pytest

from assistant.cli.doctor import examine
from assistant.errors import SettingsError
from assistant.ollama_server import find_host, is_loopback, probe_server
from tests.support.ollama_double import OllamaDouble


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("localhost", "http://localhost:11434"),
        (" '0.0.0.0' ", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ('"192.168.1.5:99"', "http://192.168.1.5:99"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("[::]:1234", "http://[::1]:1234"),
        ("::1", "http://[::1]:11434"),
        (":56789", "http://127.0.0.1:56789"),
        ("example.com:56789/", "http://example.com:56789"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ('"http://127.0.0.1:11434"', "http://127.0.0.1:11434"),
    ],
)
def test_find_host_accepts_the_same_addresses_as_ollama(monkeypatch: pytest.MonkeyPatch, value: str, url: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value)
    assert find_host() == url
    monkeypatch.setenv("OLLAMA_HOST", "other:1")
    assert find_host(value or None) == (url if value else "http://other:1")


@pytest.mark.parametrize(
    "value", ["localhost:99999", "ftp://x", "a b", "x:abc", "u:p@h", "h?q=1", "h:0", "http://[::1"]
)
def test_invalid_address_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(SettingsError, match="--host: expected an address such as"):
        find_host(value)
    monkeypatch.setenv("OLLAMA_HOST", value)
    with pytest.raises(SettingsError, match="OLLAMA_HOST: expected an address such as"):
        find_host()


def test_is_loopback() -> None:
    for url in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"):
        assert is_loopback(url)
    assert not is_loopback("http://box:1")


def test_probe_of_a_server_and_of_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # The probe must bypass it.
    with OllamaDouble(models=("llama3.1:latest",)) as double:
        status = probe_server(double.url)
        assert status.version
        assert status.models == ("llama3.1:latest",)
        findings = {finding.name: finding for finding in examine(double.url)}
        assert findings["ollama server"].ok
        assert "llama3.1" in findings["ollama models"].found
    assert probe_server(double.url).version is None
    finding = examine(double.url)[-1]
    assert not finding.ok
    assert "`ollama serve`" in finding.advice
    assert "`ollama pull llama3.1`" in finding.advice


def test_doctor_advises_to_pull_a_model_if_there_is_none() -> None:
    with OllamaDouble(models=()) as double:
        finding = examine(double.url)[-1]
    assert (finding.name, finding.ok, finding.found) == ("ollama models", False, "none")
    assert "`ollama pull llama3.1`" in finding.advice
