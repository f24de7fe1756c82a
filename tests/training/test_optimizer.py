"""The optimizers: which weights each one updates, the gradient norm, and a step with bfloat16 copies."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.model import fused
from assistant.model.linear import Linear, add_copies
from assistant.settings import FinetuneSettings, OptimizerName
from assistant.training.optimizer import build_optimizers, gradient_norm, take_step
from tests.support.models import requires_loops, tiny_checkpoint


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_and_embeddings_decay(byte_tokenizer: Tokenizer, name: OptimizerName) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    settings = FinetuneSettings(weight_decay=0.3, optimizer=name)
    groups = [group for optimizer in build_optimizers(model, settings) for group in optimizer.param_groups]
    decayed = {id(weight) for group in groups if group["weight_decay"] for weight in group["params"]}
    for weight_name, weight in model.named_parameters():
        is_matrix = weight_name.endswith("weight") and ".ln_" not in weight_name
        assert (id(weight) in decayed) == is_matrix, weight_name
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_muon_updates_the_matrices_of_the_blocks_and_adamw_the_rest(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    adamw, muon = build_optimizers(model, FinetuneSettings(optimizer="muon"))
    names = {weight: name for name, weight in model.named_parameters()}
    of_muon, of_adamw = (
        {names[weight] for group in optimizer.param_groups for weight in group["params"]} for optimizer in (muon, adamw)
    )
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert of_muon == {f"transformer.h.{layer}.{kind}.weight" for layer in range(2) for kind in kinds}
    assert of_adamw == set(names.values()) - of_muon


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=requires_loops)])
def test_a_step_with_copies_equals_torchs_step(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, narrow: bool, compiled: bool
) -> None:
    """The gradients are rounded to bfloat16 first, and the factors are powers of two, so nothing else is rounded."""
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled)
    settings = FinetuneSettings(weight_decay=0.3, learning_rate=0.01)
    model, plain_model = (tiny_checkpoint(byte_tokenizer).model for _ in range(2))
    (optimizer,), (plain_optimizer,) = (build_optimizers(either, settings) for either in (model, plain_model))
    add_copies(model, narrow_gradients=narrow)
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 0.5):
        for weight, plain_weight in zip(model.parameters(), plain_model.parameters(), strict=True):
            gradient = torch.randn(weight.shape, generator=generator).bfloat16()
            weight.grad = gradient.clone() if weight.grad_dtype is None else gradient.float()
            plain_weight.grad = gradient.float() * factor
        take_step([optimizer], model, factor)
        plain_optimizer.step()
    # The compiled loops do a few operations in another order.
    is_same = partial(torch.allclose, rtol=1e-5, atol=1e-7) if compiled else torch.equal
    for name, weight in model.named_parameters():
        assert weight.grad is None
        assert is_same(weight, plain_model.get_parameter(name))
    for layer in (layer for layer in model.modules() if isinstance(layer, Linear)):
        assert layer.copy is not None
        assert torch.equal(layer.copy, layer.weight.bfloat16())
    for state, plain_state in zip(optimizer.state.values(), plain_optimizer.state.values(), strict=True):
        assert all(is_same(state[name], plain_state[name]) for name in plain_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=requires_loops)])
def test_gradient_norm_equals_that_in_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, compiled: bool
) -> None:
    monkeypatch.setattr(fused, "is_compiled", lambda: compiled)
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in ((3,), (2**10 + 5, 2**10))]
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        weight.grad_dtype = None
        weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
    gradients = torch.cat([weight.grad.double().view(-1) for weight in weights if weight.grad is not None])
    # Without the loops the norm of each row is rounded to bfloat16. That evens out less over these thousand rows than
    # over the hundred thousand of a model.
    tolerance = 1e-3 if dtype is torch.bfloat16 and not compiled else 1e-4
    assert gradient_norm(weights) == pytest.approx(gradients.norm().item(), rel=tolerance)
