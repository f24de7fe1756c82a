"""Linear layers that compute with copies of their weights: the gradients go to the weights, and no copy is outdated."""

from __future__ import annotations

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.gpt import GPT
from assistant.model.linear import Linear, add_copies
from assistant.training.collate import collate, pad
from tests.support.models import tiny_checkpoint
from tests.support.rows import BYTE_EOS, loss_gradients, ragged_rows


@pytest.fixture
def model(byte_tokenizer: Tokenizer) -> GPT:
    """A tiny model with random weights."""
    return tiny_checkpoint(byte_tokenizer).model


def linear_layers(model: GPT) -> list[Linear]:
    return [layer for layer in model.modules() if isinstance(layer, Linear)]


def test_layers_with_copies_give_the_gradients_of_their_weights(model: GPT) -> None:
    """The copies are float32, so nothing is rounded. A copy is renewed when its weights have changed."""
    packed, padded = (batched(ragged_rows(), pad_id=BYTE_EOS) for batched in (collate, pad))
    expected = loss_gradients(model, padded)
    for layer in linear_layers(model):
        layer.copy = torch.empty_like(layer.weight)
    for factor in (1.0, 1.1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        gradients = loss_gradients(model, packed)
        for layer in linear_layers(model):
            assert layer.copy is not None
            assert torch.equal(layer.copy, layer.weight)
        if factor == 1.0:
            for gradient, plain in zip(gradients, expected, strict=True):
                assert torch.allclose(gradient, plain, atol=1e-4)


@pytest.mark.parametrize("narrow", [True, False])
def test_bfloat16_copies_give_the_gradients_except_for_rounding(model: GPT, narrow: bool) -> None:
    packed, padded = (batched(ragged_rows(), pad_id=BYTE_EOS) for batched in (collate, pad))
    expected = torch.cat([gradient.flatten() for gradient in loss_gradients(model, padded)])
    add_copies(model, narrow_gradients=narrow)
    gradients = torch.cat([gradient.flatten() for gradient in loss_gradients(model, packed, precision=torch.bfloat16)])
    dtypes = {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None}
    assert dtypes == ({torch.float32, torch.bfloat16} if narrow else {torch.float32})
    assert 0 < (gradients - expected).norm() < 0.02 * expected.norm()


def test_a_narrow_gradient_takes_the_copys_place_until_its_next_use(model: GPT) -> None:
    packed = collate(ragged_rows(), pad_id=BYTE_EOS)
    add_copies(model, narrow_gradients=False)
    expected = loss_gradients(model, packed, precision=torch.bfloat16)
    add_copies(model, narrow_gradients=True)
    for _ in range(2):  # the second time, the copies hold gradients
        gradients = loss_gradients(model, packed, precision=torch.bfloat16)
        for gradient, wide in zip(gradients, expected, strict=True):
            assert torch.equal(gradient, wide)
        for layer in linear_layers(model):
            assert layer.copy is not None
            assert layer.weight.grad is not None
            assert layer.weight.grad.data_ptr() == layer.copy.data_ptr()
