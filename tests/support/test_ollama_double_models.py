"""Ollama double: models are listed, loaded, pulled and created."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests.support.ollama_calls import MODEL, QUESTION, ask, ask_streaming, connect, error_text, ndjson_lines
from tests.support.ollama_double import Answer, OllamaDouble, load_failed

# --- list, load and pull ------------------------------------------------------------------------------------------


def test_root_and_version_answer_get_and_head(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert list(http.get("/api/version").json()) == ["version"]
    for path in ("/", "/api/version", "/api/tags"):
        head, get = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]


def test_tags_lists_the_installed_models(double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == "llama3.1:latest"
    assert listed.digest == hashlib.sha256(b"llama3.1:latest").hexdigest()
    (entry,) = http.get("/api/tags").json()["models"]
    keys = ["name", "model", "modified_at", "size", "digest", "details", "capabilities"]
    assert list(entry) == keys
    double.install("llama3.1", digest="0" * 64)
    double.install("other:1b", "completion", "tools")
    assert [model.digest == "0" * 64 for model in client.list().models] == [True, False]
    double.remove("llama3.1")
    with pytest.raises(ollama.ResponseError, match=r"model 'llama3\.1' not found"):
        ask(client)


def test_show_describes_a_model(client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 131072
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("nope")
    assert (caught.value.status_code, caught.value.error) == (404, "model 'nope:latest' not found")


def test_models_are_loaded_reloaded_and_unloaded(double: OllamaDouble, client: ollama.Client) -> None:
    assert client.ps().models == []
    response = client.chat(MODEL, [], options={"num_ctx": 2048})
    assert (response.done, response.done_reason) == (True, "load")
    assert client.ps().models[0].context_length == 2048
    ask(client, options={"num_ctx": 2048, "seed": 1})
    assert double.loads == ["llama3.1:latest"]
    ask(client, options={"num_ctx": 1024})  # other runner options: a full reload
    assert double.loads == ["llama3.1:latest"] * 2
    assert client.ps().models[0].context_length == 1024
    assert client.chat(MODEL, [], keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    ask(client, options={"num_ctx": 10**9}, keep_alive="-1m")
    assert client.ps().models[0].context_length == 131072  # capped without a word
    ask(client, keep_alive=0)
    assert client.ps().models == []


def test_cold_load_takes_load_seconds() -> None:
    with (
        OllamaDouble(load_seconds=0.1) as double,
        connect(double) as client,
    ):
        started = time.monotonic()
        assert (ask(client).load_duration or 0) >= 100_000_000
        assert time.monotonic() - started >= 0.1
        assert (ask(client).load_duration or 0) < 100_000_000
        double.enqueue(Answer("slow", load_seconds=0.05, delay=0.05, between=0.01))
        started = time.monotonic()
        assert (ask_streaming(client)[-1].load_duration or 0) >= 50_000_000
        assert time.monotonic() - started >= 0.1


def test_load_can_fail(double: OllamaDouble, client: ollama.Client) -> None:
    double.enqueue_load(load_failed("out of memory"))
    with pytest.raises(ollama.ResponseError, match="out of memory"):
        client.chat(MODEL, [])
    assert client.chat(MODEL, []).done_reason == "load"


def test_generate_answers_loads_and_refuses(double: OllamaDouble, client: ollama.Client, http: httpx.Client) -> None:
    double.default = Answer("Some text.", thinking="Hm.")
    response = client.generate(MODEL, "Say something.")
    assert (response.response, response.thinking, response.done) == ("Some text.", "Hm.", True)
    parts = list(client.generate(MODEL, "Say something.", stream=True))
    assert "".join(part.response or "" for part in parts) == "Some text."
    assert client.generate(MODEL, "").done_reason == "load"
    refused = http.post("/api/generate", json={"model": MODEL, "prompt": "x", "raw": True, "system": "y"})
    assert error_text(refused) == "raw mode does not support template, system, or context"
    missing = http.post("/api/generate", json={"prompt": "x"})
    assert (missing.status_code, error_text(missing)) == (404, "model '' not found")


def test_pull_installs_a_model_of_the_registry() -> None:
    with (
        OllamaDouble((), registry=("tiny",)) as double,
        connect(double) as client,
    ):
        steps = [step.status for step in client.pull("tiny", stream=True)]
        assert steps[0] == "pulling manifest"
        assert steps[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        assert client.list().models[0].model == "tiny:latest"
        unknown = client.pull("nope", stream=True)
        assert next(unknown).status == "pulling manifest"
        text = "pull model manifest: file does not exist"
        with pytest.raises(ollama.ResponseError, match=text) as caught:
            next(unknown)
        assert caught.value.status_code == -1
        with pytest.raises(ollama.ResponseError, match=text) as caught:
            client.pull("nope")
        assert caught.value.status_code == 500


# --- create -------------------------------------------------------------------------------------------------------


def test_blobs_are_stored_under_their_digest(double: OllamaDouble, http: httpx.Client) -> None:
    digest = f"sha256:{hashlib.sha256(b'some bytes').hexdigest()}"
    wrong = f"sha256:{'0' * 64}"
    assert http.head("/api/blobs/sha256:zz").status_code == 400
    assert http.head(f"/api/blobs/{digest}").status_code == 404
    malformed = http.post("/api/blobs/sha256:zz", content=b"some bytes")
    assert (malformed.status_code, error_text(malformed)) == (400, "invalid digest format")
    mismatch = http.post(f"/api/blobs/{wrong}", content=b"some bytes")
    assert error_text(mismatch) == f'digest mismatch, expected "{wrong}", got "{digest}"'
    assert http.head(f"/api/blobs/{digest}").status_code == 200  # stored under its true digest
    del double.blobs[digest]
    stored = http.post(f"/api/blobs/{digest}", content=iter([b"some ", b"bytes"]))  # a chunked body
    assert (stored.status_code, stored.content) == (201, b"")
    assert http.post(f"/api/blobs/{digest}", content=b"some bytes").status_code == 200
    assert double.blobs == {digest: b"some bytes"}


def test_existing_large_blob_is_answered_before_its_body_is_read(
    double: OllamaDouble, client: ollama.Client, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(3_000_000))
    digest = client.create_blob(path)
    assert len(double.blobs[digest]) == 3_000_004
    assert client.create_blob(path) == digest
    assert [request.status for request in double.requests] == [201, 200]


def test_create_makes_models_from_a_gguf_file_and_from_a_model(
    double: OllamaDouble, client: ollama.Client, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    digest = client.create_blob(path)
    made: dict[str, Any] = {"model": "gpt2", "files": {"model.gguf": digest}, "template": "{{ .Prompt }}"}
    steps = list(client.create(**made, parameters={"num_ctx": 512, "stop": ["###"]}, stream=True))
    statuses = [(step.status or "").partition(" sha256:")[0] for step in steps]
    assert [status for index, status in enumerate(statuses) if status not in statuses[:index]] == [
        "parsing GGUF",
        "validating GGUF model",
        "verifying conversion",
        "creating new layer",
        "writing manifest",
        "success",
    ]
    assert client.create(**made, parameters={"num_ctx": 512}).status == "success"
    client.chat("gpt2", QUESTION)
    assert client.ps().models[0].context_length == 512
    client.create(**made, parameters={"stop": "###"})  # accepted, but every request fails afterwards
    with pytest.raises(ollama.ResponseError, match='option "stop" must be of type array'):
        client.chat("gpt2", QUESTION)
    before = {model.model: model.digest for model in client.list().models}
    client.create("judge", from_=MODEL, system="You are a judge.")
    after = {model.model: model.digest for model in client.list().models}
    assert after.keys() - before.keys() == {"judge:latest"}
    assert double.models["judge:latest"].system == "You are a judge."


@pytest.mark.parametrize(
    ("sent", "status", "text", "written"),
    [
        ({"model": "bad name!"}, 400, "invalid model name", False),
        ({}, 400, "neither 'from' or 'files' was specified", False),
        ({"files": {"/model.gguf": "x"}}, 400, "file path must be relative", False),
        ({"files": {"model.gguf": ""}}, 400, "invalid digest format", False),
        ({"files": {"model.bin": "text"}}, 400, "unknown type", False),
        ({"files": {"model.gguf": "text"}}, 400, "supplied file was not in GGUF format", True),
        ({"files": {"model.gguf": "absent"}}, 500, "no such file or directory", True),
        ({"files": {"m.safetensors": "text"}}, 500, 'unsupported architecture "GPT2LMHeadModel"', True),
        ({"files": {"model.gguf": "gguf"}, "template": "{{ .P"}, 400, "template error: ", True),
    ],
)
def test_create_reports_errors_before_and_within_the_stream(
    double: OllamaDouble,
    http: httpx.Client,
    sent: dict[str, Any],
    status: int,
    text: str,
    written: bool,
) -> None:
    double.blobs.update({"text": b"text", "gguf": b"GGUF"})
    single = http.post("/api/create", json={"model": "m", "stream": False, **sent})
    assert single.status_code == status
    assert text in error_text(single)
    response = http.post("/api/create", json={"model": "m", **sent})
    if written:
        assert response.status_code == 200
        assert text in ndjson_lines(response)[-1]["error"]
    else:
        assert response.status_code == status
        assert text in error_text(response)
    assert list(double.models) == ["llama3.1:latest"]
