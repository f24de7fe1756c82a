"""Model folders in Hugging Face's GPT-2 layout: reading and writing them. Nothing here loads a pickle.

    config.json  generation_config.json  model.safetensors      GPT-2's own names and shapes
    vocab.json  merges.txt  tokenizer_config.json                byte-level BPE, and the chat template
    assistant.json                                               how a fine-tuned model was made
    adapter/                                                     LoRA matrices for PEFT, also merged into the weights

A folder appears whole or not at all: it is written under a temporary name in the same parent folder and then renamed.
This module knows nothing about the training state that a run keeps to resume.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from assistant.dataset.prompts import DEFAULT_TEMPLATE, TEMPLATES, Template, get_template
from assistant.dataset.tokenizer import EOS_TOKEN, MERGES_FILE, VOCAB_FILE, Tokenizer, read_tokenizer
from assistant.errors import CheckpointError
from assistant.hub_cache import model_name
from assistant.model.config import ModelConfig, ModelInfo, TemplateRecord
from assistant.model.gpt import GPT, model_of
from assistant.model.lora import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS_FILE,
    Adapter,
    adapter_config,
    adapter_weights,
)

CONFIG_FILE, WEIGHTS_FILE, INFO_FILE = "config.json", "model.safetensors", "assistant.json"

# GPT-2's Conv1D stores its matrices as (in, out), torch's Linear as (out, in).
TRANSPOSED_WEIGHTS = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Causal masks, which old checkpoints store as buffers.
MASK_BUFFERS = (".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its tokenizer, its template and its record of training."""

    model: GPT
    tokenizer: Tokenizer
    template: Template
    info: ModelInfo | None
    """None for a base model."""
    name: str
    adapter: Adapter | None = None
    """The matrices that LoRA trained; `model` has them merged. They are written with the model but not read with it."""

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        return self.model.config

    def as_base(self) -> Checkpoint:
        """The same weights as a base model: without a record of training, and with the default template."""
        return replace(self, info=None, adapter=None, template=get_template(DEFAULT_TEMPLATE))


# --- reading ------------------------------------------------------------------------------------------------------


def load_checkpoint(folder: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Open a model folder: a downloaded GPT-2, or a model that this project wrote. The weights become float32.

    Raises:
        CheckpointError: a file is missing, damaged or of another model, a weight has another shape, or the template has
            changed since training.
    """
    folder = Path(folder)
    _check_folder(folder)
    tokenizer = read_tokenizer(folder)
    info = load_info(folder)
    config = read_config(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of at most {config.vocab_size} ids (vocab_size in {CONFIG_FILE}), "
            f"got {tokenizer.vocab_size}. Use the vocabulary that this model was trained with."
        )
    template = get_template(DEFAULT_TEMPLATE) if info is None else _trained_template(info, tokenizer, folder)
    model = load_model(folder, device=device)
    return Checkpoint(model=model, tokenizer=tokenizer, template=template, info=info, name=model_name(folder))


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> GPT:
    """Load only the model from a model folder: float32, in evaluation mode.

    Raises:
        CheckpointError: the configuration or the weights are missing, damaged or do not belong together.
    """
    folder = Path(folder)
    _check_folder(folder)
    config = read_config(folder)
    weights = _read_weights(folder / WEIGHTS_FILE)
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in _stored_tensors(GPT(config)).items()}
    _check_weights(folder / WEIGHTS_FILE, expected, weights)
    # Always copy: one tensor that still points into the file keeps the whole file in memory.
    state = {
        name: _convert_layout(name, weights[name]).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name in expected
    }
    del weights
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return model_of(config, state).to(device)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a model folder, got no such folder. Check the path.")
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        names = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        hint = "Is the path right, and the download or the training complete?"
        if any(name.endswith((".bin", ".pth", ".pt")) for name in names):
            hint = "Pickled weights are not loaded. Save them as safetensors first."
        raise CheckpointError(
            f"{folder}: expected a model folder, got no {' and no '.join(missing)} "
            f"(found: {shown or 'nothing'}). {hint}"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}. Copy the file from the original again.") from error


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's `config.json`.

    Raises:
        CheckpointError: the file is missing or damaged, or describes a model other than GPT-2.
    """
    path = folder / CONFIG_FILE
    content = _read_json(path)
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type != "gpt2":
        raise CheckpointError(
            f'{path}: expected "model_type": "gpt2", got {model_type!r}. Only GPT-2 models can be opened.'
        )
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'config'} {fault['msg'][0].lower()}{fault['msg'][1:]}"
            f" (got {str(fault['input'])[:40]!r})"
            for fault in error.errors()
        ]
        raise CheckpointError(
            f"{path}: expected a GPT-2 that this project can run, got {'; '.join(faults)}."
        ) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors by their full GPT-2 names, without the mask buffers.

    The first releases of GPT-2 omit the prefix `transformer.`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - `file` is not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected safetensors, got a file that cannot be read ({error}). Download or copy it again."
        ) from error
    weights = {name: value for name, value in weights.items() if not name.endswith(MASK_BUFFERS)}
    return {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": value
        for name, value in weights.items()
    }


def _check_weights(path: Path, expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> None:
    """Raise CheckpointError unless the names and shapes are as `expected` and all numbers are finite floats."""
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path}: expected the {len(expected)} tensors of {CONFIG_FILE}'s model, got {_list_names('no', missing)}"
            f"{' and ' if missing and extra else ''}{_list_names('also', extra)}. "
            f"Do {CONFIG_FILE} and the weights belong together?"
        )
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise CheckpointError(
                f"{path}: expected {name} of shape {shape}, got {tuple(weights[name].shape)}. "
                f"Do {CONFIG_FILE} and the weights belong together?"
            )
        if not weights[name].is_floating_point():
            raise CheckpointError(f"{path}: expected {name} to hold floating-point numbers, got {weights[name].dtype}.")
        if not torch.isfinite(weights[name].float()).all():
            raise CheckpointError(f"{path}: expected finite numbers, got NaN or infinity in {name}. Train it again.")


def _list_names(word: str, names: list[str]) -> str:
    """The word and the first three names, or an empty text if there are no names."""
    if not names:
        return ""
    return f"{word} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _convert_layout(name: str, value: Tensor) -> Tensor:
    """Convert between the file's layout and torch's, in either direction."""
    return value.t() if name.endswith(TRANSPOSED_WEIGHTS) else value


def _stored_tensors(model: GPT) -> dict[str, Tensor]:
    """The tensors of a model with the names and the layout of `model.safetensors`. A tied head is not stored."""
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: _convert_layout(name, value) for name, value in state.items()}


def load_info(folder: str | Path) -> ModelInfo | None:
    """Read a model folder's `assistant.json`. Return None for a base model, which has no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / INFO_FILE
    if not path.exists():
        return None
    try:
        return ModelInfo.model_validate(_read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CheckpointError(
            f'{path}: expected the fields that this version of the project writes, got "{where}": {fault["msg"]}. '
            f"Restore the file, or remove it to use the model as a base model."
        ) from error


# --- templates ----------------------------------------------------------------------------------------------------


def template_record(template: Template) -> TemplateRecord:
    """The record of a template for `assistant.json`."""
    texts = {key: value for key, value in asdict(template).items() if key != "name"}
    return TemplateRecord(name=template.name, fingerprint=template.fingerprint, texts=texts)


def _trained_template(info: ModelInfo, tokenizer: Tokenizer, folder: Path) -> Template:
    """The template that the model was trained with. Raise CheckpointError if it is unknown or has changed since."""
    template = TEMPLATES.get(info.template.name)
    if template is None:
        raise CheckpointError(
            f"{folder}: expected one of the templates {', '.join(sorted(TEMPLATES))}, got {info.template.name!r}. "
            f"Use the version of this project that trained the model."
        )
    check_same_template(template, info.template, tokenizer, where=str(folder))
    return template


def check_same_template(template: Template, trained: TemplateRecord, tokenizer: Tokenizer, *, where: str) -> None:
    """Raise CheckpointError, with the first token that differs, if a model was trained with another template."""
    if template.fingerprint == trained.fingerprint:
        return
    raise CheckpointError(
        f"{where}: expected the template it was trained with ({trained.name}, {trained.fingerprint}), "
        f"got {template.name}, {template.fingerprint}. They differ in {_difference(template, trained, tokenizer)}."
    )


def _difference(template: Template, trained: TemplateRecord, tokenizer: Tokenizer) -> str:
    """The first token in which two templates' prompts differ, or "their texts" if there is none."""
    try:
        trained_template = Template(name=trained.name, **trained.texts)
    except TypeError:  # a version of the project with other fields wrote the texts
        return "their texts"
    for input_text in ("", "I"):
        old, new = (tokenizer.encode(t.render("Q", input_text)) for t in (trained_template, template))
        index = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        if index < max(len(old), len(new)):
            in_training, now = (repr(tokenizer.decode(ids[index : index + 1])) for ids in (old, new))
            return f"token {index + 1} of the prompt: {in_training} in training, {now} now"
    return "their texts"


# --- writing ------------------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder, whole or not at all, with weights of `dtype`. An existing folder is replaced.

    Raises:
        CheckpointError: the weights cannot be written, for example because the disk is full.
    """
    with atomic_folder(Path(folder)) as temporary:
        write_checkpoint(checkpoint, temporary, dtype=dtype)


def write_checkpoint(checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the files of a model folder into `folder`, which must exist, with weights of `dtype`."""
    template, tokenizer, config = checkpoint.template, checkpoint.tokenizer, checkpoint.config
    stored = _stored_tensors(checkpoint.model)
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in stored.items()}
    save_tensors(weights, folder / WEIGHTS_FILE)
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    # llama.cpp's converter reads n_ctx. transformers picks the model class by `architectures`, to tie the weights too.
    for_other_readers = {
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": config.n_positions,
        "dtype": str(dtype).removeprefix("torch."),
        **ids,
    }
    _write_json(folder / CONFIG_FILE, config.model_dump() | for_other_readers)
    _write_json(folder / "generation_config.json", {**ids, "pad_token_id": tokenizer.pad_id, "do_sample": False})
    (folder / VOCAB_FILE).write_text(tokenizer.vocab_json, encoding="utf-8")
    (folder / MERGES_FILE).write_text(tokenizer.merges_txt, encoding="utf-8")
    tokenizer_config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": config.n_positions,
        "bos_token": EOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "unk_token": EOS_TOKEN,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": template.chat_template(),
    }
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    if checkpoint.info is not None:
        _write_json(folder / INFO_FILE, checkpoint.info.model_dump(mode="json"))
    if checkpoint.adapter is not None:
        (folder / ADAPTER_FOLDER).mkdir()
        _write_json(folder / ADAPTER_FOLDER / ADAPTER_CONFIG_FILE, adapter_config(checkpoint.adapter))
        save_tensors(adapter_weights(checkpoint.adapter), folder / ADAPTER_FOLDER / ADAPTER_WEIGHTS_FILE)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the permissions of the umask. The library itself lets only the owner read it.

    Raises:
        CheckpointError: the file cannot be written, for example because the disk is full.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # the library raises this for an OSError
        raise CheckpointError(f"{path}: expected room to write the weights, got {error}. Free some space.") from error
    path.chmod(0o666 & ~_umask())


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` at the end of the block. An exception in the block removes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush(path)
        if folder.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(replaced / folder.name)
            temporary.replace(folder)
            shutil.rmtree(replaced)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
