"""The Modelfile, and the push to a server: the test double, and servers that fail in every way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from assistant.dataset.prompts import TEMPLATES, get_template
from assistant.errors import AssistantError, ExportError, PrerequisiteError, SettingsError
from assistant.interop import ollama
from assistant.interop.modelfile import check_name, go_template, model_name, modelfile, ollama_parameters
from assistant.interop.ollama import Pushed
from assistant.settings import GenerationSettings
from tests.conftest import shared_file
from tests.support.ollama_double import Cut, Failure, OllamaDouble, Stream

ALPACA = get_template("alpaca")
PARAMETERS = ollama_parameters(GenerationSettings(), ALPACA, 256)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 12000)  # three chunks
    return path


def push(gguf: Path, url: str, **changes: Any) -> Pushed:
    arguments: dict[str, Any] = {"name": "mine", "host": url, "template": ALPACA, "parameters": PARAMETERS}
    return ollama.push_model(gguf, **arguments | changes)


# --- parameters and the Modelfile ---------------------------------------------------------------------------------


def test_no_sampling_parameter_is_left_to_the_server() -> None:
    assert ollama_parameters(GenerationSettings(), ALPACA, 1024) == {
        "num_ctx": 1024,
        "num_predict": 256,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 0,
        "stop": ["### Instruction:"],
    }


def test_options_of_ask_become_parameters() -> None:
    settings = GenerationSettings(
        max_new_tokens=999, temperature=0.7, top_k=5, top_p=0.9, min_p=0.05, repetition_penalty=1.2, seed=2**40 + 7,
        stop=("END", "### Instruction:"),
    )  # fmt: skip
    assert ollama_parameters(settings, ALPACA, 256) == {
        "num_ctx": 256,
        "num_predict": 256,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.05,
        "repeat_penalty": 1.2,
        "repeat_last_n": -1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 7,
        "stop": ["END", "### Instruction:"],
    }


def read_modelfile(text: str) -> dict[str, list[str]]:
    """Parse as Ollama does (parser/parser.go): one instruction each, values bare or in one or three quotes."""
    found: dict[str, list[str]] = {}
    while text:
        command, _, rest = text.partition(" ")
        if command == "PARAMETER":
            name, _, rest = rest.partition(" ")
            command = f"PARAMETER {name}"
        quote = next((mark for mark in ('"""', '"', "") if rest.startswith(mark)), "")
        value, _, text = rest.removeprefix(quote).partition(quote or "\n")
        found.setdefault(command, []).append(value)
        text = text.lstrip("\n")
    return found


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_modelfile_says_what_the_push_says(name: str) -> None:
    template = get_template(name)
    settings = GenerationSettings(stop=("a\nb", 'x"y', " "))
    parameters = ollama_parameters(settings, template, 256)
    found = read_modelfile(modelfile("my model.gguf", template, parameters))
    assert found.pop("FROM") == ["./my model.gguf"]
    assert found.pop("TEMPLATE") == [go_template(template)]
    expected = {f"PARAMETER {key}": value for key, value in parameters.items()}
    assert {key: value if key.endswith("stop") else json.loads(value[0]) for key, value in found.items()} == expected


@pytest.mark.parametrize("stop", ['a"""b', '"a', 'a"'])
def test_a_stop_string_that_a_modelfile_cannot_hold_is_refused(stop: str) -> None:
    with pytest.raises(SettingsError, match="--stop: expected a text that a Modelfile can hold"):
        modelfile("m.gguf", ALPACA, ollama_parameters(GenerationSettings(stop=(stop,)), ALPACA, 256))


@pytest.mark.parametrize("folder", ["Mine", "my model", "ümläut", "...", "a/b", "日本", "gpt2_x.y"])
def test_a_folder_name_becomes_a_model_name(folder: str) -> None:
    check_name(model_name(folder))


@pytest.mark.parametrize("name", ["", "a b", "a:b:c", "-a", "a\n", "é", "a//b", "x" * 90])
def test_names_that_no_server_accepts_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="--name: expected a model name"):
        check_name(name)


# --- a push -------------------------------------------------------------------------------------------------------


def test_push_creates_and_loads_the_model(gguf: Path) -> None:
    progress: list[tuple[int, int]] = []
    statuses: list[str] = []
    with OllamaDouble(()) as double:
        pushed = push(
            gguf, double.url, on_progress=lambda *numbers: progress.append(numbers), on_status=statuses.append
        )
        model = double.models["mine:latest"]
        digest = f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
        assert double.blobs == {digest: gguf.read_bytes()}
        assert (model.template, model.parameters) == (go_template(ALPACA), PARAMETERS)
        assert double.loads == ["mine:latest"]
        create = next(request.body for request in double.requests if request.path == "/api/create")
        assert create["files"] == {"model.gguf": digest}
        upload = next(request for request in double.requests if request.path.startswith("/api/blobs") and
                      request.method == "POST")  # fmt: skip
        assert int(upload.headers["Content-Length"]) == gguf.stat().st_size
    total = gguf.stat().st_size
    assert progress == [(2**20, total), (2 * 2**20, total), (total, total)]
    assert (statuses[0], statuses[-1]) == ("parsing GGUF", "success")
    assert (pushed.name, pushed.digest, pushed.uploaded, pushed.rendered) == ("mine", digest, True, True)


def test_a_file_that_the_server_has_is_not_uploaded_again(gguf: Path) -> None:
    with OllamaDouble(()) as double:
        push(gguf, double.url)
        assert not push(gguf, double.url, name="other").uploaded
        verbs = [request.method for request in double.requests if request.path.startswith("/api/blobs")]
        assert verbs == ["HEAD", "POST", "HEAD"]


def test_a_model_on_the_server_is_replaced_only_with_overwrite(gguf: Path) -> None:
    with OllamaDouble(("mine",)) as double:
        with pytest.raises(SettingsError, match=r"--name: .* does not have, got 'mine'. .*--overwrite"):
            push(gguf, double.url)
        assert double.models["mine:latest"].family == "llama"
        push(gguf, double.url, overwrite=True)
        assert double.models["mine:latest"].family == "gpt2"


@pytest.mark.parametrize("behaviour", [
    Failure(500, "llama-server process has terminated: exit status 2"),
    Stream({"done": False}),
    Cut("x", at=-1),
])  # fmt: skip
def test_a_new_model_that_cannot_be_loaded_is_deleted(gguf: Path, behaviour: Any) -> None:
    with OllamaDouble(("kept",)) as double:
        double.enqueue_load(behaviour)
        with pytest.raises(ExportError, match=r"terminated: exit status 2|loaded model|broken connection"):
            push(gguf, double.url)
        assert list(double.models) == ["kept:latest"]
        double.enqueue_load(behaviour)
        with pytest.raises(ExportError):
            push(gguf, double.url, name="kept", overwrite=True)
        assert list(double.models) == ["kept:latest"]


def test_a_server_that_renders_in_another_way_is_refused(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "go_template", lambda _: "{{ range .Messages }}{{ .Content }}{{ end }}")
    with OllamaDouble(()) as double:
        with pytest.raises(ExportError, match=r"expected the prompt '.*### Response:.*', got .*OLLAMA_GO_TEMPLATE"):
            push(gguf, double.url)
        assert not double.models


def test_proxies_are_bypassed_on_this_machine(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with OllamaDouble(()) as double:
        assert push(gguf, double.url).rendered


def test_no_server_is_a_sentence_with_a_way_out(gguf: Path) -> None:
    with OllamaDouble(()) as double:
        url = double.url
    with pytest.raises(PrerequisiteError, match=r"got no connection .*`ollama serve`.*--host"):
        push(gguf, url)


# --- what real servers said ---------------------------------------------------------------------------------------


def recorded(version: str) -> list[dict[str, Any]]:
    text = shared_file(f"ollama-transcripts/ollama-{version}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class _Replay(BaseHTTPRequestHandler):
    """Answers each route with what `answers` has for it: a status, a content type and a body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answers: dict[str, tuple[int, str, bytes]]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = next(route for route in self.answers if f"{self.command} {self.path}".startswith(route))
        status, kind, body = self.answers[route]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""


FINE = {
    "GET /api/version": (200, "application/json", b'{"version":"0.32.15"}'),
    "POST /api/show": (404, "application/json", b'{"error":"model \'mine:latest\' not found"}'),
    "HEAD /api/blobs": (404, "", b""),
    "POST /api/blobs": (201, "", b""),
    "POST /api/create": (200, "application/x-ndjson", b'{"status":"success"}\n'),
    "POST /api/chat": (200, "application/json", b'{"done":true,"done_reason":"load"}'),
    "DELETE /api/delete": (200, "", b""),
}


@contextmanager
def replaying(route: str, status: int, body: str | bytes, kind: str = "application/json") -> Iterator[str]:
    """A server where all is fine except one route."""
    answer = (status, kind, body.encode() if isinstance(body, str) else body)
    handler = type("Handler", (_Replay,), {"answers": FINE | {route: answer}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("version", ["0.24.0", "0.32.15"])
def test_every_recorded_answer_is_taken_or_becomes_a_sentence(version: str, gguf: Path) -> None:
    seen = 0
    for record in recorded(version):
        request = record["request"]
        route = f"{request['method']} {request['path']}"
        prefix = next((known for known in FINE if route.startswith(known)), None)
        if prefix is None or prefix == "POST /api/show" or not record["status"]:
            continue
        seen += 1
        with replaying(prefix, record["status"], record["body"], record["content_type"] or "") as url:
            try:
                sentence = f"expected and got {push(gguf, url)}"
            except AssistantError as error:
                sentence = str(error)
        assert "expected" in sentence, record["name"]
        assert "\n" not in sentence, record["name"]
    assert seen > 30


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("blob mismatch", r"/api/blobs/sha256:[0-9a-f]{12}: .* got status 400: digest mismatch, .*Export it again"),
        ("blob malformed", "got status 400: invalid digest format"),
        ("create bad template", "/api/create: .* got template error: template: :1: unclosed action"),
        ("create missing blob", "no such file or directory"),
        ("create nothing", "got status 400: neither 'from' or 'files' was specified"),
        ("create bad name", "got status 400: invalid model name. Choose another --name"),
        ("create absolute name", "got status 400: file path must be relative"),
        ("create of no gguf", "got supplied file was not in GGUF format"),
        ("create of a cut gguf", r"got tensor .blk.1.attn_qkv.weight. offset\+size .* exceeds file size"),
    ],
)
@pytest.mark.parametrize("version", ["0.24.0", "0.32.15"])
def test_recorded_errors(version: str, name: str, sentence: str, gguf: Path) -> None:
    record = next(record for record in recorded(version) if record["name"] == name)
    route = "POST /api/create" if name.startswith("create") else "POST /api/blobs"
    with (
        replaying(route, record["status"], record["body"], record["content_type"]) as url,
        pytest.raises(ExportError, match=sentence),
    ):
        push(gguf, url)


@pytest.mark.parametrize(
    ("route", "status", "body", "sentence"),
    [
        ("GET /api/version", 404, "404 page not found", "got status 404: 404 page not found. Is it an Ollama server"),
        ("GET /api/version", 200, "<html>", "expected its version from an Ollama server, got <html>"),
        ("GET /api/version", 403, "", "got status 403: nothing. Does the server allow this address"),
        ("GET /api/version", 502, "<h1>\x1b[31mBad</h1>", "got status 502: <h1>␛"),
        ("POST /api/create", 200, "", "expected the status success at the end .* got no more lines"),
        ("POST /api/create", 200, '{"status":"writing manifest"}\n', "got writing manifest"),
        ("POST /api/create", 200, "[]\n", r"expected a status line .* got \[\]"),
        ("POST /api/create", 500, '{"error":{"code":1,"message":"deep"}}', "got status 500: deep"),
        ("POST /api/create", 200, '{"error":"{\\"error\\":{\\"message\\":\\"nested\\"}}"}', "got nested"),
        ("POST /api/blobs", 500, '{"error":"write: no space left on device"}', "Free some space on the server's disk"),
        ("POST /api/chat", 200, '{"done":false}', "expected a loaded model"),
        ("POST /api/chat", 200, "null", "expected a loaded model .* got null"),
        ("POST /api/show", 400, '{"error":"invalid model name"}', "--name: expected a model name"),
    ],
)
def test_other_errors(route: str, status: int, body: str, sentence: str, gguf: Path) -> None:
    with replaying(route, status, body) as url, pytest.raises(AssistantError, match=sentence):
        push(gguf, url)


def test_an_old_server_that_renders_nothing_is_good_enough(gguf: Path) -> None:
    with replaying("POST /api/chat", 200, '{"done":true,"message":{"content":"x"}}') as url:
        assert not push(gguf, url).rendered


def test_a_slow_server_is_a_sentence(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "_TIMEOUT", httpx.Timeout(0.05))
    with OllamaDouble((), load_seconds=1.0) as double, pytest.raises(ExportError, match="expected an answer within"):
        push(gguf, double.url)


# --- the double ---------------------------------------------------------------------------------------------------


def test_the_double_answers_creation_as_the_recorded_server() -> None:
    """Status, content, error text and the last status of every recorded request for blobs and models."""
    bodies: dict[str, bytes] = {
        "blob mismatch": b"abc",
        "blob malformed": b"abc",
        "blob of no gguf": b"this is no gguf file at all",
    }
    stored = "sha256:d95e17cca30784840d09e68b776130b3bdbb6941b3a9e11a36965744fa95f63e"
    left_out = {"blob upper case", "blob of a cut gguf", "create of a cut gguf"}  # they need the recorded bytes
    with OllamaDouble(()) as double, httpx.Client(base_url=double.url, trust_env=False) as client:
        double.blobs[stored] = b"GGUF and more"
        for record in recorded("0.32.15"):
            request, name = record["request"], record["name"]
            if not request["path"].startswith(("/api/blobs", "/api/create")) or name in left_out:
                continue
            body = request["body"]
            content: dict[str, Any] = {"json": body} if isinstance(body, dict) else {"content": bodies.get(name, b"")}
            answer = client.request(request["method"], request["path"], **content)
            assert answer.status_code == record["status"], name
            ours, theirs = last_line(answer.text), last_line(record["body"])
            assert ours == theirs, name


def last_line(text: str) -> Any:
    lines = text.strip().splitlines()
    return json.loads(lines[-1]) if lines else None
