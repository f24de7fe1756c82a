"""Model folders: ours in transformers, theirs here, and one sentence for each kind of damage."""

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
from assistant.model.checkpoint import (
    atomic_folder,
    check_same_template,
    load_checkpoint,
    save_checkpoint,
    template_record,
)
from tests.support.models import save_tiny, tiny_checkpoint


def test_a_folder_we_wrote_opens_in_transformers(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_tiny(tmp_path / "ours", byte_tokenizer)
    ours = load_checkpoint(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, 257, (2, 50), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = ours.model.head(ours.model(ids)) - theirs(ids).logits
    assert difference.abs().max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Höher <|endoftext|>?"[:6]
    assert tokenizer(text)["input_ids"] == ours.tokenizer.encode(text)
    assert tokenizer.eos_token_id == ours.tokenizer.eos_id
    messages = [{"role": "user", "content": "Sort {b, a}."}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == get_template("alpaca").render("Sort {b, a}.")


def test_saving_and_loading_keeps_every_bit(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    before = tiny_checkpoint(byte_tokenizer)
    save_checkpoint(before, tmp_path / "a")
    save_checkpoint(load_checkpoint(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "vocab.json", "merges.txt", "config.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    weights = load_file(tmp_path / "a" / "model.safetensors")
    assert weights["transformer.h.0.attn.c_attn.weight"].shape == (32, 96)  # GPT-2's own layout
    assert "lm_head.weight" not in weights


def test_a_base_model_in_16_bits_opens_here_and_in_transformers(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM

    before = replace(tiny_checkpoint(byte_tokenizer), template=get_template("text"))
    save_checkpoint(before.as_base(), tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert theirs.dtype == torch.float16
    loaded = load_checkpoint(tmp_path / "half")
    assert (loaded.info, loaded.template.name) == (None, "alpaca")
    weight, ours = before.model.transformer.wte.weight, loaded.model.transformer.wte.weight
    assert ours.dtype == torch.float32
    assert torch.equal(ours, weight.to(torch.float16).to(torch.float32))


def test_the_first_releases_names_are_read(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    """`gpt2` on the hub has no prefix, causal masks as buffers, and may be stored in 16 bits."""
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    path = folder / "model.safetensors"
    weights = load_file(path)
    old = {name.removeprefix("transformer."): value.to(torch.bfloat16) for name, value in weights.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 256, 256, dtype=torch.uint8)
    save_file(old, path)
    loaded = load_checkpoint(folder).model
    assert loaded.transformer.wte.weight.dtype == torch.float32
    expected = weights["transformer.wte.weight"].to(torch.bfloat16).float()
    assert torch.equal(loaded.transformer.wte.weight, expected)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def change_config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def change_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size]) and None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"got no config\.json \(found: "),
        (lambda folder: (folder / "model.safetensors").unlink(), r"got no model\.safetensors"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "Weights that are pickled are not loaded",
        ),
        (lambda folder: (folder / "vocab.json").unlink(), r"got no vocab\.json"),
        (cut("model.safetensors", 5000), "expected safetensors, got a file that cannot be read"),
        (cut("model.safetensors", 3), "expected safetensors"),
        (cut("config.json", 20), r"config\.json: expected JSON"),
        (cut("vocab.json", 20), "expected JSON"),
        (change_config(model_type="llama"), '"model_type": "gpt2", got \'llama\''),
        (change_config(n_embd=48), "of shape"),
        (change_config(n_layer=3), r"got no transformer\.h\.2\.attn\.c_attn\.bias.* and 9 more"),
        (change_config(n_layer=1), r"got also transformer\.h\.1"),
        (change_config(n_head=5), "n_embd must be a multiple of n_head"),
        (change_config(activation_function="relu"), "activation_function"),
        (change_config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
        (change_config(n_positions=10**20), "n_positions"),
        (change_config(layer_norm_epsilon=float("inf")), "layer_norm_epsilon"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**5) and None, r"config\.json: expected JSON"),
        (lambda folder: (folder / "assistant.json").write_text("[" * 10**5) and None, "expected JSON"),
        (lambda folder: (folder / "assistant.json").write_text("{}") and None, 'got "base_model": Field required'),
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
def test_damage_gets_its_sentence(
    tmp_path: Path, byte_tokenizer: Tokenizer, damage: Callable[[Path], None], sentence: str
) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    load_checkpoint(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got no such folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_another_template_is_refused_with_the_first_differing_token(byte_tokenizer: Tokenizer) -> None:
    trained = template_record(get_template("alpaca"))
    common = len("Below is an instruction that describes a task")
    check_same_template(get_template("alpaca"), trained, byte_tokenizer, where="m")
    with pytest.raises(CheckpointError, match=r"token 1 of the prompt: 'B' in training, '<' now"):
        check_same_template(get_template("phi3"), trained, byte_tokenizer, where="m")
    with pytest.raises(CheckpointError, match=rf"token {common + 1} of the prompt: '\.' in training, ',' now"):
        check_same_template(get_template("alpaca-stanford"), trained, byte_tokenizer, where="m")


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


def test_files_are_readable_for_others(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_bom_before_the_configuration_is_nothing(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "m", byte_tokenizer)
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_checkpoint(folder).config.n_layer == 2
