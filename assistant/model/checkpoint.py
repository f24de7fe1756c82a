"""Model folders in Hugging Face's GPT-2 layout: reading and writing them. No pickle is ever loaded.

    config.json  generation_config.json  model.safetensors      GPT-2's own names and shapes
    vocab.json  merges.txt  tokenizer_config.json                byte-level BPE; the chat template in it
    assistant.json                                               where a fine-tuned model comes from
    adapter/                                                     what LoRA trained, for PEFT; the weights have it too

A folder appears whole or not at all: it is written under a temporary name beside its place and renamed.
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

# GPT-2's Conv1D keeps its matrices as (in, out); torch's Linear wants (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Causal masks that old checkpoints carry as buffers.
BUFFERS = (".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with everything needed to use it."""

    model: GPT
    tokenizer: Tokenizer
    template: Template
    info: ModelInfo | None
    """None for a base model, which was never fine-tuned here."""
    name: str
    adapter: Adapter | None = None
    """The matrices that LoRA trained, which `model` has taken in. Written beside it; not read with it."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.model.config

    def as_base(self) -> Checkpoint:
        """The same weights as a base model, which has no story and is asked with the default template."""
        return replace(self, info=None, adapter=None, template=get_template(DEFAULT_TEMPLATE))


# --- reading ------------------------------------------------------------------------------------------------------


def load_checkpoint(folder: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Open a model folder: a downloaded GPT-2 or a result of this project. Weights become float32.

    Raises:
        CheckpointError: something is missing, damaged, of the wrong shape or of another kind; the sentence says what.
    """
    folder = Path(folder)
    _check_folder(folder)
    tokenizer = read_tokenizer(folder)
    info = load_info(folder)
    config = read_config(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of at most {config.vocab_size} ids (vocab_size in {CONFIG_FILE}), "
            f"got {tokenizer.vocab_size}. Take the vocabulary this model was trained with."
        )
    template = get_template(DEFAULT_TEMPLATE) if info is None else _trained_template(info, tokenizer, folder)
    model = load_model(folder, device=device)
    return Checkpoint(model=model, tokenizer=tokenizer, template=template, info=info, name=folder.resolve().name)


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> GPT:
    """The weights of a model folder alone, in evaluation mode."""
    folder = Path(folder)
    _check_folder(folder)
    config = read_config(folder)
    weights = _read_weights(folder / WEIGHTS_FILE)
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in _stored(GPT(config)).items()}
    _compare_shapes(folder / WEIGHTS_FILE, expected, weights)
    # Always a copy: one weight that is left as it lies keeps the whole file in memory.
    state = {
        name: _linear_layout(name, weights[name]).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
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
        found = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
        hint = "Is the path right, and the download or the training complete?"
        if any(name.endswith((".bin", ".pth", ".pt")) for name in found):
            hint = "Weights that are pickled are not loaded; save them as safetensors first."
        raise CheckpointError(
            f"{folder}: expected a model folder, got no {' and no '.join(missing)} "
            f"(found: {shown or 'nothing'}). {hint}"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}. Take the file from the original again.") from error


def read_config(folder: Path) -> ModelConfig:
    """A model folder's `config.json`. Raises CheckpointError if it is missing, damaged, or of another model."""
    path = folder / CONFIG_FILE
    value = _read_json(path)
    kind = value.get("model_type") if isinstance(value, dict) else None
    if kind != "gpt2":
        raise CheckpointError(f'{path}: expected "model_type": "gpt2", got {kind!r}. Only GPT-2 models can be opened.')
    try:
        return ModelConfig.model_validate(value)
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
    """All tensors by GPT-2's full names; the first releases lack the prefix `transformer.`."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected safetensors, got a file that cannot be read ({error}). Download or copy it again."
        ) from error
    weights = {name: value for name, value in weights.items() if not name.endswith(BUFFERS)}
    return {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": value
        for name, value in weights.items()
    }


def _compare_shapes(path: Path, expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor]) -> None:
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path}: expected the {len(expected)} tensors of {CONFIG_FILE}'s model, got {_few('no', missing)}"
            f"{' and ' if missing and extra else ''}{_few('also', extra)}. "
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


def _few(word: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{word} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _linear_layout(name: str, value: Tensor) -> Tensor:
    return value.t() if name.endswith(TRANSPOSED) else value


def _stored(model: GPT) -> dict[str, Tensor]:
    """The tensors as the file holds them, by their names there."""
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: _linear_layout(name, value) for name, value in state.items()}


def load_info(folder: str | Path) -> ModelInfo | None:
    """A model folder's `assistant.json`, or None for a base model. Raises CheckpointError if it is damaged."""
    path = Path(folder) / INFO_FILE
    if not path.exists():
        return None
    try:
        return ModelInfo.model_validate(_read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CheckpointError(
            f'{path}: expected what this version of the project writes, got "{where}": {fault["msg"]}. '
            f"Restore the file, or remove it to use the model as a base model."
        ) from error


# --- templates ----------------------------------------------------------------------------------------------------


def template_record(template: Template) -> TemplateRecord:
    """What `assistant.json` keeps of a template."""
    texts = {key: value for key, value in asdict(template).items() if key != "name"}
    return TemplateRecord(name=template.name, fingerprint=template.fingerprint, texts=texts)


def _trained_template(info: ModelInfo, tokenizer: Tokenizer, folder: Path) -> Template:
    """The template the model was trained with, refused where today's text of that name is another."""
    template = TEMPLATES.get(info.template.name)
    if template is None:
        raise CheckpointError(
            f"{folder}: expected one of the templates {', '.join(sorted(TEMPLATES))}, got {info.template.name!r}. "
            f"Use the version of this project that the model was trained with."
        )
    check_same_template(template, info.template, tokenizer, where=str(folder))
    return template


def check_same_template(template: Template, trained: TemplateRecord, tokenizer: Tokenizer, *, where: str) -> None:
    """Raise CheckpointError with the first differing token if a model was trained with another template."""
    if template.fingerprint == trained.fingerprint:
        return
    difference = "its texts"
    try:
        theirs = Template(name=trained.name, **trained.texts)
        for input_text in ("", "I"):
            old, new = (tokenizer.encode(t.render("Q", input_text)) for t in (theirs, template))
            index = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            if index < max(len(old), len(new)):
                pair = [repr(tokenizer.decode(ids[index : index + 1])) for ids in (old, new)]
                difference = f"token {index + 1} of the prompt: {pair[0]} in training, {pair[1]} now"
                break
    except TypeError:
        pass
    raise CheckpointError(
        f"{where}: expected the template it was trained with ({trained.name}, {trained.fingerprint}), "
        f"got {template.name}, {template.fingerprint}. They differ in {difference}."
    )


# --- writing ------------------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder, whole or not at all. A folder that is there is replaced. `dtype` is that of the weights."""
    with atomic_folder(Path(folder)) as temporary:
        write_checkpoint(checkpoint, temporary, dtype=dtype)


def write_checkpoint(checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the files of a model folder into `folder`, which must exist."""
    template, tokenizer, config = checkpoint.template, checkpoint.tokenizer, checkpoint.config
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in _stored(checkpoint.model).items()}
    save_tensors(weights, folder / WEIGHTS_FILE)
    ids = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id}
    # llama.cpp's converter reads n_ctx; transformers ties and names the class by `architectures`.
    own = {
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": config.n_positions,
        "dtype": str(dtype).removeprefix("torch."),
        **ids,
    }
    _write_json(folder / CONFIG_FILE, config.model_dump() | own)
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
    """Write safetensors, readable for whom the umask allows; the library itself leaves them to the owner alone.

    Raises:
        CheckpointError: the file cannot be written, as on a full disk.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # what the library makes of an OSError
        raise CheckpointError(f"{path}: expected room to write the weights, got {error}. Free some space.") from error
    path.chmod(0o666 & ~_umask())


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends well, and vanishes when it does not."""
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
