"""The decoder with its cache against the plain model without one, in every storage."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.decoder import Cache, Decoder, Piece
from assistant.decoding.kernels import keep
from assistant.model.gpt import GPT
from assistant.model.lora import adapted_layers, add_adapters
from assistant.settings import LoraSettings, Storage
from tests.support.models import tiny_checkpoint

CPU = torch.device("cpu")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 2e-2, "int8": 0.15}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest, byte_tokenizer: Tokenizer) -> GPT:
    """Random weights, biases and norms among them, large enough to differ."""
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if not request.param:
        model.untie()
        with torch.no_grad():
            model.lm_head.weight.mul_(1.5)
    return model


def ids_of(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(256) for _ in range(count)]


def plain_logits(model: GPT, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        return model.head(model(torch.tensor([ids])))[0]


def new_cache(model: GPT, rows: int, slots: int = 64) -> Cache:
    return Cache(model.config, rows=rows, slots=slots, device=CPU)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_logits_equal_those_without_a_cache(model: GPT, data: st.DataObject) -> None:
    """Ragged rows read in pieces of any size, several rows at once, and then token by token."""
    decoder = Decoder(model)
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4), label="lengths")
    rows = [ids_of(64, seed=place) for place in range(len(lengths))]
    expected = [plain_logits(model, ids) for ids in rows]
    cache = new_cache(model, len(rows))
    with torch.inference_mode():
        while any(cache.lengths[row] < length for row, length in enumerate(lengths)):
            pieces = []
            for row, length in enumerate(lengths):
                if cache.lengths[row] < length:
                    count = data.draw(st.integers(1, length - cache.lengths[row]))
                    pieces.append(Piece(row, rows[row][cache.lengths[row] : cache.lengths[row] + count]))
            is_every = data.draw(st.booleans())
            starts = [cache.lengths[piece.row] for piece in pieces]
            wanted = [data.draw(st.booleans()) for _ in pieces]
            found = decoder.read(pieces, cache, wanted, is_every=is_every)
            right = [
                expected[piece.row][start : start + len(piece.input_ids)]
                if is_every
                else expected[piece.row][start + len(piece.input_ids) - 1 :][:1]
                for piece, start, is_wanted in zip(pieces, starts, wanted, strict=True)
                if is_wanted or is_every
            ]
            assert torch.allclose(found, torch.cat(right) if right else found.new_zeros(0, 257), atol=1e-4)
        for _ in range(8):
            places = list(cache.lengths)
            found = decoder.step(torch.tensor([rows[row][place] for row, place in enumerate(places)]), cache)
            right_rows = torch.stack([expected[row][place] for row, place in enumerate(places)])
            assert torch.allclose(found, right_rows, atol=1e-4)


def test_a_row_moves_with_what_it_holds(model: GPT) -> None:
    decoder, cache, other = Decoder(model), new_cache(model, 3), new_cache(model, 1)
    ids = ids_of(20, seed=9)
    with torch.inference_mode():
        decoder.read([Piece(2, ids[:12])], cache, [False])
        other.copy_row(cache, 2, 0, 12)
        cache.copy_row(cache, 2, 0, 7)
        assert (cache.lengths, other.lengths) == ([7, 0, 12], [12])
        for held, start in ((other, 12), (cache, 7)):
            found = decoder.read([Piece(0, ids[start:])], held, [True])
            assert torch.allclose(found[0], plain_logits(model, ids)[-1], atol=1e-4)


@pytest.mark.parametrize("storage", TOLERANCE)
@pytest.mark.parametrize("is_chosen", [True, False])
def test_every_storage_gives_what_its_weights_give(model: GPT, storage: Storage, is_chosen: bool) -> None:
    """Beside a plain model whose weights have been through the same storage."""
    rounded = GPT(model.config).eval()
    rounded.load_state_dict(model.state_dict())
    kept_whole = ("ln_", "bias", "wpe")
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if not any(part in name for part in kept_whole):
                parameter.copy_(keep(parameter, None, storage).restored())
    decoder, cache = Decoder(model, storage=storage, is_chosen=is_chosen), new_cache(model, 20)
    ids = ids_of(30, seed=3)
    expected = plain_logits(rounded, ids)
    with torch.inference_mode():
        for row in range(20):
            decoder.read([Piece(row, ids[:28])], cache, [False])
        for place in (28, 29):  # 20 rows at once, and then one alone
            found = decoder.step(torch.tensor([ids[place]] * (20 if place == 28 else 1)), cache)
            scale = expected[place].abs().max()
            assert ((found - expected[place]).abs().max() <= TOLERANCE[storage] * scale).all()
    assert (plain_logits(model, ids) - expected).abs().max() > 0 or storage == "float32"


def test_a_model_with_adapters_answers_with_what_they_add(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    before = plain_logits(model, ids_of(12, seed=1))
    add_adapters(model, LoraSettings(rank=2, alpha=16), seed=1)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=torch.Generator().manual_seed(2)))
    ids = ids_of(12, seed=1)
    expected = plain_logits(model, ids)
    assert (expected - before).abs().max() > 0.01
    with torch.inference_mode():
        found = Decoder(model).read([Piece(0, ids)], new_cache(model, 1), [True], is_every=True)
    assert torch.allclose(found, expected, atol=1e-4)
