"""Fine-tuning of bases that differ from GPT-2: what is special about them is there in the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.decoding.engine import generate
from assistant.decoding.session import Session
from assistant.model.checkpoint import load_checkpoint
from assistant.model.config import GPTConfig
from assistant.settings import GenerationSettings
from tests.support.commands import FINETUNE, invoke
from tests.support.models import save_tiny

HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


@pytest.fixture
def other_base(folder: Path) -> Path:
    """A base with an untied head under a tied config, scaled attention, two end tokens, and added tokens."""
    from assistant.dataset.tokenizer import read_tokenizer

    base = save_tiny(folder / "other", read_tokenizer(folder / "base"), vocab_size=264)
    weights = load_file(base / "model.safetensors")
    weights[HEAD] = weights[EMBEDDING] * 1.5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    changes = {"eos_token_id": [257, 256], "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": True}
    for name in ("config.json", "generation_config.json"):
        path = base / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (base / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 257, "<tool>": 258}))
    (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return base


@pytest.mark.parametrize("options", [(), ("--lora",)], ids=["full", "lora"])
def test_a_fine_tuned_model_keeps_what_is_special_about_its_base(
    other_base: Path, folder: Path, options: tuple[str, ...]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = invoke(
        "finetune", "rows.json", "--model", str(other_base), "--output", "out", *FINETUNE, "--max-steps", "2", *options
    )
    assert done.exit_code == 0, done.output
    result = load_checkpoint(folder / "out")
    assert not result.config.tie_word_embeddings
    assert isinstance(result.config, GPTConfig)
    assert result.config.scale_attn_by_inverse_layer_idx
    assert (result.tokenizer.eos_ids, result.tokenizer.eos_id) == ((257, 256), 257)
    ids = result.tokenizer.encode("call <tool> now")
    assert 258 in ids
    hf_tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    assert hf_tokenizer("call <tool> now")["input_ids"] == ids
    reference = AutoModelForCausalLM.from_pretrained(folder / "out").eval()
    assert reference.generation_config.eos_token_id == [257, 256]
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits
        assert torch.allclose(result.model.head(result.model(torch.tensor([ids]))), expected, atol=1e-4)


@pytest.mark.parametrize("eos_id", [256, 257])
def test_each_end_token_ends_a_reply(other_base: Path, eos_id: int) -> None:
    checkpoint = load_checkpoint(other_base)
    with torch.no_grad():  # the head now prefers one token after anything
        for weight in checkpoint.model.transformer.ln_f.parameters():
            weight.fill_(1.0)
        checkpoint.model.lm_head.weight[eos_id] = 9.0
    reply = Session(checkpoint, precision="float32").reply("Say red.", settings=GenerationSettings())
    assert (reply.stop_reason, reply.token_ids) == ("eos", ())
    prompts = [[1, 2, 3], [4]]
    results = generate(checkpoint.model, prompts, GenerationSettings(), eos_id=checkpoint.tokenizer.eos_ids)
    assert {result.stop_reason for result in results} == {"eos"}


def test_a_run_over_another_model_leaves_none_of_its_tokenizer(other_base: Path, folder: Path) -> None:
    """`added_tokens.json` of an earlier model in the same folder would change how the new one tokenizes."""
    for base in (other_base, folder / "base"):
        done = invoke(
            "finetune",
            "rows.json",
            "--model",
            str(base),
            "--output",
            "out",
            *FINETUNE,
            "--max-steps",
            "1",
            "--overwrite",
        )
        assert done.exit_code == 0, done.output
    assert not (folder / "out" / "added_tokens.json").exists()
    assert load_checkpoint(folder / "out").tokenizer.eos_ids == (256,)


def test_an_adapter_is_the_base_of_a_classifier(folder: Path) -> None:
    assert invoke("finetune", "rows.json", "-m", "base", "-o", "out", *FINETUNE, "--lora").exit_code == 0
    rows = [{"text": f"{word} {number}", "label": word} for number in range(12) for word in ("red", "blue")]
    (folder / "texts.json").write_text(json.dumps(rows))
    done = invoke("classify", "train", "texts.json", "-m", "out/adapter", "-o", "labels", "--max-steps", "2")
    assert done.exit_code == 0, done.output
    learnt, trained = (
        load_checkpoint(folder / name, may_classify=True).model.state_dict() for name in ("out", "labels/last")
    )
    change = (learnt[EMBEDDING] - trained[EMBEDDING]).abs().max()
    assert change < 0.02 < learnt[EMBEDDING].std()
