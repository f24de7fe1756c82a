"""Routes about installed models: tags, ps, show, delete, pull and create."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.support.ollama_double.validation import Refused, parse_body
from tests.support.ollama_double.wire import (
    PLAIN_JSON_TYPE,
    HttpReply,
    JsonObject,
    error_reply,
    full_name,
    go_json,
    json_reply,
    ndjson_reply,
)
from tests.support.ollama_templates import TemplateError, parse

if TYPE_CHECKING:
    from tests.support.ollama_double.double import OllamaDouble

MODIFIED_AT = "2026-08-21T10:00:00.123456789Z"
CUT_MARK = b"<cut>"
"""At the end of a GGUF file, it takes the place of half of the file's bytes."""


def tags(double: OllamaDouble, _raw: bytes) -> HttpReply:
    """GET /api/tags: list the installed models."""
    models = [
        {
            "name": model.name,
            "model": model.name,
            "modified_at": MODIFIED_AT,
            "size": model.size,
            "digest": model.digest,
            "details": model.details,
            "capabilities": list(model.capabilities),
        }
        for model in list(double.models.values())
    ]
    return json_reply({"models": models})


def ps(double: OllamaDouble, _raw: bytes) -> HttpReply:
    """GET /api/ps: list the loaded models."""
    return json_reply({"models": double.running()})


def show(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /api/show: describe one model."""
    body = parse_body(raw, "ShowRequest", {"model": str, "name": str})
    name = body.get("model") or body.get("name")
    if not name:
        raise Refused(400, "model is required")
    model = double.models.get(full_name(name))
    if model is None:
        raise Refused(404, f"model '{name if double.is_old else full_name(name)}' not found")
    parameters = "\n".join(f"{key:<30} {json.dumps(value)}" for key, value in model.parameters.items())
    optional = {
        "modelfile": f"FROM {model.name}\n",
        "parameters": parameters,
        "template": model.template,
        "system": model.system,
    }
    return json_reply(
        {
            **{key: value for key, value in optional.items() if value},
            "details": model.details,
            "model_info": {
                "general.architecture": model.family,
                f"{model.family}.context_length": model.context_length,
            },
            "tensors": [{"name": "output_norm.weight", "type": "F32", "shape": [256]}],
            "capabilities": list(model.capabilities),
            "modified_at": MODIFIED_AT,
        }
    )


def delete(double: OllamaDouble, raw: bytes) -> HttpReply:
    """DELETE /api/delete: remove a model."""
    body = parse_body(raw, "DeleteRequest", {"model": str, "name": str})
    name = body.get("model") or body.get("name") or ""
    if full_name(name) not in double.models:
        raise Refused(404, f"model '{name}' not found")
    double.remove(name)
    return HttpReply([b""], content_type="")


def copy(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /api/copy: install a model under a second name."""
    body = parse_body(raw, "CopyRequest", {"source": str, "destination": str})
    model = double.models.get(full_name(body.get("source") or ""))
    if model is None:
        raise Refused(404, f"model '{body.get('source')}' not found")
    name = full_name(body["destination"])
    double.models[name] = replace(model, name=name)
    return HttpReply([b""], content_type="")


def embed(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /api/embed: the embedding of a text by a text model, where the version gives one."""
    body = parse_body(raw, "EmbedRequest", {"model": str})
    if not double.is_old:
        raise Refused(501, "This server does not support embeddings. Start it with `--embeddings`")
    counts = {"total_duration": 3862618, "load_duration": 1705683, "prompt_eval_count": 2}
    return json_reply({"model": body.get("model"), "embeddings": [[-0.5, 0.25]], **counts})


# --- pull and create ----------------------------------------------------------------------------------------------


def _progress_reply(body: JsonObject, lines: list[JsonObject], error: tuple[int, str] | None = None) -> HttpReply:
    """Reply with status lines, then with the error if there is one.

    The error has a status of its own only if no line comes before it.
    """
    if body.get("stream") is False or not lines:
        reply = error_reply(*error) if error else json_reply(lines[-1])
        return replace(reply, content_type=PLAIN_JSON_TYPE)
    return ndjson_reply([*lines, {"error": error[1]}] if error else lines)


def _no_manifest(double: OllamaDouble) -> tuple[int, str]:
    return 500, f"pull model manifest: {double.registry_error}"


def pull(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /api/pull: install a model of the registry."""
    body = parse_body(raw, "PullRequest", {"model": str, "name": str, "stream": bool})
    name = body.get("model") or body.get("name")
    if not name:
        raise Refused(400, "invalid model name")
    lines: list[JsonObject] = [{"status": "pulling manifest"}]
    name = full_name(name)
    if name not in double.models and name not in double.registry:
        return _progress_reply(body, lines, _no_manifest(double))
    model = double.models.get(name) or double.install(name)
    layer = hashlib.sha256(model.digest.encode()).hexdigest()
    for completed in (0, model.size // 2, model.size):
        line = {"status": f"pulling {layer[:12]}", "digest": f"sha256:{layer}", "total": model.size}
        lines.append({**line, "completed": completed} if completed else line)
    lines += [{"status": text} for text in ("verifying sha256 digest", "writing manifest", "success")]
    return _progress_reply(body, lines)


class _CreationFailed(Exception):
    """The model cannot be created. Status lines may have been sent before."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.error = status, text


@dataclass
class _NewModel:
    """A model while it is created."""

    lines: list[JsonObject] = field(default_factory=list)
    fields: JsonObject = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    layers: list[str] = field(default_factory=list)
    is_quantized: bool = False

    def copy_model(self, double: OllamaDouble, name: str) -> None:
        base = double.models.get(full_name(name))
        if base is None:
            self.lines.append({"status": "pulling manifest"})
            raise _CreationFailed(*_no_manifest(double))
        self.capabilities = base.capabilities
        self.fields = {"context_length": base.context_length, "family": base.family}
        self.fields |= {"template": base.template, "system": base.system, "parameters": dict(base.parameters)}
        self.layers.append(f"sha256:{hashlib.sha256(base.digest.encode()).hexdigest()}")
        self.lines.append({"status": f"using existing layer {self.layers[0]}"})

    def read_file(self, double: OllamaDouble, path: str, digest: str) -> None:
        data = double.blobs.get(digest)
        if path.endswith(".safetensors"):
            self.lines.append({"status": "converting model"})
            raise _CreationFailed(500, 'unsupported architecture "GPT2LMHeadModel"')
        if not path.endswith(".gguf") and not (data or b"").startswith(b"GGUF"):
            raise _CreationFailed(400, "unknown type")
        self.lines.append({"status": "parsing GGUF"})
        if data is None:
            raise _CreationFailed(500, f"open /models/blobs/{digest.replace(':', '-')}: no such file or directory")
        if not data.startswith(b"GGUF"):
            raise _CreationFailed(400, "supplied file was not in GGUF format")
        if data.endswith(CUT_MARK):
            text = 'tensor "blk.1.attn_qkv.weight" offset+size (4467520) exceeds file size (4416416)'
            raise _CreationFailed(500, text)
        self.fields = {"context_length": 1024, "family": "gpt2", "template": ""}
        self.layers.append(f"sha256:{hashlib.sha256(data + b'copy').hexdigest()}")
        step = {"status": "validating GGUF model", "digest": "0000000000000000000", "total": len(data)}
        self.lines += [{**step, "completed": done} for done in (len(data) // 2, len(data)) if done]
        if not double.is_old or self.is_quantized:
            self.lines.append({"status": "verifying conversion"})
        self.lines.append({"status": f"creating new layer {self.layers[0]}"})

    def override_fields(self, body: JsonObject) -> None:
        template = body.get("template") or ""
        try:
            parse(template)
        except TemplateError as error:
            raise _CreationFailed(400, f"template error: {error}") from error
        for key in ("template", "system", "parameters"):
            if value := body.get(key):
                self.fields[key] = {**self.fields.get(key, {}), **value} if key == "parameters" else value
                self.layers.append(f"sha256:{hashlib.sha256(go_json(self.fields[key])).hexdigest()}")
                self.lines.append({"status": f"creating new layer {self.layers[-1]}"})


def create(double: OllamaDouble, raw: bytes) -> HttpReply:
    """POST /api/create: install a model made from another model or from a GGUF file."""
    field_types = {"model": str, "from": str, "files": dict, "template": str, "system": str, "parameters": dict}
    body = parse_body(raw, "CreateRequest", {**field_types, "stream": bool})
    name = body.get("model") or body.get("name") or ""
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)*(:[\w.-]+)?", name):
        raise Refused(400, "invalid model name")
    files: dict[str, str] = body.get("files") or {}
    for path, digest in files.items():
        if path.startswith(("/", "./")) or ".." in path.split("/"):
            raise Refused(400, "file path must be relative")
        if not digest:
            raise Refused(400, "invalid digest format")
    new_model = _NewModel(is_quantized=bool(body.get("quantize")))
    try:
        if body.get("from"):
            new_model.copy_model(double, body["from"])
        elif files:
            new_model.read_file(double, *next(iter(files.items())))
        else:
            raise _CreationFailed(400, "neither 'from' or 'files' was specified")
        new_model.override_fields(body)
    except _CreationFailed as failure:
        return _progress_reply(body, new_model.lines, failure.error)
    new_model.lines += [{"status": "writing manifest"}, {"status": "success"}]
    manifest = hashlib.sha256(" ".join(new_model.layers).encode()).hexdigest()
    double.install(name, *new_model.capabilities, digest=manifest, **new_model.fields)
    return _progress_reply(body, new_model.lines)
