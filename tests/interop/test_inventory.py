"""`assistant models`: what is on this machine, damaged or not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.dataset.tokenizer import Tokenizer
from assistant.interop import hub as hub_module
from assistant.interop.inventory import LastScore, ModelEntry, list_models, read_last_score
from assistant.model.checkpoint import save_checkpoint
from assistant.model.heads import make_classifier
from assistant.shipped import find_model
from tests.conftest import REPOSITORY as CHECKOUT
from tests.interop.test_hub import Heard
from tests.support.commands import FINETUNE, invoke
from tests.support.hub_double import HubDouble
from tests.support.models import load_model, save_tiny, tiny_checkpoint


def entries(*roots: Path) -> dict[str, ModelEntry]:
    return {entry.name: entry for entry in list_models(roots or [Path()])}


def test_folders_runs_and_pocket_are_listed(cache: Path, byte_tokenizer: Tokenizer) -> None:
    del cache
    for name in ("base", "runs/mine", "demo/model", "elsewhere/deep"):
        save_tiny(Path(name), byte_tokenizer)
    (Path("website")).mkdir()
    Path("website/config.json").write_text('{"theme": "dark"}')
    found = entries()
    assert list(found) == ["base", "runs/mine", "demo/model", "pocket"]
    assert not any(entry.problem for entry in found.values())
    for name, entry in found.items():
        counted = sum(parameter.numel() for parameter in load_model(find_model(name)).parameters())
        assert entry.parameters == counted, name
    assert list(entries(Path("elsewhere"))) == ["elsewhere/deep", "pocket"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_is_counted(cache: Path, byte_tokenizer: Tokenizer, tied: bool) -> None:
    del cache
    save_tiny(Path("base"), byte_tokenizer, tie_word_embeddings=tied)
    counted = sum(parameter.numel() for parameter in load_model("base").parameters())
    assert entries()["base"].parameters == counted


def test_a_classifier_is_named_as_such(folder: Path, cache: Path, byte_tokenizer: Tokenizer) -> None:
    del folder, cache
    checkpoint = make_classifier(tiny_checkpoint(byte_tokenizer), ("a", "b"), seed=1)
    save_checkpoint(checkpoint, "labels")
    entry = entries()["labels"]
    assert (entry.origin, entry.problem) == ("classifier", None)
    assert entry.parameters == checkpoint.model.n_parameters


def test_a_run_names_its_base_its_template_and_its_score(folder: Path, cache: Path) -> None:
    rows = (folder / "rows.json").read_text()
    Path("rows.json").write_text(rows)
    base = str(folder / "base")
    done = invoke("finetune", "rows.json", "--model", base, "--output", "runs/mine", "--template", "phi3", *FINETUNE)
    assert done.exit_code == 0, done.output
    Path("runs/mine/scores.jsonl").write_text('{"mean": 10}\n{"mean": 72.5, "judge": "llama3.1", "rows": 30}\n{"mea')
    entry = entries()["runs/mine"]
    assert (entry.template, entry.origin) == ("phi3", "base, fine-tuned")
    assert entry.score == LastScore(mean=72.5, by="llama3.1")
    shown = invoke("models")
    assert "72.5 llama3.1" in shown.stdout
    del cache


def test_a_pulled_model_names_its_commit_and_other_commits_too(
    hub: HubDouble, tiny_files: dict[str, bytes], cache: Path
) -> None:
    first = hub_module.pull("gpt2", Heard())
    hub.add(first.repository, tiny_files | {"merges.txt": tiny_files["merges.txt"] + b"\n"})
    second = hub_module.pull("gpt2", Heard())
    old = f"gpt2@{first.commit[:12]}"
    found = entries()
    assert list(found) == ["gpt2", old, "pocket"]
    assert found["gpt2"].origin == f"hub, {second.repository} at {second.commit[:12]}"
    assert all(find_model(name) == entry.path for name, entry in found.items())
    (second.folder / "model.safetensors").unlink()
    broken = entries()["gpt2"]
    assert broken.problem is None  # the older commit is the model now
    assert broken.path == first.folder
    llama = cache / "models--me--llama" / "snapshots" / ("a" * 40)
    llama.mkdir(parents=True)
    (llama / "config.json").write_text('{"model_type": "bloom"}')
    assert "me/llama" not in entries()


def test_a_download_that_was_cut_says_how_to_go_on(cache: Path, tiny_files: dict[str, bytes]) -> None:
    folder = cache / "models--openai-community--gpt2" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(tiny_files["config.json"])
    assert entries()["gpt2"].problem == "no weights; run: assistant pull gpt2"


def damaged(folder: Path, kind: str) -> None:
    config, weights, info = (folder / name for name in ("config.json", "model.safetensors", "assistant.json"))
    match kind:
        case "no config":
            config.unlink()
        case "torn config":
            config.write_text('{"model_type": "gp')
        case "deep config":
            config.write_text("[" * 100_000)
        case "bloom":
            config.write_text('{"model_type": "bloom"}')
        case "bad field":
            config.write_text('{"model_type": "gpt2", "n_layer": -1}')
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "empty weights":
            weights.write_bytes(b"")
        case "long header":
            weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
        case "torn header":
            weights.write_bytes((8).to_bytes(8, "little") + b'{"a": [}')
        case "odd header":
            weights.write_bytes((10).to_bytes(8, "little") + b'{"a": [1]}')
        case "info":
            info.write_text('{"format": 1}')
        case "index":
            weights.rename(folder / "model-00001-of-00002.safetensors")
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../../etc/passwd"}})
            )


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("no config", "no config.json"),
        ("torn config", "config.json is not JSON"),
        ("deep config", "config.json is not JSON"),
        ("bloom", "not a gpt2, llama, qwen2, qwen3 but bloom"),
        ("bad field", "config.json: n_layer: input should be greater than or equal to 1"),
        ("cut weights", "model.safetensors was cut: 170,151 of 170,152 bytes"),
        ("empty weights", "model.safetensors is damaged or cut"),
        ("long header", "model.safetensors is damaged or cut"),
        ("torn header", "model.safetensors is damaged"),
        ("odd header", "model.safetensors is damaged"),
        ("info", "assistant.json: base_model: field required"),
        ("index", "no ../../etc/passwd"),
    ],
)
def test_a_damaged_folder_is_listed_with_what_is_wrong(
    cache: Path, byte_tokenizer: Tokenizer, kind: str, problem: str
) -> None:
    del cache
    save_tiny(Path("mine"), byte_tokenizer)
    damaged(Path("mine"), kind)
    done = invoke("models")
    assert done.exit_code == 0, done.output
    assert f"cannot be used: {problem}" in done.stdout
    assert json.loads(invoke("models", "--json").stdout)["models"][0]["problem"] == problem


def test_hostile_names_and_texts_are_escaped(cache: Path, byte_tokenizer: Tokenizer) -> None:
    del cache
    save_tiny(Path("a\x1b[31m"), byte_tokenizer)
    (Path("a\x1b[31m") / "scores.jsonl").write_text(json.dumps({"mean": 1, "judge": "\x1b]0;x\x07"}))
    shown = invoke("models").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize(
    "text", ["", "\n", "[]", "{", '{"mean": null}', '{"mean": NaN}', '{"mean": true}', "[" * 5000, "\xff"], ids=range(9)
)
def test_scores_of_another_form_are_no_score(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.jsonl").write_bytes(text.encode("latin-1"))
    assert read_last_score(tmp_path) is None
    (tmp_path / "scores.jsonl").write_bytes(b'{"mean": 3, "metric": "chrf"}\n' + text.encode("latin-1"))
    assert read_last_score(tmp_path) == LastScore(mean=3.0, by="chrf")


def test_a_folder_that_is_missing(cache: Path) -> None:
    del cache
    done = invoke("models", "--dir", "nowhere")
    assert done.exit_code == 2
    assert "--dir: expected a folder, got nowhere" in done.stderr


def test_listing_loads_no_torch(cache: Path) -> None:
    del cache
    code = [sys.executable, "-X", "importtime", "-m", "assistant", "models", "--dir", str(CHECKOUT / "data")]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "huggingface_hub", "safetensors", "numpy"}
    assert "pocket" in done.stdout
