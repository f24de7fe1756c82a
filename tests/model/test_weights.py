"""The weights of folders as other programs write them; transformers is the oracle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from tests.support.models import load_model, save_tiny, tiny_checkpoint
from tests.support.rows import random_ids

EMBEDDING = "transformer.wte.weight"


def transformers_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(ids).logits
    return logits


def our_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = load_model(folder)
    with torch.inference_mode():
        return model.head(model(ids))


def set_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


# --- tied and untied heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_embedding", [True, False], ids=["embedding", "no-embedding"])
@pytest.mark.parametrize("head", ["no-head", "equal", "different"])
@pytest.mark.parametrize("tie", [True, False, ...], ids=["tied", "untied", "unsaid"])
def test_the_head_is_the_one_of_transformers(
    tmp_path: Path, byte_tokenizer: Tokenizer, tie: object, head: str, has_embedding: bool
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    weights = load_file(folder / "model.safetensors")
    if head != "no-head":
        weights["lm_head.weight"] = weights[EMBEDDING] * (1 if head == "equal" else -2)
    if not has_embedding:
        del weights[EMBEDDING]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    set_config(folder, tie_word_embeddings=tie)
    if (tie is False and (head == "no-head" or not has_embedding)) or (head == "no-head" and not has_embedding):
        # transformers warns and takes random numbers for the missing weights.
        with pytest.raises(CheckpointError, match=r"got no (lm_head|transformer\.wte)\.weight"):
            load_model(folder)
        return
    model, ids = load_model(folder), random_ids(2, 30)
    expected = transformers_logits(folder, ids)
    with torch.inference_mode():
        assert (model.head(model(ids)) - expected).abs().max() < 1e-4
    is_tied = tie is not False and not (head == "different" and has_embedding)
    assert model.config.tie_word_embeddings is is_tied
    assert (model.lm_head.weight is model.transformer.wte.weight) is is_tied
    save_checkpoint(load_checkpoint(folder), tmp_path / "again")
    assert torch.allclose(our_logits(tmp_path / "again", ids), expected, atol=1e-4)
    assert torch.allclose(transformers_logits(tmp_path / "again", ids), expected, atol=1e-4)


# --- files --------------------------------------------------------------------------------------------------------


def as_shards(folder: Path, name: str, save: Callable[[dict[str, torch.Tensor], Path], object]) -> None:
    """Split the weights into three files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    weight_map: dict[str, str] = {}
    for shard in range(3):
        file = f"{stem}-0000{shard + 1}-of-00003.{suffix}"
        part = {key: value for index, (key, value) in enumerate(weights.items()) if index % 3 == shard}
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_safetensors(weights: dict[str, torch.Tensor], path: Path) -> None:
    save_file(weights, path, metadata={"format": "pt"})


def as_bin(folder: Path) -> None:
    """Save the weights as torch.save does, with the head as a second name of the embedding."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights["lm_head.weight"] = weights[EMBEDDING]
    torch.save(weights, folder / "pytorch_model.bin")


def as_old_bin(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def as_links(folder: Path) -> None:
    """Move the files as a cache of Hugging Face holds them: blobs, and links to them in a snapshot."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("..") / "blobs" / str(number))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: as_shards(folder, "model.safetensors", save_safetensors),
        lambda folder: as_shards(folder, "pytorch_model.bin", torch.save),
        as_bin,
        as_old_bin,
        as_links,
    ],
    ids=["shards", "bin-shards", "bin", "old-bin", "links"],
)
def test_other_files_hold_the_same_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, change: Callable[[Path], None]
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    before = load_model(folder).state_dict()
    change(folder)
    after = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    ids = random_ids(1, 20)
    assert torch.allclose(our_logits(folder, ids), transformers_logits(folder, ids), atol=1e-4)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_prefixes_of_wrappers_and_other_types_are_read(
    tmp_path: Path, byte_tokenizer: Tokenizer, prefix: str, dtype: torch.dtype
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + name: value.to(dtype) for name, value in weights.items()}, folder / "model.safetensors")
    model = load_model(folder)
    assert torch.equal(model.transformer.wte.weight, weights[EMBEDDING].to(dtype).float())
    c_fc = "transformer.h.1.mlp.c_fc.weight"
    assert torch.equal(model.state_dict()[c_fc], weights[c_fc].to(dtype).float().t())


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, byte_tokenizer: Tokenizer, new_format: bool
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(
        {**weights, "x": Payload(tmp_path / "pwned")},
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(CheckpointError, match="Nothing of it was run"):
        load_model(folder)
    assert not (tmp_path / "pwned").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "pwned").exists()  # so the file was really hostile


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {EMBEDDING: "../secret.safetensors"}}, "file names without a folder"),
        ({"weight_map": {EMBEDDING: "gone.safetensors"}}, r"got no gone\.safetensors\. Is the download complete"),
        ({"weight_map": []}, "expected the index"),
        ([], "expected the index"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer, index: object, message: str) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_a_padded_vocabulary_stays_padded(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    save_checkpoint(tiny_checkpoint(byte_tokenizer, vocab_size=304), tmp_path / "m")
    loaded = load_checkpoint(tmp_path / "m")
    assert (loaded.config.vocab_size, loaded.tokenizer.vocab_size) == (304, 257)
    save_checkpoint(loaded, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors")[EMBEDDING].shape == (304, 32)


# --- memory -------------------------------------------------------------------------------------------------------

LOAD_AND_MEASURE = """
import sys, torch
from pathlib import Path
from tests.support.models import load_model

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

torch.set_num_threads(1)
load_model(sys.argv[2])  # a tiny model, so that all modules are loaded
before = kilobytes("VmRSS")
model = load_model(sys.argv[1])
print((kilobytes("VmHWM") - before) * 1024 / (4 * model.n_parameters))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("dtype", "kind", "width"),
    [
        (torch.float32, "safetensors", 256),
        pytest.param(torch.float32, "safetensors", 768, marks=pytest.mark.long),
        pytest.param(torch.bfloat16, "safetensors", 768, marks=pytest.mark.long),
        pytest.param(torch.float32, "bin", 768, marks=pytest.mark.long),
        pytest.param(torch.bfloat16, "bin", 768, marks=pytest.mark.long),
    ],
)
def test_loading_takes_little_more_memory_than_the_weights(
    tmp_path: Path, byte_tokenizer: Tokenizer, dtype: torch.dtype, kind: str, width: int
) -> None:
    """40 MB of weights every day, 200 MB in the long tests. The small model has a wider margin: pages are not exact."""
    shape = {"n_layer": 4, "n_embd": width, "vocab_size": 30_000, "n_positions": 512, "n_head": 4}
    folder, tiny = tmp_path / "m", save_tiny(tmp_path / "tiny", byte_tokenizer)
    save_checkpoint(tiny_checkpoint(byte_tokenizer, **shape), folder, dtype=dtype)
    if kind == "bin":
        for place in (folder, tiny):
            as_bin(place)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_MEASURE, str(folder), str(tiny)], capture_output=True, text=True, check=True
    )
    assert 0.9 < float(done.stdout) < (1.2 if width == 768 else 1.4)
