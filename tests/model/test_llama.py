"""The Llama family: logits, losses, gradients and decoding equal those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.decoder import Cache, Decoder, PromptChunk
from assistant.model.gpt import GPT
from assistant.model.linear import add_copies
from assistant.settings import Storage
from assistant.training.collate import collate, pad
from assistant.training.loss import summed_loss
from tests.support.models import load_model, requires_loops, tiny_llama
from tests.support.rows import BYTE_EOS, ragged_rows, random_ids, reference_log_probability

SIZES: dict[str, Any] = {
    "vocab_size": 257, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 256, "eos_token_id": 256,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, all heads": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": False}),
    "llama, grouped, tied, biases": (
        "Llama",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "llama 3": ("Llama", {"num_key_value_heads": 3, "rope_parameters": LLAMA3}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
}


def reference_of(kind: str, folder: Path) -> Any:
    """Make a tiny model of transformers with random weights, and save it."""
    import transformers

    torch.manual_seed(3)
    family, more = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**SIZES | more)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also biases and norms, which start at 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model


@pytest.fixture(params=sorted(KINDS))
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[GPT, Any]:
    """Our model, and that of transformers."""
    reference = reference_of(request.param, tmp_path)
    return load_model(tmp_path), reference


def test_logits_equal_those_of_transformers(both: tuple[GPT, Any]) -> None:
    model, reference = both
    ids = random_ids(3, 40)
    with torch.inference_mode():
        logits, expected = model.head(model(ids)), reference(ids).logits
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    assert model.n_parameters == reference.num_parameters()


@requires_loops
@pytest.mark.parametrize("as_tree", [True, False])
def test_losses_and_gradients_of_packed_rows_equal_those_of_transformers(both: tuple[GPT, Any], as_tree: bool) -> None:
    model, reference = both
    rows = ragged_rows()
    expected = sum(-reference_log_probability(reference, row) for row in rows)
    assert isinstance(expected, Tensor)
    expected.backward()
    padded = summed_loss(model, pad(rows, pad_id=BYTE_EOS))
    assert padded.item() == pytest.approx(expected.item(), abs=1e-3)
    loss = summed_loss(model, collate(rows, pad_id=BYTE_EOS, as_tree=as_tree))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-3)
    gradients = dict(reference.named_parameters())
    wte, trained_wte = gradients["model.embed_tokens.weight"].grad, model.transformer.wte.weight.grad
    assert trained_wte is not None
    assert (trained_wte - wte).abs().max() < 1e-4 * wte.abs().max().clamp(min=1)
    queries = gradients["model.layers.1.self_attn.q_proj.weight"].grad
    trained: dict[str, Any] = {name: weight.grad for name, weight in model.named_parameters()}
    ours = trained["transformer.h.1.attn.c_attn.weight"][: len(queries)]
    assert (ours - queries).abs().max() < 1e-4 * queries.abs().max().clamp(min=1)
    down = gradients["model.layers.0.mlp.down_proj.weight"].grad
    ours = trained["transformer.h.0.mlp.c_proj.weight"]
    assert (ours - down).abs().max() < 1e-4 * down.abs().max().clamp(min=1)


@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2), ("int8", 0.2)])
def test_decoding_gives_the_logits_of_the_model(both: tuple[GPT, Any], storage: Storage, tolerance: float) -> None:
    model, _ = both
    ids = random_ids(2, 30)
    with torch.inference_mode():
        expected = model.head(model(ids))
        decoder = Decoder(model, storage=storage, plain=True)
        cache = Cache(model.config, rows=2, slots=40, device=torch.device("cpu"))
        chunks = [PromptChunk(0, ids[0, :20].tolist()), PromptChunk(1, ids[1, :11].tolist())]
        found = decoder.prefill(chunks, cache, [True, True])
        scale = expected.abs().max()
        assert (found[0] - expected[0, 19]).abs().max() < tolerance * scale
        assert (found[1] - expected[1, 10]).abs().max() < tolerance * scale
        found = decoder.decode_step(torch.stack([ids[0, 20], ids[1, 11]]), cache)
        assert (found[0] - expected[0, 20]).abs().max() < tolerance * scale
        assert (found[1] - expected[1, 11]).abs().max() < tolerance * scale


@requires_loops
def test_decoding_rounds_nothing_while_the_model_is_trained_in_bfloat16(byte_tokenizer: Tokenizer) -> None:
    """The answers of a validation are those of the weights as they are saved."""
    model = tiny_llama(byte_tokenizer).model
    chunks = [PromptChunk(0, random_ids(20).tolist())]

    def logits() -> Tensor:
        cache = Cache(model.config, rows=1, slots=32, device=torch.device("cpu"))
        with torch.inference_mode():
            return Decoder(model, plain=True).prefill(chunks, cache, [True])

    before = logits()
    add_copies(model, narrow_gradients=True)
    assert torch.equal(logits(), before)
