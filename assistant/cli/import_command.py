"""`assistant import`: the book's weights, or a GGUF file, as a model folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.console import print_json
from assistant.cli.options import A_MODEL, Json
from assistant.errors import SettingsError
from assistant.escape import one_line
from assistant.files import check_can_be_folder, check_writable, shown_path
from assistant.shipped import find_model

if TYPE_CHECKING:
    from assistant.model.config import ClassifierRecord


GGUF_SUFFIX = ".gguf"


def import_file(
    file: Annotated[
        Path, typer.Argument(help="A GGUF file, or a .pth file of the book's GPTModel.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    like: Annotated[
        Path | None, typer.Option(help=f"A model with the same tokenizer and number of heads. {A_MODEL}")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Names of a classifier's outputs, in order, separated by commas. Two outputs are not spam,spam "
            "by default.",
            show_default=False,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Length in tokens that a classifier's texts were padded to in training, 120 in the book. Without it, "
            "each text is read at its last token.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in the output folder.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a GGUF file, or weights that the book's code saved, into a model folder. Nothing in the file is run.

    A GGUF file is what llama.cpp and Ollama run: of GPT-2, Llama, Qwen2 or Qwen3, packed or not.

    Example: `assistant import model.pth --like gpt2 --output runs/imported`
    """
    _check_output(output, overwrite=overwrite)
    if file.suffix.lower() == GGUF_SUFFIX:
        if like is not None or labels is not None or max_length is not None:
            raise SettingsError(
                "--like, --labels, --max-length: expected a .pth file, got a GGUF file. Leave them out."
            )
        _import_gguf(file, output, as_json=as_json)
        return
    names = None if labels is None else [label.strip() for label in labels.split(",")]
    _import_pth(file, output, like=like, names=names, max_length=max_length, as_json=as_json)


def _import_pth(
    file: Path, output: Path, *, like: Path | None, names: list[str] | None, max_length: int | None, as_json: bool
) -> None:
    from assistant.interop.pth import import_pth
    from assistant.model.checkpoint import save_checkpoint

    imported = import_pth(file, like=None if like is None else find_model(like), labels=names, max_length=max_length)
    checkpoint = imported.checkpoint
    save_checkpoint(checkpoint, output)
    config, record = checkpoint.config, checkpoint.classifier
    if as_json:
        print_json(
            {
                "model": shown_path(output),
                "size": imported.size,
                "parameters": checkpoint.model.n_parameters,
                "n_layer": config.n_layer,
                "n_embd": config.n_embd,
                "n_head": config.heads.n_head,
                "heads_from": imported.heads_from,
                "tied": config.tie_word_embeddings,
                "classifier": None if record is None else record.model_dump(mode="json"),
                "tokenizer_from": shown_path(imported.tokenizer_from),
            }
        )
        return
    name = f"{imported.size}, " if imported.size else ""
    head = "tied" if config.tie_word_embeddings else "its own output layer"
    if record is not None:
        head = f"a classifier with {len(record.labels)} labels"
    print(f"{one_line(shown_path(file))}: {name}{checkpoint.model.n_parameters / 1e6:.1f}M parameters, {head}")
    print(f"  {config.n_layer} layers, width {config.n_embd}, context {config.context_length}")
    print(f"  {config.heads.n_head} heads, from {one_line(imported.heads_from)}")
    print(f"  tokenizer of {one_line(shown_path(imported.tokenizer_from))}")
    if record is not None:
        _describe_classifier(record)
    print(f"Model: {one_line(shown_path(output))}")
    quoted = one_line(shlex.quote(shown_path(output)))
    command = f"finetune DATA --model {quoted} --output runs/mine"
    print(f"Next:  assistant {command if record is None else f'classify predict {quoted} TEXT'}")


def _import_gguf(file: Path, output: Path, *, as_json: bool) -> None:
    from assistant.interop.gguf_import import import_gguf
    from assistant.model.checkpoint import save_checkpoint

    checkpoint, is_known = import_gguf(file)
    save_checkpoint(checkpoint, output)
    config, parameters = checkpoint.config, checkpoint.model.n_parameters
    if as_json:
        shape = {"n_layer": config.n_layer, "n_embd": config.n_embd, "n_head": config.heads.n_head}
        print_json({"model": shown_path(output), "family": config.model_type, "parameters": parameters, **shape})
        return
    print(f"{one_line(shown_path(file))}: {config.model_type}, {parameters / 1e6:.1f}M parameters")
    print(f"  {config.n_layer} layers, width {config.n_embd}, context {config.context_length}")
    reason = "" if is_known else ": the file's chat template is unknown here; finetune --template names another"
    print(f"  template {checkpoint.template.name}{reason}")
    print(f"Model: {one_line(shown_path(output))}")
    print(f"Next:  assistant finetune DATA --model {one_line(shlex.quote(shown_path(output)))} --output runs/mine")


def _describe_classifier(record: ClassifierRecord) -> None:
    print(f"  labels: {one_line(', '.join(record.labels))}")
    if record.reading == "padded":
        print(f"  texts are padded to {record.max_length} tokens, and the label is read at the end")
    else:
        print(
            "  the label is read at the last token of a text; if the texts were padded in training, give --max-length"
        )
    if record.note is not None:
        print(f"  {record.note}")


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Raise SettingsError if the new model would replace something that a person may want to keep."""
    check_can_be_folder(output)
    check_writable(output)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not all((output / name).is_file() for name in ("config.json", "model.safetensors")):
        raise SettingsError(
            f"--output: expected a new folder, got {shown_path(output)}, which has other files. Choose another."
        )
    if not overwrite:
        raise SettingsError(
            f"--output: expected a new folder, got {shown_path(output)}, which exists. "
            f"Choose another, or replace it with --overwrite."
        )
