"""Model folders: read by transformers, written by others, by older versions, and damaged in many ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.dataset.prompts import get_template
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import CheckpointError
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.folder import atomic_folder, in_memory, save_tensors
from tests.support.models import save_tiny, tiny_checkpoint


def test_transformers_opens_a_folder_that_we_wrote(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny(tmp_path / "ours", byte_tokenizer)
    ours = load_checkpoint(folder)
    hf_model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, 257, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = ours.model.head(ours.model(ids)) - hf_model(ids).logits
    assert difference.abs().max() < 1e-4
    hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Höher <|endoftext|>?"[:6]
    assert hf_tokenizer(text)["input_ids"] == ours.tokenizer.encode(text)
    assert hf_tokenizer.eos_token_id == ours.tokenizer.eos_id
    messages = [{"role": "user", "content": "Sort {b, a}."}]
    rendered = hf_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == get_template("alpaca").render("Sort {b, a}.")


def test_saving_a_loaded_checkpoint_writes_the_same_bytes(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    save_checkpoint(tiny_checkpoint(byte_tokenizer), tmp_path / "a")
    save_checkpoint(load_checkpoint(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "vocab.json", "merges.txt", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    weights = load_file(tmp_path / "a" / "model.safetensors")
    assert weights["transformer.h.0.attn.c_attn.weight"].shape == (32, 96)  # (in, out), as in GPT-2's layout
    assert "lm_head.weight" not in weights


def test_a_float16_base_model_opens_here_and_in_transformers(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM

    original = replace(tiny_checkpoint(byte_tokenizer), template=get_template("text"))
    save_checkpoint(original.as_base(), tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    hf_model = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert hf_model.dtype == torch.float16
    loaded = load_checkpoint(tmp_path / "half")
    assert (loaded.info, loaded.template.name) == (None, "alpaca")
    weight, loaded_weight = original.model.transformer.wte.weight, loaded.model.transformer.wte.weight
    assert loaded_weight.dtype == torch.float32
    assert torch.equal(loaded_weight, weight.to(torch.float16).to(torch.float32))


def test_weights_in_the_format_of_gpt2s_first_release_are_read(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    """`gpt2` on the hub has no prefix, has causal masks as buffers, and may be stored in 16 bits."""
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    path = folder / "model.safetensors"
    weights = load_file(path)
    old_weights = {name.removeprefix("transformer."): value.to(torch.bfloat16) for name, value in weights.items()}
    old_weights["h.0.attn.bias"] = torch.ones(1, 1, 256, 256, dtype=torch.uint8)
    save_file(old_weights, path)
    loaded = load_checkpoint(folder).model
    assert loaded.transformer.wte.weight.dtype == torch.float32
    expected = weights["transformer.wte.weight"].to(torch.bfloat16).float()
    assert torch.equal(loaded.transformer.wte.weight, expected)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


CONFIG_JSON = r"""
{
  "model_type": "gpt2",
  "vocab_size": 257,
  "n_positions": 32,
  "n_embd": 8,
  "n_layer": 1,
  "n_head": 2,
  "n_inner": null,
  "activation_function": "gelu_new",
  "layer_norm_epsilon": 1e-05,
  "tie_word_embeddings": true,
  "scale_attn_weights": true,
  "scale_attn_by_inverse_layer_idx": false,
  "add_cross_attention": false,
  "architectures": ["GPT2LMHeadModel"],
  "n_ctx": 32,
  "dtype": "float32",
  "bos_token_id": 256,
  "eos_token_id": 256
}
"""
ASSISTANT_JSON = r"""
{
  "format": 1,
  "base_model": "gpt2",
  "template": {
    "name": "alpaca",
    "fingerprint": "66c04b6342e8fd94",
    "texts": {
      "preamble": "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
      "preamble_with_input": "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
      "instruction_header": "### Instruction:\n",
      "input_header": "\n\n### Input:\n",
      "response_header": "\n\n### Response:\n",
      "turn_separator": "\n\n"
    }
  },
  "finetune": {
    "epochs": 3,
    "max_steps": null,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "lora": null,
    "freeze_embeddings": true,
    "optimizer": "adamw",
    "learning_rate": 0.003,
    "warmup_steps": 20,
    "weight_decay": 0.1,
    "max_grad_norm": null,
    "beta": null,
    "train_on": "response",
    "template": "alpaca",
    "max_length": null,
    "too_long": "truncate",
    "precision": "float32",
    "gradient_checkpointing": false,
    "validate_every": null,
    "validation_answers": 16,
    "best_by": "loss",
    "patience": null,
    "book": false,
    "seed": 123
  },
  "data_files": ["rows.json"],
  "data_fingerprint": "9caddaa3395894f31eee8af39aa8deb863a83ef252222b5aad14e4c94e001fd0",
  "split_method": "grouped",
  "split_seed": 123,
  "split_fractions": [0.85, 0.1, 0.05],
  "rows": {"train": 36, "validation": 0, "test": 4},
  "metrics": {
    "step": 5,
    "total_steps": 5,
    "first_validation_loss": null,
    "best_validation_loss": null,
    "best_step": null,
    "best_share": null,
    "ended_early": 0,
    "seconds": 2.68545284899983
  },
  "versions": {
    "assistant": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0",
    "tiktoken": "0.14.0",
    "safetensors": "0.8.0"
  }
}
"""  # noqa: E501
STORED_SHAPES: dict[str, tuple[int, ...]] = {
    "transformer.wte.weight": (257, 8),
    "transformer.wpe.weight": (32, 8),
    "transformer.h.0.ln_1.weight": (8,),
    "transformer.h.0.ln_1.bias": (8,),
    "transformer.h.0.attn.c_attn.weight": (8, 24),
    "transformer.h.0.attn.c_attn.bias": (24,),
    "transformer.h.0.attn.c_proj.weight": (8, 8),
    "transformer.h.0.attn.c_proj.bias": (8,),
    "transformer.h.0.ln_2.weight": (8,),
    "transformer.h.0.ln_2.bias": (8,),
    "transformer.h.0.mlp.c_fc.weight": (8, 32),
    "transformer.h.0.mlp.c_fc.bias": (32,),
    "transformer.h.0.mlp.c_proj.weight": (32, 8),
    "transformer.h.0.mlp.c_proj.bias": (8,),
    "transformer.ln_f.weight": (8,),
    "transformer.ln_f.bias": (8,),
}


def write_folder_of_version_0_1_0(folder: Path) -> dict[str, torch.Tensor]:
    """Write a model folder as version 0.1.0 did, without our writer. Returns the weights of the file."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(unprintable)}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in STORED_SHAPES.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(CONFIG_JSON)
    (folder / "assistant.json").write_text(ASSISTANT_JSON)
    (folder / "vocab.json").write_text(json.dumps(characters | {"<|endoftext|>": 256}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return weights


def test_a_folder_of_version_0_1_0_still_opens(tmp_path: Path) -> None:
    """Users have such folders, so later versions of the project must read them."""
    weights = write_folder_of_version_0_1_0(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert (checkpoint.template.name, checkpoint.config.n_layer) == ("alpaca", 1)
    assert checkpoint.tokenizer.encode("Hé") == list("Hé".encode())
    state = checkpoint.model.state_dict()
    assert torch.equal(state["transformer.wte.weight"], weights["transformer.wte.weight"])
    c_attn = "transformer.h.0.attn.c_attn.weight"
    assert torch.equal(state[c_attn], weights[c_attn].t())
    info = checkpoint.info
    assert info is not None
    assert info.finetune.max_grad_norm in (None, 0.0)  # null means no clipping
    loaded, stored = info.model_dump(mode="json"), json.loads(ASSISTANT_JSON)
    loaded_settings, stored_settings = loaded.pop("finetune"), stored.pop("finetune")
    del loaded_settings["max_grad_norm"], stored_settings["max_grad_norm"]
    assert loaded | stored == loaded
    assert loaded_settings | stored_settings == loaded_settings


Damage = Callable[[Path], object]


def change_config(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def change_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


def truncate(name: str, size: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), r"got no config\.json \(found: "),
        (remove("model.safetensors"), r"got no model\.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"pytorch_model\.bin: expected a file of t",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "mine.pth"),
            r"import \S*/m/mine\.pth --output NEW`",
        ),
        (remove("vocab.json"), r"got no vocab\.json"),
        (truncate("model.safetensors", 5000), "expected safetensors, got a file that cannot be read"),
        (truncate("model.safetensors", 3), "expected safetensors"),
        (truncate("config.json", 20), r"config\.json: expected JSON"),
        (truncate("vocab.json", 20), "expected JSON"),
        (change_config(model_type="bloom"), "gpt2, llama, qwen2, qwen3 as \"model_type\", got 'bloom'"),
        (change_config(n_embd=48), "of shape"),
        (change_config(n_layer=3), r"got no transformer\.h\.2\.attn\.c_attn\.bias.* and 9 more"),
        (change_config(n_layer=1), r"got also transformer\.h\.1"),
        (change_config(n_head=5), "n_embd must be a multiple of n_head"),
        (change_config(activation_function="relu"), "activation_function"),
        (change_config(n_positions=10**20), "n_positions"),
        (change_config(layer_norm_epsilon=float("inf")), "layer_norm_epsilon"),
        (overwrite("config.json", "[" * 10**5), r"config\.json: expected JSON"),
        (overwrite("assistant.json", "[" * 10**5), "expected JSON"),
        (overwrite("assistant.json", "{}"), 'got "base_model": Field required'),
        (change_weights(lambda w: w["transformer.ln_f.bias"].fill_(float("nan"))), "expected finite numbers"),
        (change_config(vocab_size=200), "expected a tokenizer of at most 200 ids"),
        (change_weights(lambda w: w.pop("transformer.ln_f.bias")), r"got no transformer\.ln_f\.bias"),
        (change_weights(lambda w: w.update({"extra": torch.ones(1)})), r"got also transformer\.extra"),
        (
            change_weights(lambda w: w.update({"transformer.ln_f.bias": torch.ones(32, dtype=torch.int64)})),
            "to hold floating-point numbers",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_a_message_that_names_the_damage(
    tmp_path: Path, byte_tokenizer: Tokenizer, damage: Damage, message: str
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    load_checkpoint(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got no such folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def fail_half_way() -> None:
        with atomic_folder(target) as folder:
            (folder / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as folder:
        (folder / "first").write_text("1")
    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert [path.name for path in target.iterdir()] == ["first"]
    with atomic_folder(target) as folder:
        (folder / "second").write_text("2")
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_written_one_by_one_with_the_bytes_of_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        "b.weight": (5000, 3),
        "a": (),
        "Z": (7,),
        "b.bias": (2, 1, 3),
        "none": (0, 4),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["turned"] = torch.randn(4, 6, generator=generator).t()
    save_tensors(in_memory(tensors), tmp_path / "ours", dtype)
    converted = {name: value.to(dtype).contiguous() for name, value in tensors.items()}
    save_file(converted, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to try")
def test_a_full_disk_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"/dev/full: expected room to write the weights, got .*No space left"):
        save_tensors(in_memory({"weight": torch.zeros(100_000)}), Path("/dev/full"))


def test_all_files_have_the_same_permissions(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_byte_order_mark_in_the_configuration_is_ignored(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_checkpoint(folder).config.n_layer == 2
