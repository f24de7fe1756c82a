"""`assistant export`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import invoke
from tests.support.ollama_double import OllamaDouble

pytest.importorskip("gguf", reason="the package gguf is not installed")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_gguf_prints_what_it_wrote_and_what_to_type_next(folder: Path) -> None:
    before = files(folder)
    done = invoke("export", "base", "--to", "gguf", "--output", "base.gguf", "--quantization", "f32")
    assert done.exit_code == 0, done.output
    wrote, checked, following = done.stdout.splitlines()
    assert wrote.startswith("Wrote base.gguf (0.")
    assert wrote.endswith(" MB, f32) and base.Modelfile.")
    assert checked == "Read back: 28 tensors and 257 tokens are right, every weight to the bit."
    assert following == "Next: llama-cli -m base.gguf  or  ollama create base -f base.Modelfile"
    assert files(folder) - before == {"base.gguf", "base.Modelfile"}
    assert Path("base.Modelfile").read_text(encoding="utf-8").startswith("FROM ./base.gguf\nTEMPLATE ")


def test_rounding_is_named(folder: Path) -> None:
    done = invoke("export", "base", "--to", "gguf", "-o", str(folder), "--quantization", "q8_0", "--json")
    facts = json.loads(done.stdout)
    assert facts["path"] == str(folder / "base.gguf")  # a folder gets a file with the model's name
    assert (facts["quantization"], facts["n_tensors"], facts["notes"]) == ("q8_0", 28, [])
    assert "rounding to q8_0 changed a weight by at most 0.000" in facts["checked"]


@pytest.mark.parametrize("existing", ["base.gguf", "base.Modelfile", "dangling"])
def test_nothing_is_replaced_without_overwrite(folder: Path, existing: str) -> None:
    if existing == "dangling":
        (folder / "base.gguf").symlink_to("nowhere")
    else:
        (folder / existing).write_text("mine")
    words = ("export", "base", "--to", "gguf", "--output", "base.gguf")
    done = invoke(*words)
    assert done.exit_code == 2
    assert "which exists. Name another file, or replace it with --overwrite." in done.stderr
    assert invoke(*words, "--overwrite").exit_code == 0
    assert (folder / "base.gguf").read_bytes().startswith(b"GGUF")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--to", "gguf"), 2, "--output: expected a file for --to gguf, got nothing."),
        (("--to", "gguf", "-o", "x.gguf", "--name", "n"), 2, "--name: expected --to ollama, got --to gguf."),
        (("--to", "gguf", "-o", "x.gguf", "--host", "h"), 2, "--host: expected --to ollama, got --to gguf."),
        (("--to", "ollama", "--name", "a b"), 2, "--name: expected a model name such as mine or mine:v2, got 'a b'."),
        (("--to", "ollama", "--host", "ftp://x"), 2, "--host: expected an address"),
        (("--to", "ollama", "--host", "127.0.0.1:9"), 1, "http://127.0.0.1:9: expected an Ollama server"),
        (("--to", "gguf", "-o", "rows.json/x.gguf"), 1, "rows.json/x.gguf: expected to write the file, got: "),
        (("--to", "gguf", "-o", "x.gguf", "--stop", '"'), 2, "--stop: expected a text that a Modelfile can hold"),
        (("--to", "gguf", "-o", "x.gguf", "--temperature", "-1"), 2, "--temperature: expected greater than"),
    ],
)
def test_errors_are_sentences(folder: Path, words: tuple[str, ...], code: int, sentence: str) -> None:
    before = files(folder)
    done = invoke("export", "base", *words)
    assert done.exit_code == code, done.output
    assert sentence in done.stderr
    assert files(folder) == before


def test_ollama_gets_the_model_and_the_options(folder: Path) -> None:
    before = files(folder)
    with OllamaDouble(()) as double:
        done = invoke("export", "base", "--to", "ollama", "--host", double.url, "--temperature", "0.5")
        assert done.exit_code == 0, done.output
        parameters = double.models["base:latest"].parameters
        assert (parameters["temperature"], parameters["num_ctx"], parameters["repeat_penalty"]) == (0.5, 256, 1.0)
        again = invoke("export", "base", "--to", "ollama", "--host", double.url)
        assert again.exit_code == 2
        assert "--name: expected a name that" in again.stderr
        words = ("--overwrite", "--output", "kept.gguf", "--json")
        kept = json.loads(invoke("export", "base", "--to", "ollama", "--host", double.url, *words).stdout)
    checked, loads, following = done.stdout.splitlines()
    assert checked.startswith("Read back: 28 tensors")
    assert loads == f"Uploaded; {double.url} loads base and renders prompts as we do."
    assert following == "Next: ollama run base"
    assert "  success" in done.stderr.splitlines()
    assert (kept["name"], kept["uploaded"], kept["next"]) == ("base", False, "ollama run base")
    assert files(folder) - before == {"kept.gguf", "kept.Modelfile"}


def test_the_books_weights_go_out_and_come_back(folder: Path) -> None:
    written = invoke("export", "base", "--to", "pth", "--output", "base.pth")
    assert written.exit_code == 0, written.stderr
    assert "Next: assistant import base.pth --output base" in written.stdout
    refused = invoke("export", "base", "--to", "pth", "--output", "base.pth")
    assert refused.exit_code == 2
    assert "replace it with --overwrite" in refused.stderr
    assert invoke("export", "base", "--to", "pth", "--output", "base.pth", "--overwrite").exit_code == 0
    read = invoke("import", "base.pth", "--output", "back")
    assert read.exit_code == 0, read.stderr
    assert (folder / "back" / "model.safetensors").read_bytes() == (folder / "base" / "model.safetensors").read_bytes()
