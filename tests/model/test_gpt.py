"""Our GPT-2 against the one of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from assistant.dataset.encode import EncodedExample
from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.model import fused
from assistant.model.checkpoint import load_model
from assistant.model.config import ModelConfig
from assistant.model.gpt import GPT
from assistant.model.linear import Linear, add_copies
from assistant.model.packing import ROUND_TO, PaddedRows
from assistant.settings import TrainOn
from assistant.training.collate import Batch, collate, pad
from assistant.training.loss import summed_loss
from tests.support.models import requires_loops, tiny_checkpoint


@pytest.fixture
def model(byte_tokenizer: Tokenizer) -> GPT:
    return tiny_checkpoint(byte_tokenizer).model


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 257, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_transformers(tmp_path: Path, activation: str, tied: bool) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=48, n_layer=3, n_head=4, activation_function=activation,
        tie_word_embeddings=tied, initializer_range=0.2, bos_token_id=299, eos_token_id=299,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and LayerNorms too, which start at 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.05)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    ids = random_ids(3, 64)
    with torch.inference_mode():
        difference = ours.head(ours(ids)) - theirs(ids).logits
    assert difference.abs().max() < 1e-4
    assert theirs(ids).logits.std() > 0.1  # something to differ in
    assert ours.n_parameters == theirs.num_parameters()


def test_gpt2s_own_sizes_have_gpt2s_parameter_counts() -> None:
    with torch.device("meta"):
        small, medium = GPT(ModelConfig()), GPT(ModelConfig(n_embd=1024, n_layer=24, n_head=16))
    assert (small.n_parameters, medium.n_parameters) == (124_439_808, 354_823_168)


def test_padding_on_the_right_changes_nothing(model: GPT) -> None:
    ids = random_ids(1, 20)
    padded = torch.cat([ids, torch.full((1, 9), 256)], dim=1)
    assert torch.allclose(model(padded)[:, :20], model(ids), atol=1e-6)


def test_the_selective_head_gives_the_plain_loss(model: GPT) -> None:
    rows = [
        EncodedExample(input_ids=tuple(random_ids(n, seed=n).tolist()), prompt_length=n // 2, example=Example(
            instruction="x", output="y"))
        for n in (12, 30, 7)
    ]  # fmt: skip
    choices: tuple[TrainOn, ...] = ("response", "all")
    for train_on in choices:
        ours = summed_loss(model, collate(rows, pad_id=256, train_on=train_on))
        batch = pad(rows, pad_id=256, train_on=train_on)
        logits = model.head(model(batch.input_ids))
        plain = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="sum")
        assert torch.allclose(ours, plain, rtol=1e-5)
        gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (ours, plain)]
        for ours_, plain_ in zip(*gradients, strict=True):
            assert torch.allclose(ours_, plain_, atol=1e-4)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_computing_each_token_once_gives_the_plain_loss_and_gradients(model: GPT, data: st.DataObject) -> None:
    """Ragged rows of few different ids, so that many open alike for a while, or are part of another; with an opening
    in common, or none, or nothing but that; prompts end anywhere.
    """
    opening = tuple(data.draw(st.lists(st.integers(0, 255), max_size=12), label="opening"))
    own = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=20), min_size=1, max_size=6), label="own")
    rows = [
        EncodedExample(
            input_ids=(*opening, *ids),
            prompt_length=data.draw(st.integers(1, len(opening) + len(ids) - 1)),
            example=Example(instruction="x", output="y"),
        )
        for ids in own
    ]
    as_tree = fused.is_compiled() and data.draw(st.booleans(), label="as_tree")
    choices: list[TrainOn] = ["response", "all"]
    train_on = data.draw(st.sampled_from(choices))
    batch = collate(rows, pad_id=256, train_on=train_on, as_tree=as_tree)
    if isinstance(batch.rows, PaddedRows):
        assert batch.rows.n_shared >= len(opening) or len(rows) == 1
    else:
        openings = {row.input_ids[:n] for row in rows for n in range(1, len(row.input_ids))}
        assert 0 <= len(batch.input_ids) - len(openings) < ROUND_TO
    fast, plain = summed_loss(model, batch), summed_loss(model, pad(rows, pad_id=256, train_on=train_on))
    assert torch.allclose(fast, plain, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (fast, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("n_opening", [0, 9])
@pytest.mark.parametrize("as_tree", [False, pytest.param(True, marks=requires_loops)])
def test_rows_that_fill_the_context(model: GPT, n_opening: int, as_tree: bool) -> None:
    """One position too many is refused."""
    longest = model.config.context_length
    opening = random_ids(n_opening).tolist() if n_opening else []
    for excess in (0, 1):
        rows = [
            EncodedExample(
                input_ids=(*opening, first, *random_ids(n - n_opening, seed=n).tolist()),
                prompt_length=n_opening + 2,
                example=Example(instruction="x", output="y"),
            )
            for first, n in ((1, longest + excess), (2, longest - 7))
        ]
        batch = collate(rows, pad_id=256, as_tree=as_tree)
        if excess:
            with pytest.raises(ValueError, match=f"at most {longest} positions, got {longest + 1}"):
                summed_loss(model, batch)
        else:
            assert torch.allclose(summed_loss(model, batch), summed_loss(model, pad(rows, pad_id=256)), rtol=1e-5)


def test_attention_over_long_rows_is_that_over_short_ones(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above so many weights of attention torch's own kernel is asked, here for rows of any length."""
    written_out = gradients_of(model, ragged_batch())
    monkeypatch.setattr("assistant.model.gpt.MOST_SCORES", 0)
    for ours, theirs in zip(gradients_of(model, ragged_batch()), written_out, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def ragged_rows() -> list[EncodedExample]:
    opening = random_ids(9).tolist()
    return [
        EncodedExample(
            input_ids=(*opening, *random_ids(n, seed=n).tolist()),
            prompt_length=9 + n // 2,
            example=Example(instruction="x", output="y"),
        )
        for n in (12, 30, 7, 18)
    ]


def ragged_batch() -> Batch:
    return collate(ragged_rows(), pad_id=256)


def padded_batch() -> Batch:
    return pad(ragged_rows(), pad_id=256)


def gradients_of(model: GPT, batch: Batch, *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    model.zero_grad()
    summed_loss(model, batch, dtype).backward()
    return [parameter.grad.float() for parameter in model.parameters() if parameter.grad is not None]


def test_layers_on_copies_have_the_gradients_of_their_weights(model: GPT) -> None:
    """With copies as wide as the weights they are the plain ones, and a copy never is of older weights."""
    batch = ragged_batch()
    plain = gradients_of(model, padded_batch())
    for layer in (layer for layer in model.modules() if isinstance(layer, Linear)):
        layer.copy = torch.empty_like(layer.weight)
    for factor in (1.0, 1.1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        ours = gradients_of(model, batch)
        for layer in (layer for layer in model.modules() if isinstance(layer, Linear)):
            assert layer.copy is not None
            assert torch.equal(layer.copy, layer.weight)
        if factor == 1.0:
            for one, other in zip(ours, plain, strict=True):
                assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("narrow", [True, False])
def test_bfloat16_copies_give_the_gradients_within_their_rounding(model: GPT, narrow: bool) -> None:
    batch = ragged_batch()
    plain = gradients_of(model, padded_batch())
    add_copies(model, narrow_gradients=narrow)
    ours = gradients_of(model, batch, dtype=torch.bfloat16)
    kept = {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None}
    assert kept == ({torch.float32, torch.bfloat16} if narrow else {torch.float32})
    whole = torch.cat([gradient.flatten() for gradient in plain])
    difference = torch.cat([gradient.flatten() for gradient in ours]) - whole
    assert 0 < difference.norm() < 0.02 * whole.norm()


def test_doors(model: GPT) -> None:
    with pytest.raises(ValueError, match=r"expected input_ids of shape \(B, T\)"):
        model(random_ids(5))
    with pytest.raises(ValueError, match="at most 256 positions, got 257"):
        model(random_ids(1, 257))


def test_initial_weights_follow_the_seed(byte_tokenizer: Tokenizer) -> None:
    first, same, other = (tiny_checkpoint(byte_tokenizer, seed=seed).model for seed in (4, 4, 5))
    assert torch.equal(
        first.get_parameter("transformer.h.1.mlp.c_fc.weight"), same.get_parameter("transformer.h.1.mlp.c_fc.weight")
    )
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)
    assert abs(first.get_parameter("transformer.h.0.attn.c_proj.weight").std().item() - 0.01) < 0.001
