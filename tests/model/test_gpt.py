"""GPT-2: its logits equal those of transformers, and packed batches give the results of padded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assistant.dataset.tokenizer import Tokenizer
from assistant.model import fused
from assistant.model.config import GPTConfig
from assistant.model.gpt import GPT
from assistant.model.packing import ROUND_TO, PaddedRows
from assistant.settings import TrainOn
from assistant.training.collate import collate, pad
from assistant.training.loss import summed_loss
from tests.support.models import load_model, requires_loops, tiny_checkpoint
from tests.support.rows import (
    BYTE_EOS,
    loss_gradients,
    make_row,
    ragged_rows,
    random_ids,
    reference_log_probability,
)


@pytest.fixture
def model(byte_tokenizer: Tokenizer) -> GPT:
    """A tiny model with random weights."""
    return tiny_checkpoint(byte_tokenizer).model


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_transformers(tmp_path: Path, activation: str, tied: bool) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=48, n_layer=3, n_head=4, activation_function=activation,
        tie_word_embeddings=tied, initializer_range=0.2, bos_token_id=299, eos_token_id=299,
    )  # fmt: skip
    reference = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():  # also biases and LayerNorms, which start at 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.05)
    reference.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = random_ids(3, 64)
    with torch.inference_mode():
        logits, expected = model.head(model(ids)), reference(ids).logits
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.1  # not nearly constant, so wrong logits would differ
    assert model.n_parameters == reference.num_parameters()


@requires_loops
@pytest.mark.parametrize("by_layer", [True, False])
@pytest.mark.parametrize("by_width", [True, False])
def test_scaled_attention_gives_the_loss_and_gradients_of_transformers(by_layer: bool, by_width: bool) -> None:
    """In the plain path, in a padded grid and in a tree, all four combinations of the two fields."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=257, n_positions=64, n_embd=32, n_layer=3, n_head=4, initializer_range=0.2,
        scale_attn_by_inverse_layer_idx=by_layer, scale_attn_weights=by_width, attn_pdrop=0.0, embd_pdrop=0.0,
        resid_pdrop=0.0, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    reference = GPT2LMHeadModel(config).eval()
    model = GPT(GPTConfig.model_validate(config.to_dict())).eval()
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    state = {n: v.t() if n.endswith(transposed) else v for n, v in reference.state_dict().items()}
    model.load_state_dict(state)
    rows = ragged_rows()
    expected_loss = sum(-reference_log_probability(reference, row) for row in rows)
    assert isinstance(expected_loss, torch.Tensor)
    expected_loss.backward()
    gradients = dict(reference.named_parameters())
    for batch in (
        pad(rows, pad_id=BYTE_EOS),
        collate(rows, pad_id=BYTE_EOS),
        collate(rows, pad_id=BYTE_EOS, as_tree=True),
    ):
        model.zero_grad()
        loss = summed_loss(model, batch, torch.float32)
        loss.backward()
        assert torch.allclose(loss, expected_loss, rtol=1e-5)
        for name, parameter in model.named_parameters():
            expected = gradients[name].grad
            assert expected is not None
            assert parameter.grad is not None
            actual = parameter.grad.t() if name.endswith(transposed) else parameter.grad
            assert (actual - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max().item()), name


def test_gpt2_configs_have_the_parameter_counts_of_gpt2() -> None:
    with torch.device("meta"):
        small, medium = GPT(GPTConfig()), GPT(GPTConfig(n_embd=1024, n_layer=24, n_head=16))
    assert (small.n_parameters, medium.n_parameters) == (124_439_808, 354_823_168)


def test_padding_on_the_right_does_not_change_hidden_states(model: GPT) -> None:
    ids = random_ids(1, 20)
    padded = torch.cat([ids, torch.full((1, 9), BYTE_EOS)], dim=1)
    assert torch.allclose(model(padded)[:, :20], model(ids), atol=1e-6)


def test_wrong_shapes_are_refused(model: GPT) -> None:
    with pytest.raises(ValueError, match=r"expected input_ids of shape \(B, T\)"):
        model(random_ids(5))
    with pytest.raises(ValueError, match="at most 256 positions, got 257"):
        model(random_ids(1, 257))


def test_initial_weights_follow_from_the_seed(byte_tokenizer: Tokenizer) -> None:
    first, same, other = (tiny_checkpoint(byte_tokenizer, seed=seed).model for seed in (4, 4, 5))
    name = "transformer.h.1.mlp.c_fc.weight"
    assert torch.equal(first.get_parameter(name), same.get_parameter(name))
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)
    # 0.02 / sqrt(2 * n_layer), with two layers
    assert abs(first.get_parameter("transformer.h.0.attn.c_proj.weight").std().item() - 0.01) < 0.001


# --- packed batches -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_packed_rows_give_the_loss_and_gradients_of_padded_rows(model: GPT, data: st.DataObject) -> None:
    """Rows share a prefix of up to 12 ids. Then each continues with few different ids.

    So many rows are equal for a while, or one is the start of another. Prompts end anywhere.
    """
    prefix = data.draw(st.lists(st.integers(0, 255), max_size=12), label="prefix")
    continuations = data.draw(
        st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=20), min_size=1, max_size=6), label="continuations"
    )
    rows = []
    for continuation in continuations:
        ids = [*prefix, *continuation]
        prompt_length = data.draw(st.integers(1, len(ids) - 1))
        rows.append(make_row(ids[:prompt_length], ids[prompt_length:]))
    as_tree = fused.is_compiled() and data.draw(st.booleans(), label="as_tree")
    choices: list[TrainOn] = ["response", "all"]
    train_on = data.draw(st.sampled_from(choices))
    packed = collate(rows, pad_id=BYTE_EOS, train_on=train_on, as_tree=as_tree)
    if isinstance(packed.rows, PaddedRows):
        assert packed.rows.n_shared >= len(prefix) or len(rows) == 1
    else:
        distinct_prefixes = {row.input_ids[:n] for row in rows for n in range(1, len(row.input_ids))}
        assert 0 <= len(packed.input_ids) - len(distinct_prefixes) < ROUND_TO
    padded = pad(rows, pad_id=BYTE_EOS, train_on=train_on)
    packed_loss, padded_loss = summed_loss(model, packed), summed_loss(model, padded)
    assert torch.allclose(packed_loss, padded_loss, rtol=1e-5)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(loss, parameters) for loss in (packed_loss, padded_loss)]
    for packed_gradient, padded_gradient in zip(*gradients, strict=True):
        assert torch.allclose(packed_gradient, padded_gradient, atol=1e-4)


@pytest.mark.parametrize("n_shared", [0, 9])
@pytest.mark.parametrize("as_tree", [False, pytest.param(True, marks=requires_loops)])
def test_packed_rows_may_fill_the_context_but_not_exceed_it(model: GPT, n_shared: int, as_tree: bool) -> None:
    context_length = model.config.context_length
    prefix = random_ids(n_shared).tolist() if n_shared else []
    for excess in (0, 1):
        rows = []
        for first_id, n_positions in ((1, context_length + excess), (2, context_length - 7)):
            first, *rest = random_ids(n_positions - n_shared, seed=n_positions).tolist()
            rows.append(make_row([*prefix, first_id, first], rest))
        batch = collate(rows, pad_id=BYTE_EOS, as_tree=as_tree)
        if excess:
            with pytest.raises(ValueError, match=f"at most {context_length} positions, got {context_length + 1}"):
                summed_loss(model, batch)
        else:
            expected = summed_loss(model, pad(rows, pad_id=BYTE_EOS))
            assert torch.allclose(summed_loss(model, batch), expected, rtol=1e-5)


def test_explicit_attention_equals_torchs_attention(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above `MOST_SCORES` attention scores torch computes them. With a limit of 0 it does so for any rows."""
    batch = collate(ragged_rows(), pad_id=BYTE_EOS)
    explicit = loss_gradients(model, batch)
    monkeypatch.setattr("assistant.model.block.MOST_SCORES", 0)
    for gradient, expected in zip(loss_gradients(model, batch), explicit, strict=True):
        assert torch.allclose(gradient, expected, atol=1e-5)
