"""The book's `.pth` files: state dicts of its `GPTModel`, read and written.

`import_pth` reads what `torch.save(model.state_dict(), ...)` or the book's training checkpoint holds, a language model
or a classifier, with torch's restricted unpickler. `export_pth` writes the same names, the book's configuration as
JSON, and a folder with the tokenizer.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from assistant.dataset.added_tokens import TOKENIZER_CONFIG_FILE
from assistant.dataset.prompts import DEFAULT_TEMPLATE, TEXT_TEMPLATE, get_template
from assistant.dataset.tokenizer import CONFIG_FILE, Tokenizer, has_tokenizer, read_tokenizer
from assistant.errors import CheckpointError
from assistant.files import make_folder, shown_path, write_atomic
from assistant.interop.book_classifier import HEAD_BIAS, described, is_classifier_state, pick_labels, read_record
from assistant.interop.book_names import MASK, book_state, plain_name, translate
from assistant.model.checkpoint import Checkpoint, read_config
from assistant.model.config import ClassifierConfig, GPTConfig, gpt2_only
from assistant.model.folder import atomic_folder, write_json
from assistant.model.gpt import GPTClassifier, build_model, model_of
from assistant.model.weights import EMBEDDING, HEAD, load_pickle

HEAD_SIZE = 64
"""Width of a head in all four GPT-2 models. The shapes of a state dict do not say how many heads there are."""
STATE_KEYS = ("model_state_dict", "state_dict", "model")
"""Where a training checkpoint keeps the weights. The book's has the first."""
SIZES = {(12, 768): "gpt2", (24, 1024): "gpt2-medium", (36, 1280): "gpt2-large", (48, 1600): "gpt2-xl"}
"""Names of OpenAI's models, by number of layers and width."""


@dataclass(frozen=True, kw_only=True)
class ImportedPth:
    """A model that was read from a `.pth` file."""

    checkpoint: Checkpoint
    size: str | None
    """The name of OpenAI's model of this size, such as `gpt2-medium`; None for another size."""
    heads_from: str
    """Where the number of heads comes from: a file, or a guess."""
    tokenizer_from: Path


@dataclass(frozen=True, kw_only=True)
class PthFile:
    """A `.pth` file that was written and checked."""

    path: Path
    config: Path
    """The book's configuration as JSON."""
    tokenizer: Path
    """The folder with the tokenizer."""
    n_tensors: int
    n_bytes: int


def config_path(path: Path) -> Path:
    """The book's configuration beside a `.pth` file."""
    return path.with_suffix(".json")


def tokenizer_path(path: Path) -> Path:
    """The folder of the tokenizer beside a `.pth` file."""
    return path.with_name(f"{path.stem}-tokenizer")


# --- reading ------------------------------------------------------------------------------------------------------


def import_pth(
    path: Path, *, like: Path | None = None, labels: Sequence[str] | None = None, max_length: int | None = None
) -> ImportedPth:
    """Read a state dict of the book's `GPTModel` as a base model with the default template, or as a classifier.

    The tokenizer is that of the model folder `like`, or else that of the folder `NAME-tokenizer` or of the file's own
    folder. The number of heads is that of `NAME.json` beside the file, or of `like`, or the width divided by 64. An
    output layer that equals the embedding becomes tied.

    An output layer for labels makes a classifier. Its labels are `labels`, or those of `NAME.json`, or the book's two.
    `max_length` is the length in tokens that its texts were padded to; without one, and none in `NAME.json`, it reads
    each text at its last token.

    Raises:
        CheckpointError: the file is not such a state dict, something is missing, or the pickle holds other objects.
    """
    if not path.is_file():
        found = "a folder, which commands open as it is" if path.is_dir() else "no such file"
        raise CheckpointError(f"{shown_path(path)}: expected a .pth file, got {found}. Check the path.")
    state = _book_state(load_pickle(path), path)
    places = [like] if like is not None else [tokenizer_path(path), path.parent]
    tokenizer_folder = next((place for place in places if has_tokenizer(place)), None)
    if tokenizer_folder is None:
        raise CheckpointError(
            f"{shown_path(path)}: expected a tokenizer, got none in {' or '.join(map(shown_path, places))}. "
            f"Name a model folder that has the same one with --like."
        )
    beside = _read_beside(path)
    n_head, heads_from = _n_head(path, state["tok_emb.weight"].shape[1], like, beside)
    names = _label_names(path, state, labels, max_length, beside or {})
    config, weights = _convert(path, state, n_head, names)
    tokenizer = read_tokenizer(tokenizer_folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{shown_path(path)}: expected a tokenizer of at most {config.vocab_size} ids, as the model has, got "
            f"{tokenizer.vocab_size} from {shown_path(tokenizer_folder)}. Name another folder with --like."
        )
    model = model_of(config, weights)
    checkpoint = Checkpoint(
        model=model,
        tokenizer=tokenizer,
        template=get_template(DEFAULT_TEMPLATE if names is None else TEXT_TEMPLATE),
        info=None,
        name=path.stem,
        classifier=read_record(path, model, max_length, beside or {}) if isinstance(model, GPTClassifier) else None,
    )
    return ImportedPth(
        checkpoint=checkpoint,
        size=SIZES.get((config.n_layer, config.n_embd)),
        heads_from=heads_from,
        tokenizer_from=tokenizer_folder,
    )


def _book_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by the book's names, without masks and wrappers' prefixes."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{shown_path(path)}: expected a state dict, got {type(content).__name__} without one. "
            f"Save it with torch.save(model.state_dict(), ...)."
        )
    state = {plain_name(str(name)): value for name, value in content.items() if not str(name).endswith(MASK)}
    if any(name.startswith(("transformer.", "h.", "wte.")) for name in state):
        raise CheckpointError(
            f"{shown_path(path)}: expected the book's names, got those of Hugging Face. "
            f"Put the file into a folder as pytorch_model.bin, with config.json and the tokenizer, and use the folder."
        )
    if any(".lora" in name or ".linear." in name for name in state):
        raise CheckpointError(
            f"{shown_path(path)}: expected plain weights, got layers with LoRA. Merge them before you save the model."
        )
    embedding, head = state.get("tok_emb.weight"), state.get("out_head.weight")
    if embedding is None or head is None or embedding.dim() != 2 or head.dim() != 2:
        missing = "tok_emb.weight" if embedding is None or embedding.dim() != 2 else "out_head.weight"
        raise CheckpointError(
            f"{shown_path(path)}: expected the weights of the book's GPTModel, got no {missing}. "
            f"Is it the state dict of the whole model?"
        )
    if HEAD_BIAS in state and not torch.any(state[HEAD_BIAS]):
        del state[HEAD_BIAS]  # a classifier without one was exported, and the book's layer has always one
    return state


def _label_names(
    path: Path,
    state: dict[str, Tensor],
    labels: Sequence[str] | None,
    max_length: int | None,
    beside: Mapping[str, Any],
) -> tuple[str, ...] | None:
    """The labels of a classifier's outputs; None for a language model, for which none may be given."""
    if is_classifier_state(state):
        return pick_labels(path, len(state["out_head.weight"]), labels, beside)
    if labels is not None or max_length is not None:
        option = "--labels" if labels is not None else "--max-length"
        raise CheckpointError(
            f"{shown_path(path)}: expected a classifier for {option}, got a language model, with an output for each "
            f"of its {len(state['tok_emb.weight'])} tokens. Leave the option out."
        )
    return None


def _read_beside(path: Path) -> dict[str, Any] | None:
    """The configuration beside a `.pth` file; None if there is none."""
    if not config_path(path).is_file():
        return None
    try:
        content = json.loads(config_path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _not_a_config(path, error) from error
    if not isinstance(content, dict):
        raise _not_a_config(path, type(content).__name__)
    return content


def _not_a_config(path: Path, found: object) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(config_path(path))}: expected the book's configuration with n_heads, got {found}. "
        f"Correct the file, or move it away."
    )


def _n_head(path: Path, width: int, like: Path | None, beside: Mapping[str, Any] | None) -> tuple[int, str]:
    """The number of heads, and where it comes from."""
    if beside is not None:
        count = next((beside[key] for key in ("n_heads", "n_head", "num_heads") if key in beside), None)
        if count is None:
            raise _not_a_config(path, "none")
        if type(count) is not int or count < 1 or width % count:
            raise CheckpointError(
                f"{shown_path(config_path(path))}: expected n_heads that divides the width, {width}, "
                f"got {str(count)[:40]}. Correct the file."
            )
        return count, config_path(path).name
    if like is not None and (like / CONFIG_FILE).is_file():
        config = read_config(like)
        if config.n_embd == width:
            return config.heads.n_head, shown_path(like)
    if width % HEAD_SIZE:
        raise CheckpointError(
            f"{shown_path(path)}: expected a number of heads, got none, and a width of {width} is not a multiple of "
            f'{HEAD_SIZE}. Write it as {{"n_heads": N}} into {config_path(path).name} beside the file.'
        )
    return width // HEAD_SIZE, f"the width, at {HEAD_SIZE} numbers a head"


def _convert(
    path: Path, state: dict[str, Tensor], n_head: int, labels: tuple[str, ...] | None
) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The config, and the state dict of the model in float32. `state` becomes empty, so that memory is free early."""
    blocks = sorted({int(match[1]) for name in state if (match := re.match(r"trf_blocks\.(\d+)\.", name))})
    positions, feed_forward = state.get("pos_emb.weight"), state.get("trf_blocks.0.ff.layers.0.weight")
    if positions is None or feed_forward is None or positions.dim() != 2 or feed_forward.dim() != 2:
        raise CheckpointError(
            f"{shown_path(path)}: expected the weights of the book's GPTModel, got no "
            f"{'pos_emb.weight' if positions is None else 'trf_blocks.0.ff.layers.0.weight'} with two dimensions. "
            f"Is it the state dict of the whole model?"
        )
    vocab_size, width = state["tok_emb.weight"].shape
    is_tied = torch.equal(state["out_head.weight"], state["tok_emb.weight"])
    try:
        config = GPTConfig(
            vocab_size=vocab_size,
            n_positions=len(positions),
            n_embd=width,
            n_layer=len(blocks),
            n_head=n_head,
            n_inner=None if len(feed_forward) == 4 * width else len(feed_forward),
            tie_word_embeddings=is_tied,
        )
        if labels is not None:
            head = {"id2label": dict(enumerate(labels)), "score_bias": HEAD_BIAS in state}
            config = ClassifierConfig.model_validate(config.model_dump() | head)
    except ValidationError as error:
        raise CheckpointError(
            f"{shown_path(path)}: expected a model that can be run, got {error.errors()[0]['loc'][0]} "
            f"{str(error.errors()[0]['input'])[:40]}. Is it the state dict of the whole model?"
        ) from error
    if is_tied:
        del state["out_head.weight"]
    weights = dict(translate(state, width, is_classifier=labels is not None))
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build_model(config).state_dict().items()}
    if is_tied:
        weights[HEAD] = weights[EMBEDDING]
    faults = sorted(expected.keys() ^ weights.keys())
    faults += [name for name, shape in expected.items() if name in weights and tuple(weights[name].shape) != shape]
    if faults:
        raise CheckpointError(
            f"{shown_path(path)}: expected the {len(expected)} tensors of a GPTModel with {len(blocks)} blocks and "
            f"width {width}, got others for {', '.join(faults[:3])}"
            f"{f' and {len(faults) - 3} more' if len(faults) > 3 else ''}. Is it the state dict of the whole model?"
        )
    broken = [name for name, value in weights.items() if not torch.isfinite(torch.stack(value.aminmax())).all()]
    if broken:
        raise CheckpointError(f"{shown_path(path)}: expected finite numbers, got NaN or infinity in {broken[0]}.")
    return config, weights


# --- writing ------------------------------------------------------------------------------------------------------


def export_pth(checkpoint: Checkpoint, path: Path) -> PthFile:
    """Write the weights for the book's `GPTModel`, its configuration and the tokenizer, and read the weights back.

    `path`, `NAME.json` and the folder `NAME-tokenizer` are replaced. The configuration is the book's `cfg`, and for a
    classifier also its labels and the length that it pads texts to.

    Raises:
        CheckpointError: the book's model would compute something else, or the file does not hold the model.
        OSError: a file cannot be written.
    """
    config = _computable_config(checkpoint)
    make_folder(path.parent)
    state = dict(book_state(checkpoint.model))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        weights = Path(temporary) / path.name
        try:
            torch.save(state, weights)
        except RuntimeError as error:  # torch raises this for an OSError
            raise CheckpointError(
                f"{shown_path(path)}: expected room to write the weights, got {error}. Free some space."
            ) from error
        _check_written(weights, state)
        with atomic_folder(tokenizer_path(path)) as folder:
            _write_tokenizer(checkpoint.tokenizer, folder)
        content = book_config(config)
        if isinstance(checkpoint.model, GPTClassifier):
            content |= described(checkpoint.model, checkpoint.classifier)
        write_atomic(config_path(path), json.dumps(content, indent=2) + "\n")
        weights.replace(path)
    return PthFile(
        path=path,
        config=config_path(path),
        tokenizer=tokenizer_path(path),
        n_tensors=len(state),
        n_bytes=path.stat().st_size,
    )


def book_config(config: GPTConfig) -> dict[str, Any]:
    """The configuration of the book's `GPTModel`."""
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.n_positions,
        "emb_dim": config.n_embd,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "drop_rate": 0.0,
        "qkv_bias": True,
    }


def _computable_config(checkpoint: Checkpoint) -> GPTConfig:
    """Raise CheckpointError if the book's code, which has some fixed values, would compute something else."""
    config = gpt2_only(checkpoint.config, checkpoint.name, "the book's GPTModel")
    faults = [
        f"{name} {actual}"
        for name, expected, actual in (
            ("n_inner", (None, 4 * config.n_embd), config.n_inner),
            ("activation_function", ("gelu_new", "gelu_pytorch_tanh"), config.activation_function),
            ("layer_norm_epsilon", (1e-5,), config.layer_norm_epsilon),
        )
        if actual not in expected
    ]
    if faults:
        raise CheckpointError(
            f"{checkpoint.name}: expected a model that the book's GPTModel can compute, got {' and '.join(faults)}. "
            f"Use another format, for example GGUF."
        )
    return config


def _check_written(path: Path, state: dict[str, Tensor]) -> None:
    written = load_pickle(path)
    different = [name for name, value in state.items() if name not in written or not torch.equal(written[name], value)]
    if different or len(written) != len(state):
        raise CheckpointError(
            f"{shown_path(path)}: expected the weights that were written, got others in "
            f"{(different or ['its number of tensors'])[0]}. Is the disk sound? Try again."
        )


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    for name, text in tokenizer.files().items():
        (folder / name).write_text(text, encoding="utf-8")
    config = dict(tokenizer.added.config) or {
        "tokenizer_class": "GPT2Tokenizer",
        "eos_token": tokenizer.added.eos_token,
    }
    write_json(folder / TOKENIZER_CONFIG_FILE, config)
    eos_ids = list(tokenizer.eos_ids)
    write_json(folder / "generation_config.json", {"eos_token_id": eos_ids if len(eos_ids) > 1 else eos_ids[0]})
