"""The book's `.pth` files; the book's own package is the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.interop.pth import config_path, export_pth, import_pth, tokenizer_path
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.config import GPTConfig
from assistant.model.gpt import GPT
from tests.support.commands import invoke
from tests.support.models import save_tiny, tiny_checkpoint
from tests.support.rows import random_ids

BOOK_CONFIG = {
    "vocab_size": 257, "context_length": 64, "emb_dim": 128, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0,
    "qkv_bias": True,
}  # fmt: skip


def book_model(**changes: object) -> Any:
    from llms_from_scratch.ch04 import GPTModel

    torch.manual_seed(4)
    return GPTModel(BOOK_CONFIG | changes).eval()


def logits_of(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.head(model(ids))


@pytest.fixture
def like(tmp_path: Path, byte_tokenizer: Tokenizer) -> Path:
    return save_tiny(tmp_path / "like", byte_tokenizer)


@pytest.mark.parametrize("wrapped", [False, True], ids=["state-dict", "training-checkpoint"])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_an_imported_model_gives_the_logits_of_the_book(
    tmp_path: Path, like: Path, qkv_bias: bool, wrapped: bool
) -> None:
    book = book_model(qkv_bias=qkv_bias)
    optimizer = torch.optim.AdamW(book.parameters())
    content = {"model_state_dict": book.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save(content if wrapped else book.state_dict(), tmp_path / "model.pth")
    imported = import_pth(tmp_path / "model.pth", like=like)
    save_checkpoint(imported.checkpoint, tmp_path / "imported")
    model, ids = load_checkpoint(tmp_path / "imported").model, random_ids(2, 40)
    with torch.inference_mode():
        expected = book(ids)
    assert (logits_of(model, ids) - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    assert not model.config.tie_word_embeddings


def test_the_faster_variant_of_the_book_is_read(tmp_path: Path, like: Path) -> None:
    from llms_from_scratch.ch04 import GPTModelFast

    torch.manual_seed(4)
    book = GPTModelFast(BOOK_CONFIG).eval()
    torch.save(book.state_dict(), tmp_path / "model.pth")
    model = import_pth(tmp_path / "model.pth", like=like).checkpoint.model
    with torch.inference_mode():
        assert (logits_of(model, random_ids(1, 30)) - book(random_ids(1, 30))).abs().max() < 1e-4


@pytest.mark.parametrize("scaled", [False, True])
def test_the_book_gives_the_logits_of_an_exported_model(
    tmp_path: Path, byte_tokenizer: Tokenizer, scaled: bool
) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer, scale_attn_by_inverse_layer_idx=scaled)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    written = export_pth(checkpoint, tmp_path / "out.pth")
    from llms_from_scratch.ch04 import GPTModel

    book = GPTModel(json.loads(written.config.read_text())).eval()
    book.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    with torch.inference_mode():
        difference = book(random_ids(2, 50)) - logits_of(checkpoint.model, random_ids(2, 50))
    assert difference.abs().max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-tokenizer", "out.json", "out.pth"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_round_trip_keeps_every_bit(tmp_path: Path, byte_tokenizer: Tokenizer, tied: bool) -> None:
    base = load_checkpoint(save_tiny(tmp_path / "base", byte_tokenizer, tie_word_embeddings=tied))
    export_pth(base, tmp_path / "out.pth")
    imported = import_pth(tmp_path / "out.pth")
    assert imported.tokenizer_from == tokenizer_path(tmp_path / "out.pth")
    assert imported.heads_from == "out.json"
    assert imported.checkpoint.config.heads.n_head == 4
    save_checkpoint(imported.checkpoint, tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (tmp_path / "base" / "vocab.json").read_bytes() == (tmp_path / "again" / "vocab.json").read_bytes()


def test_heads_come_from_a_file_or_another_model_or_the_width(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    path = tmp_path / "model.pth"
    torch.save(book_model().state_dict(), path)
    four = save_tiny(tmp_path / "four", byte_tokenizer, n_embd=128)
    narrow = save_tiny(tmp_path / "narrow", byte_tokenizer)
    assert import_pth(path, like=narrow).checkpoint.config.heads.n_head == 2  # 128 / 64
    assert import_pth(path, like=four).checkpoint.config.heads.n_head == 4
    config_path(path).write_text('{"n_heads": 8}')
    assert import_pth(path, like=four).checkpoint.config.heads.n_head == 8
    for text in ('{"n_heads": 7}', "{}", "[", '{"n_heads": "8"}'):
        config_path(path).write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.json: expected"):
            import_pth(path, like=four)
    config_path(path).unlink()
    torch.save(book_model(emb_dim=48).state_dict(), path)
    with pytest.raises(CheckpointError, match="width of 48 is not a multiple of 64"):
        import_pth(path, like=narrow)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "name"),
    [(12, 768, 12, "gpt2"), (24, 1024, 16, "gpt2-medium"), (36, 1280, 20, "gpt2-large"), (48, 1600, 25, "gpt2-xl")],
)
def test_the_four_sizes_are_known(layers: int, width: int, heads: int, name: str) -> None:
    from assistant.interop.pth import HEAD_SIZE, SIZES

    assert SIZES[layers, width] == name
    assert width // HEAD_SIZE == heads
    assert GPTConfig(n_layer=layers, n_embd=width, n_head=heads).heads.size == HEAD_SIZE


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path: Path, like: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(book_model().state_dict() | {"x": Payload(tmp_path / "pwned")}, path)
    with pytest.raises(CheckpointError, match="Nothing of it was run"):
        import_pth(path, like=like)
    assert not (tmp_path / "pwned").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "pwned").exists()  # so the file was really hostile


def other_states() -> dict[str, tuple[Any, str]]:
    state = book_model().state_dict()

    def without(*names: str) -> dict[str, Any]:
        return {name: value for name, value in state.items() if name not in names}

    return {
        "a list": ([1], "expected a state dict, got list"),
        "numbers": ({"a": 1}, "expected a state dict, got dict"),
        "empty": ({}, "expected a state dict"),
        "three labels": (
            state | {"out_head.weight": torch.ones(3, 128), "out_head.bias": torch.ones(3)},
            "expected a different label for each of its 3 outputs, got none.*--labels",
        ),
        "one output": (
            state | {"out_head.weight": torch.ones(1, 128), "out_head.bias": torch.ones(1)},
            "each of its 1 outputs",
        ),
        "narrow head": (state | {"out_head.weight": torch.ones(2, 64)}, "got others for score.weight"),
        "hugging face": ({"transformer.wte.weight": torch.ones(2, 2)}, "got those of Hugging Face"),
        "lora": (state | {"out_head.lora.A": torch.ones(1)}, "layers with LoRA"),
        "no head": (without("out_head.weight"), "got no out_head"),
        "no positions": (without("pos_emb.weight"), "got no pos_emb"),
        "no query": (without("trf_blocks.1.att.W_query.weight"), "got others for"),
        "odd query": (state | {"trf_blocks.1.att.W_query.weight": torch.ones(3)}, "got others for"),
        "no middle block": (
            {n: v for n, v in state.items() if not n.startswith("trf_blocks.0.att")}
            | {"trf_blocks.5.x": torch.ones(1)},
            "got others for",
        ),
        "extra": (state | {"extra": torch.ones(1)}, "got others for extra"),
        "nan": (state | {"final_norm.scale": torch.full((128,), torch.nan)}, "got NaN or infinity"),
        "scalar head": (state | {"out_head.weight": torch.tensor(1.0)}, "got no out_head"),
    }


@pytest.mark.parametrize("case", list(other_states()))
def test_other_files_are_refused_with_a_sentence(tmp_path: Path, like: Path, case: str) -> None:
    content, message = other_states()[case]
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        import_pth(tmp_path / "model.pth", like=like)


def test_damaged_and_missing_files_are_refused(tmp_path: Path, like: Path) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(CheckpointError, match="no such file"):
        import_pth(path, like=like)
    torch.save(book_model().state_dict(), path)
    with pytest.raises(CheckpointError, match="expected a tokenizer, got none in"):
        import_pth(path)
    whole = path.read_bytes()
    for content in (b"", b"x", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"model\.pth: expected a file of t"):
            import_pth(path, like=like)


def test_a_model_that_the_book_cannot_compute_is_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer, n_inner=40, activation_function="gelu")
    with pytest.raises(CheckpointError, match="got n_inner 40 and activation_function gelu"):
        export_pth(checkpoint, tmp_path / "out.pth")
    assert list(tmp_path.iterdir()) == []


def test_the_command_imports_and_keeps_what_is_there(tmp_path: Path, like: Path) -> None:
    path, output = tmp_path / "model.pth", tmp_path / "imported"
    torch.save(book_model().state_dict(), path)
    arguments = ["import", str(path), "--like", str(like), "--output", str(output)]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert "2 heads, from the width, at 64 numbers a head" in done.output
    assert load_checkpoint(output).config.n_layer == 2
    again = invoke(*arguments)
    assert again.exit_code != 0
    assert "replace it with --overwrite" in again.output
    assert invoke(*arguments, "--overwrite").exit_code == 0
    (output / "model.safetensors").unlink()
    refused = invoke(*arguments, "--overwrite")
    assert "which has other files" in refused.output
