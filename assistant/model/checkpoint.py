"""Model folders in Hugging Face's GPT-2 layout: reading and writing them.

    config.json  generation_config.json  model.safetensors      GPT-2's own names and shapes
    vocab.json  merges.txt  tokenizer_config.json                byte-level BPE, and the chat template
    tokenizer.json  added_tokens.json  special_tokens_map.json   only if the base model has them, byte for byte
    assistant.json                                               how a fine-tuned model was made; how a classifier reads
    trained_prompts.bin                                          hashes of the prompts that it was fine-tuned on
    adapter/                                                     LoRA matrices for PEFT, also merged into the weights

A folder appears whole or not at all: it is written under a temporary name in the same parent folder and then renamed.
This module knows nothing about the training state that a run keeps to resume.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE
from assistant.dataset.encode import for_template
from assistant.dataset.own_template import is_unknown_template, own_template
from assistant.dataset.prompts import DEFAULT_TEMPLATE, TEXT_TEMPLATE, Template, get_template
from assistant.dataset.tokenizer import CONFIG_FILE, GENERATION_FILE, Tokenizer, has_tokenizer, read_tokenizer
from assistant.dataset.trained_prompts import PROMPTS_FILE, PromptHashes, dump_hashes, read_hashes
from assistant.errors import CheckpointError, PrerequisiteError
from assistant.hub_cache import recorded_name
from assistant.model.config import (
    ARCHITECTURES,
    CLASSIFIER_ARCHITECTURE,
    CLASSIFIER_KEY,
    FAMILIES,
    ClassifierConfig,
    ClassifierRecord,
    GPTConfig,
    LlamaConfig,
    ModelConfig,
    ModelInfo,
    parse_config,
    parse_info,
)
from assistant.model.folder import atomic_folder, in_memory, save_tensors, write_json
from assistant.model.gpt import GPT, model_of
from assistant.model.lora import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS_FILE,
    Adapter,
    adapter_config,
    adapter_weights,
)
from assistant.model.peft import is_adapter_folder, merge_adapter, read_peft_adapter
from assistant.model.templates import trained_template
from assistant.model.weights import WEIGHTS_FILE, TensorFile, find_weights, read_weights, stored_values
from assistant.shipped import find_model

INFO_FILE = "assistant.json"
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its tokenizer, its template and its record of training."""

    model: GPT
    tokenizer: Tokenizer
    template: Template
    is_template_unknown: bool = False
    """Whether the model has a chat template that is unknown here, so that `template` is the default instead."""
    info: ModelInfo | None
    """None for a base model."""
    name: str
    adapter: Adapter | None = None
    """The matrices that LoRA trains. They are written beside the model and merged into it, but not read with it."""
    stored: Mapping[str, TensorFile] = field(default_factory=dict)
    """The files of the weights that `model` holds rounded (`read_weights`)."""
    trained_prompts: PromptHashes | None = None
    """The prompts that the model was fine-tuned on. None if they are not known."""
    classifier: ClassifierRecord | None = None
    """How a classifier reads texts. None for a language model, and for a classifier of another program."""

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        return self.model.config

    def with_template(self, name: str) -> Checkpoint:
        """The same model with its own template, if it has that name, or with another. It ends rows and replies."""
        template = self.template if self.template.name == name else get_template(name)
        return replace(self, template=template, tokenizer=for_template(self.tokenizer, template))

    def as_base(self) -> Checkpoint:
        """The same weights as a base model: without a record of training, and with the default template."""
        return replace(self, info=None, adapter=None, trained_prompts=None, template=get_template(DEFAULT_TEMPLATE))


# --- reading ------------------------------------------------------------------------------------------------------


def load_checkpoint(
    folder: str | Path, *, device: torch.device | str = "cpu", may_classify: bool = False, narrow: bool = False
) -> Checkpoint:
    """Open a model folder: a downloaded GPT-2, or a model that this project wrote. The weights become float32.

    With `may_classify` the model may be a `GPTClassifier`, which has labels instead of words. With `narrow` the weights
    are for adapters beside them, and the matrices are bfloat16 (`read_weights`). An adapter's folder ignores it: its
    merged weights are stored nowhere.

    Raises:
        CheckpointError: a file is missing, damaged or of another model, a weight has another shape, or the template has
            changed since training; or the folder is a classifier, and `may_classify` is False.
    """
    folder = Path(folder)
    if is_adapter_folder(folder):
        return _load_adapted(folder, device)
    path = _weights_path(folder)
    config = read_config(folder)
    with ThreadPoolExecutor(1) as reader:  # reading weights and merges at the same time saves half a second
        weights = reader.submit(read_weights, path, config, narrow=narrow)
        tokenizer = read_tokenizer(folder)
    info = load_info(folder)
    is_classifier = isinstance(config, ClassifierConfig)
    if isinstance(config, ClassifierConfig) and not may_classify:
        raise CheckpointError(
            f"{folder}: expected a language model, got a classifier with the labels {', '.join(config.labels[:4])}"
            f"{', ...' if len(config.labels) > 4 else ''}. It labels texts: assistant classify predict "
            f"{shlex.quote(str(folder))} TEXT"
        )
    _check_vocabulary(folder, tokenizer, config)
    template = get_template(TEXT_TEMPLATE) if is_classifier and info is None else folder_template(folder, tokenizer)
    config, state, files = weights.result()
    model = model_of(config, state).to(device)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        template=template,
        is_template_unknown=has_unknown_template(folder, tokenizer, template),
        info=info,
        name=recorded_name(folder),
        trained_prompts=read_hashes(folder),
        classifier=_read_record(folder, model.config),
        stored=files if narrow else {},
    )


def _load_adapted(folder: Path, device: torch.device | str) -> Checkpoint:
    """Open an adapter's folder: its base model with the adapter merged, as a base model under the adapter's name."""
    adapter = read_peft_adapter(folder)
    base = load_checkpoint(_find_base(folder, adapter.base_model))
    model = merge_adapter(base.model, adapter)
    tokenizer = read_tokenizer(folder) if has_tokenizer(folder) else base.tokenizer
    _check_vocabulary(folder, tokenizer, model.config)
    name = recorded_name(folder)
    return replace(base, model=model.to(device), tokenizer=tokenizer, info=None, name=name, trained_prompts=None)


def _find_base(folder: Path, base_model: str) -> Path:
    """The folder of an adapter's base model: beside the adapter, anywhere else, or pulled."""
    if not base_model:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG_FILE}: expected base_model_name_or_path, got none. Write the model's name there."
        )
    hint = "Put the model's folder there"
    try:
        places = [folder / base_model, find_model(base_model)]
    except PrerequisiteError:
        places, hint = [], f"Run: assistant pull {base_model}. Or put the model's folder there"
    base_folder = next((place for place in places if (place / CONFIG_FILE).is_file()), None)
    if base_folder is None:
        raise CheckpointError(
            f"{folder}: expected the base model of this adapter, {base_model!r}, as a folder, got none. "
            f"{hint}, or correct base_model_name_or_path in {ADAPTER_CONFIG_FILE}."
        )
    return base_folder


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: expected a tokenizer of at most {config.vocab_size} ids (vocab_size in {CONFIG_FILE}), "
            f"got {tokenizer.vocab_size}. Use the vocabulary that this model was trained with."
        )


def _weights_path(folder: Path) -> Path:
    """The file with a folder's weights, or their index. Raises CheckpointError if the folder holds no model."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a model folder, got no such folder. Check the path.")
    missing = [] if (folder / CONFIG_FILE).is_file() else [CONFIG_FILE]
    path = find_weights(folder)
    if missing or path is None:
        missing += [] if path else [WEIGHTS_FILE]
        names = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        hint = "Is the path right, and the download or the training complete?"
        pickles = [name for name in names if name.endswith((".pth", ".pt"))]
        if pickles:
            file = shlex.quote(str(folder / pickles[0]))
            hint = f"For weights of the book's code, make a model folder with `assistant import {file} --output NEW`."
        raise CheckpointError(
            f"{folder}: expected a model folder, got no {' and no '.join(missing)} "
            f"(found: {shown or 'nothing'}). {hint}"
        )
    return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}. Copy the file from the original again.") from error


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's `config.json`.

    Raises:
        CheckpointError: the file is missing or damaged, or describes a model of another family.
    """
    path = folder / CONFIG_FILE
    content = _read_json(path)
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type not in FAMILIES:
        raise CheckpointError(
            f'{path}: expected one of {", ".join(FAMILIES)} as "model_type", got {str(model_type)[:40]!r}. '
            f"Models of other families cannot be opened."
        )
    try:
        return parse_config(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'config'} {fault['msg'][0].lower()}{fault['msg'][1:]}"
            f" (got {str(fault['input'])[:40]!r})"
            for fault in error.errors()
        ]
        raise CheckpointError(
            f"{path}: expected a model that this project can run, got {'; '.join(faults)}."
        ) from error


def folder_to_open(folder: Path) -> Path:
    """The folder whose configuration and template `load_checkpoint` takes: an adapter's base model, or the folder.

    Raises:
        CheckpointError: the adapter is damaged, or the model or its base is missing.
    """
    if is_adapter_folder(folder):
        folder = _find_base(folder, read_peft_adapter(folder).base_model)
    _weights_path(folder)
    return folder


def load_info(folder: str | Path) -> ModelInfo | None:
    """Read a model folder's `assistant.json`. Return None for a base model, which has no such file.

    An imported classifier has only a `ClassifierRecord` there; it has no record of training either.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(folder) / INFO_FILE
    if not path.exists():
        return None
    return _validated(parse_info, _read_json(path), path)


def _read_record(folder: Path, config: ModelConfig) -> ClassifierRecord | None:
    """The record of a classifier. None for a language model, or if the folder has none."""
    path = folder / INFO_FILE
    if not isinstance(config, ClassifierConfig) or not path.exists():
        return None
    content = _read_json(path)
    if not isinstance(content, dict) or content.get(CLASSIFIER_KEY) is None:
        return None
    record = _validated(ClassifierRecord.model_validate, content[CLASSIFIER_KEY], path)
    if record.labels != config.labels:
        raise CheckpointError(
            f"{path}: expected the labels of {CONFIG_FILE}, {', '.join(config.labels)[:60]}, "
            f"got {', '.join(record.labels)[:60]}. Restore both files."
        )
    if record.max_length > config.context_length:
        raise CheckpointError(
            f"{path}: expected a max_length of at most {config.context_length}, the model's context, "
            f"got {record.max_length}. Restore the file."
        )
    return record


def _validated(parse: Callable[[Any], Parsed], content: Any, path: Path) -> Parsed:
    try:
        return parse(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CheckpointError(
            f'{path}: expected the fields that this version of the project writes, got "{where}": {fault["msg"]}. '
            f"Restore the file, or remove it to use the model as a base model."
        ) from error


def folder_template(folder: Path, tokenizer: Tokenizer, name: str | None = None) -> Template:
    """The template that a model was trained with, or a base model's own one or the default; or another, by its name."""
    info = load_info(folder)
    own = own_template(folder, tokenizer) if info is None else trained_template(info, tokenizer, folder)
    return own if name in (None, own.name) else get_template(name)


def has_unknown_template(folder: Path, tokenizer: Tokenizer, template: Template) -> bool:
    """Whether a base model has a chat template that is unknown here. `template` is what `folder_template` returned."""
    is_base = load_info(folder) is None and read_config(folder).model_type != "gpt2"  # a GPT-2 has none of its own
    return is_base and is_unknown_template(folder, tokenizer, template)


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
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    save_tensors(stored_values(checkpoint.model, checkpoint.stored), folder / WEIGHTS_FILE, dtype)
    eos_ids: int | list[int] = list(tokenizer.eos_ids) if len(tokenizer.eos_ids) > 1 else tokenizer.eos_ids[0]
    # Of a Llama, only the fields that were given: its rope_theta has two places.
    content = config.model_dump(by_alias=True, exclude_unset=isinstance(config, LlamaConfig))
    bos_id = content.get("bos_token_id")
    ids = {"bos_token_id": tokenizer.eos_id if bos_id is None else bos_id, "eos_token_id": eos_ids}
    # llama.cpp's converter reads n_ctx. transformers picks the model class by `architectures`, to tie the weights too.
    for_other_readers = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "dtype": str(dtype).removeprefix("torch."),
        **ids,
    }
    if isinstance(config, GPTConfig):
        for_other_readers["n_ctx"] = config.n_positions
    if isinstance(config, ClassifierConfig):
        for_other_readers |= {
            "architectures": [CLASSIFIER_ARCHITECTURE],
            "num_labels": len(config.labels),
            "label2id": {label: index for index, label in enumerate(config.labels)},
            "pad_token_id": tokenizer.pad_id,
        }
        content = {name: value for name, value in content.items() if name not in ("problem_type", "score_bias")}
    else:
        write_json(folder / GENERATION_FILE, {**ids, "pad_token_id": tokenizer.pad_id, "do_sample": False})
    write_json(folder / CONFIG_FILE, content | for_other_readers)
    _write_tokenizer(checkpoint, folder)
    _write_records(checkpoint, folder)


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    tokenizer = checkpoint.tokenizer
    for name, text in tokenizer.files().items():
        (folder / name).write_text(text, encoding="utf-8")
    eos_token = tokenizer.added.eos_token
    defaults = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": checkpoint.config.context_length,
        "bos_token": eos_token,
        "eos_token": eos_token,
        "unk_token": eos_token,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    kept = dict(tokenizer.added.config) or defaults
    if isinstance(checkpoint.config, ClassifierConfig):
        kept.pop("chat_template", None)
    else:
        kept["chat_template"] = checkpoint.template.chat_template(tokenizer.bos_token)
    write_json(folder / TOKENIZER_CONFIG_FILE, kept)


def _write_records(checkpoint: Checkpoint, folder: Path) -> None:
    """Write how the model was made: `assistant.json`, the prompts that it has seen, and LoRA's matrices."""
    info, record = checkpoint.info, checkpoint.classifier
    content = {} if info is None else info.model_dump(mode="json")
    if record is not None:
        content |= {"format": 1, CLASSIFIER_KEY: record.model_dump(mode="json")}
    if content:
        write_json(folder / INFO_FILE, content)
    if checkpoint.trained_prompts is not None:
        (folder / PROMPTS_FILE).write_bytes(dump_hashes(checkpoint.trained_prompts))
    if checkpoint.adapter is not None:
        (folder / ADAPTER_FOLDER).mkdir()
        write_json(folder / ADAPTER_FOLDER / ADAPTER_CONFIG_FILE, adapter_config(checkpoint.adapter))
        save_tensors(in_memory(adapter_weights(checkpoint.adapter)), folder / ADAPTER_FOLDER / ADAPTER_WEIGHTS_FILE)
