"""`assistant export`: a model for llama.cpp, Ollama or the book's code."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from assistant.cli.console import note, print_json
from assistant.cli.options import A_MODEL, Json, derive_options
from assistant.errors import SettingsError
from assistant.files import shown_path, write_atomic
from assistant.hub_cache import file_name
from assistant.settings import GenerationSettings
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.interop.gguf import GgufFile
    from assistant.model.checkpoint import Checkpoint


Target = Literal["gguf", "ollama", "pth"]
Quantization = Literal["f32", "f16", "bf16", "q8_0"]


@derive_options(leave_out={"logprobs"})
def export(
    model: Annotated[str, typer.Argument(help=f"Model to export. {A_MODEL}", show_default=False)],
    to: Annotated[Target, typer.Option(help="gguf for llama.cpp, ollama for a server, pth for the book's code.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new file, or a folder for it; optional with ollama.")
    ] = None,
    quantization: Annotated[Quantization, typer.Option(help="Type of the matrices in a GGUF file.")] = "f16",
    name: Annotated[str | None, typer.Option(help="Name on the server; by default that of the model folder.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address of Ollama; by default OLLAMA_HOST, or this machine.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file, or a model on the server.")] = False,
    as_json: Json = False,
    *,
    generation: GenerationSettings,
) -> None:
    """Take a model elsewhere: a GGUF file, a model on an Ollama server, or weights for the book's code.

    Every file is read back and compared with the model. The sampling options go into the Modelfile and to Ollama.

    Example: `assistant export runs/mine --to ollama --name mine`
    """
    folder = find_model(model)
    _check_options(to, output, name=name, host=host)
    url = _server_url(host, name) if to == "ollama" else None
    path = output
    if output is not None and output.is_dir():
        path = output / f"{file_name(folder)}.{'pth' if to == 'pth' else 'gguf'}"
    if path is not None:
        _refuse_existing(path, *_beside(path, to), overwrite=overwrite)

    from assistant.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(folder, may_classify=to == "pth")
    if to == "pth":
        assert path is not None
        _export_pth(checkpoint, path, as_json=as_json)
        return
    with ExitStack() as stack:
        gguf = path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="assistant-"))) / "model.gguf"
        result = _export_gguf(checkpoint, gguf, quantization, generation, keep=path is not None)
        if url is not None:
            result |= _push(checkpoint, gguf, name, url, generation, overwrite=overwrite)
    result["next"] = _next_command(result)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _check_options(to: Target, output: Path | None, *, name: str | None, host: str | None) -> None:
    if output is None and to != "ollama":
        raise SettingsError(f"--output: expected a file for --to {to}, got nothing. Name the file to write.")
    given = [option for option, value in (("--name", name), ("--host", host)) if value is not None]
    if given and to != "ollama":
        raise SettingsError(f"{given[0]}: expected --to ollama, got --to {to}. Leave out {given[0]}.")


def _server_url(host: str | None, name: str | None) -> str:
    """The server's address. Everything that can be wrong with it is found before the model is read."""
    from assistant.interop.modelfile import check_name
    from assistant.ollama_server import find_host

    if name is not None:
        check_name(name)
    return find_host(host)


def _beside(path: Path, to: Target) -> list[Path]:
    """Files that are written beside the output."""
    from assistant.interop.modelfile import modelfile_path
    from assistant.interop.pth import config_path, tokenizer_path

    return [config_path(path), tokenizer_path(path)] if to == "pth" else [modelfile_path(path)]


def _refuse_existing(*paths: Path, overwrite: bool) -> None:
    for path in paths:
        if (path.exists() or path.is_symlink()) and not overwrite:
            raise SettingsError(
                f"--output: expected a new file, got {shown_path(path)}, which exists. "
                f"Name another file, or replace it with --overwrite."
            )
        if path == paths[0] and path.is_dir():  # the tokenizer of a .pth is a folder
            raise SettingsError(f"--output: expected a file, got the folder {shown_path(path)}. Name a file in it.")


def _export_gguf(
    checkpoint: Checkpoint,
    path: Path,
    quantization: Quantization,
    generation: GenerationSettings,
    *,
    keep: bool,
) -> dict[str, Any]:
    from assistant.interop.gguf import export_gguf
    from assistant.interop.modelfile import modelfile, modelfile_path, ollama_parameters

    beside = modelfile_path(path)
    parameters = ollama_parameters(generation, checkpoint.template, checkpoint.config.context_length)
    text = modelfile(path.name, checkpoint.template, parameters)
    written = export_gguf(checkpoint, path, quantization)
    if keep:
        write_atomic(beside, text)
    facts = asdict(written) | {"path": shown_path(path) if keep else None}
    return facts | {"checked": _how_checked(written), "modelfile": shown_path(beside) if keep else None}


def _how_checked(written: GgufFile) -> str:
    what = f"Read back: {written.n_tensors} tensors and {written.n_tokens} tokens are right"
    if written.largest_error == 0:
        return f"{what}, every weight to the bit."
    return f"{what}; rounding to {written.quantization} changed a weight by at most {written.largest_error:.2g}."


def _push(
    checkpoint: Checkpoint, gguf: Path, name: str | None, url: str, generation: GenerationSettings, *, overwrite: bool
) -> dict[str, Any]:
    from assistant.interop.modelfile import model_name, ollama_parameters
    from assistant.interop.ollama import push_model

    pushed = push_model(
        gguf,
        name=name or model_name(checkpoint.name),
        host=url,
        template=checkpoint.template,
        parameters=ollama_parameters(generation, checkpoint.template, checkpoint.config.context_length),
        overwrite=overwrite,
        on_progress=_upload_progress(),
        on_status=lambda status: note(f"  {status}"),
    )
    return asdict(pushed)


def _upload_progress() -> Any:
    """A function that reports an upload: a changing line on a terminal, every tenth in a file."""
    shown = -1

    def report(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        if percent == shown or (not on_terminal and percent // 10 == shown // 10):
            return
        shown = percent
        text = f"  uploading {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        if on_terminal:
            print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        else:
            note(text)

    return report


def _export_pth(checkpoint: Checkpoint, path: Path, *, as_json: bool) -> None:
    from assistant.interop.pth import export_pth

    written = export_pth(checkpoint, path)
    names = {name: shown_path(value) for name, value in asdict(written).items() if isinstance(value, Path)}
    command = (
        f"assistant import {shlex.quote(shown_path(path))} --output {shlex.quote(shown_path(path.with_suffix('')))}"
    )
    if as_json:
        print_json({**names, "next": command})
        return
    print(f"Wrote {shown_path(path)} with the book's names, and beside it its configuration and tokenizer.")
    print("Read back: every weight is right to the bit.")
    if checkpoint.classifier is not None and not checkpoint.classifier.has_bias:
        print("The book's output layer has a bias. This classifier has none, so the file has a bias of zeros.")
    print(f"Next: {command}")


def _next_command(result: dict[str, Any]) -> str:
    from assistant.interop.modelfile import model_name

    if "host" in result:
        return f"ollama run {result['name']}"
    name = model_name(Path(result["path"]).stem)
    path, beside = shlex.quote(result["path"]), shlex.quote(result["modelfile"])
    return f"llama-cli -m {path}  or  ollama create {name} -f {beside}"


def _show(result: dict[str, Any]) -> None:
    if result["path"] is not None:
        print(
            f"Wrote {result['path']} ({result['n_bytes'] / 1e6:.1f} MB, {result['quantization']}) "
            f"and {result['modelfile']}."
        )
    print(result["checked"])
    for sentence in result["notes"]:
        print(f"Note: {sentence}")
    if "host" in result:
        how = "Uploaded" if result["uploaded"] else "The server had the file already"
        print(
            f"{how}; {result['host']} loads {result['name']}"
            + (" and renders prompts as we do." if result["rendered"] else ".")
        )
    print(f"Next: {result['next']}")
