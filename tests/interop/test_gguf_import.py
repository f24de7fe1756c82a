"""GGUF files of GPT-2 and of the Llama family become models again, bit for bit, and others are refused by name."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.interop import gguf_reader
from assistant.interop.gguf import export_gguf
from assistant.interop.gguf_import import import_gguf
from assistant.model.checkpoint import Checkpoint
from assistant.model.config import LlamaConfig
from tests.support.models import tiny_checkpoint, tiny_llama
from tests.support.rows import random_ids

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": False},
    "llama with biases": {"model_type": "llama", "attention_bias": True},
    "llama 3": {"model_type": "llama", "rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    "linear": {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
}


def checkpoint_of(kind: str, tokenizer: Tokenizer) -> Checkpoint:
    """Return a tiny model. Its norms and biases are random too."""
    checkpoint = tiny_checkpoint(tokenizer) if kind == "gpt2" else tiny_llama(tokenizer, **KINDS[kind])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in checkpoint.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return checkpoint


@pytest.mark.parametrize("kind", ["gpt2", *KINDS])
def test_a_file_of_ours_becomes_the_same_model(tmp_path: Path, byte_tokenizer: Tokenizer, kind: str) -> None:
    before = checkpoint_of(kind, byte_tokenizer)
    export_gguf(before, tmp_path / "model.gguf", "f32")
    after, _ = import_gguf(tmp_path / "model.gguf")
    state = after.model.state_dict()
    assert state.keys() == before.model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in before.model.state_dict().items())
    ids = random_ids(1, 30)
    with torch.inference_mode():
        assert torch.allclose(after.model.head(after.model(ids)), before.model.head(before.model(ids)), atol=1e-5)
    assert after.tokenizer.encode("Déjà 123 vu?") == before.tokenizer.encode("Déjà 123 vu?")
    assert (after.name, after.info, after.tokenizer.eos_ids) == ("model", None, before.tokenizer.eos_ids)
    if isinstance(before.config, LlamaConfig) and isinstance(after.config, LlamaConfig):
        assert after.config.rope == before.config.rope
        assert after.config.heads == before.config.heads


def test_queries_and_keys_of_a_llama_have_the_order_of_llama_cpp(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    """As its converter permutes them (convert_hf_to_gguf.py, LlamaModel.permute)."""
    import gguf

    checkpoint = checkpoint_of("llama", byte_tokenizer)
    export_gguf(checkpoint, tmp_path / "model.gguf", "f32")
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    ours = checkpoint.model.state_dict()["transformer.h.1.attn.c_attn.weight"].numpy()
    for name, rows, heads in (("attn_q", ours[:32], 4), ("attn_k", ours[32:48], 2)):
        permuted = rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
        assert np.array_equal(written[f"blk.1.{name}.weight"], permuted)
    assert np.array_equal(written["blk.1.attn_v.weight"], ours[48:])


@pytest.mark.parametrize("quantization", ["f16", "q8_0"])
def test_packed_weights_are_unpacked(tmp_path: Path, byte_tokenizer: Tokenizer, quantization: Any) -> None:
    before = checkpoint_of("llama", byte_tokenizer)
    written = export_gguf(before, tmp_path / "model.gguf", quantization)
    after = import_gguf(tmp_path / "model.gguf")[0].model.state_dict()
    differences = [(after[name] - value).abs().max().item() for name, value in before.model.state_dict().items()]
    assert 0 < max(differences) == pytest.approx(written.largest_error)


def test_a_file_that_cannot_be_a_model_here_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"expected a model of the families gpt2, llama, .*, got 'gemma3'"):
        import_gguf(path)
    path.write_bytes(b"no gguf")
    with pytest.raises(CheckpointError, match="expected a whole GGUF file, got"):
        import_gguf(path)
    export_gguf(checkpoint_of("qwen2", byte_tokenizer), path, "f32")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="expected a whole GGUF file, got"):
        import_gguf(path)


TEXT, NUMBER = b"\x08\0\0\0", b"\x04\0\0\0"
"""GGUF's types of a value."""


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("general.architecture", TEXT + b"\x03\0\0\0\0\0\0\0\xff\xff\xff", r"m\.gguf: expected a whole GGUF file"),
        ("llama.block_count", NUMBER + b"\xff\xff\xff\xff", r"m\.gguf: .* got num_hidden_layers 4294967295: Inp"),
        ("tokenizer.ggml.eos_token_id", NUMBER + bytes(4), r"m\.gguf/tokenizer\.json.*: expected the end-of-text"),
    ],
)  # fmt: skip
def test_damaged_metadata_is_one_sentence_that_names_the_file(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, key: str, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("m.gguf")
    export_gguf(checkpoint_of("llama", byte_tokenizer), path, "f32")
    before, _, after = path.read_bytes().partition(key.encode())
    path.write_bytes(before + key.encode() + content + after[len(content) :])
    with pytest.raises(CheckpointError, match=message) as caught:
        import_gguf(path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    export_gguf(checkpoint_of("qwen2", byte_tokenizer), tmp_path / "m.gguf", "f32")
    written = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(written[:-4] + b"\x00\x00\x80\x7f")
    with pytest.raises(CheckpointError, match=r"m\.gguf: expected output_norm.* to be finite, got inf or NaN"):
        import_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff\xff\xff\0\0\0\0",  # four thousand million texts in a file of some kilobytes
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\0\0\0\0\0\0",  # not too many for a file, but for this one
    ],
)
def test_a_count_that_is_larger_than_the_file_is_refused_at_once(
    tmp_path: Path, byte_tokenizer: Tokenizer, content: bytes
) -> None:
    export_gguf(checkpoint_of("llama", byte_tokenizer), tmp_path / "m.gguf", "f32")
    key = b"tokenizer.ggml.tokens" + b"\x09\0\0\0" + TEXT
    before, found, after = (tmp_path / "m.gguf").read_bytes().partition(key)
    assert found
    (tmp_path / "m.gguf").write_bytes(before + key + content + after[len(content) :])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"m\.gguf: expected a whole GGUF file, got .* values"):
        import_gguf(tmp_path / "m.gguf")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20


@pytest.mark.parametrize("offset", [2**64 - 64, 2**63, 10**9])
def test_a_tensor_outside_the_file_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer, offset: int) -> None:
    """The package adds offsets in 64 bits, so 2^64 - 64 would be 64 bytes before the first tensor."""
    export_gguf(checkpoint_of("llama", byte_tokenizer), tmp_path / "m.gguf", "f32")
    name = b"blk.1.attn_norm.weight"
    before, found, after = (tmp_path / "m.gguf").read_bytes().partition(name)
    n_dimensions = int.from_bytes(after[:4], "little")
    place = 4 + 8 * n_dimensions + 4
    assert found
    assert int.from_bytes(after[place : place + 8], "little") < len(after)
    changed = after[:place] + offset.to_bytes(8, "little") + after[place + 8 :]
    (tmp_path / "m.gguf").write_bytes(before + name + changed)
    with pytest.raises(
        CheckpointError, match=rf"m\.gguf: expected a whole GGUF file, got a tensor at byte {offset} of"
    ):
        import_gguf(tmp_path / "m.gguf")


def test_arrays_in_arrays_without_end_are_refused(tmp_path: Path) -> None:
    depth, array = 5_000, b"\x09\0\0\0"
    name = b"general.architecture"
    head = b"GGUF\3\0\0\0" + bytes(8) + (1).to_bytes(8, "little") + len(name).to_bytes(8, "little") + name
    (tmp_path / "m.gguf").write_bytes(head + array + (array + (1).to_bytes(8, "little")) * depth)
    with pytest.raises(CheckpointError, match="expected a whole GGUF file, got arrays inside arrays without end"):
        import_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(("limit", "found"), [(250, "an array of 257 values"), (500, "more than 500 values")])
def test_a_file_with_too_many_values_is_refused(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, limit: int, found: str
) -> None:
    export_gguf(checkpoint_of("llama", byte_tokenizer), tmp_path / "m.gguf", "f32")
    monkeypatch.setattr(gguf_reader, "MAX_VALUES", limit)
    with pytest.raises(CheckpointError, match=rf"m\.gguf: expected a whole GGUF file, got {found}"):
        import_gguf(tmp_path / "m.gguf")
