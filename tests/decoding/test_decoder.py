"""The decoder with its cache against `GPT.forward` without one, in every storage; caches and prefixes."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.decoder import Cache, Decoder, PrefixCache, PromptChunk, common_prefix_length
from assistant.decoding.kernels import store_weight
from assistant.model.gpt import GPT
from assistant.model.lora import adapted_layers, add_adapters
from assistant.settings import LoraSettings, Storage
from tests.support.models import tiny_checkpoint

CPU = torch.device("cpu")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15, "float16": 2e-2, "int8": 0.15}


@pytest.fixture(scope="module", params=["tied", "untied", "scaled"])
def model(request: pytest.FixtureRequest, byte_tokenizer: Tokenizer) -> GPT:
    """Random weights, with biases and norms large enough to matter."""
    scaling = (
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False} if request.param == "scaled" else {}
    )
    model = tiny_checkpoint(byte_tokenizer, n_positions=64, **scaling).model
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if request.param == "untied":
        model.untie()
        with torch.no_grad():
            model.lm_head.weight.mul_(1.5)
    return model


def random_ids(count: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(256) for _ in range(count)]


def forward_logits(model: GPT, input_ids: list[int]) -> Tensor:
    """Logits (T, V) of one row from the model's own forward."""
    with torch.inference_mode():
        return model.head(model(torch.tensor([input_ids])))[0]


def new_cache(model: GPT, rows: int, slots: int = 64) -> Cache:
    return Cache(model.config, rows=rows, slots=slots, device=CPU)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_logits_equal_forward_without_a_cache(model: GPT, data: st.DataObject) -> None:
    """Prefill rows of different lengths in chunks of any size, several rows at once, and then decode step by step."""
    decoder = Decoder(model)
    lengths = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4), label="lengths")
    rows = [random_ids(64, seed=row) for row in range(len(lengths))]
    expected_rows = [forward_logits(model, input_ids) for input_ids in rows]
    cache = new_cache(model, len(rows))
    with torch.inference_mode():
        while any(cache.lengths[row] < length for row, length in enumerate(lengths)):
            chunks = []
            for row, length in enumerate(lengths):
                if cache.lengths[row] < length:
                    count = data.draw(st.integers(1, length - cache.lengths[row]))
                    chunks.append(PromptChunk(row, rows[row][cache.lengths[row] : cache.lengths[row] + count]))
            all_positions = data.draw(st.booleans())
            starts = [cache.lengths[chunk.row] for chunk in chunks]
            needs_logits = [data.draw(st.booleans()) for _ in chunks]
            logits = decoder.prefill(chunks, cache, needs_logits, all_positions=all_positions)
            expected = [
                expected_rows[chunk.row][start : start + len(chunk.input_ids)]
                if all_positions
                else expected_rows[chunk.row][start + len(chunk.input_ids) - 1 :][:1]
                for chunk, start, chunk_needs_logits in zip(chunks, starts, needs_logits, strict=True)
                if chunk_needs_logits or all_positions
            ]
            assert torch.allclose(logits, torch.cat(expected) if expected else logits.new_zeros(0, 257), atol=1e-4)
        for _ in range(8):
            positions = list(cache.lengths)
            input_ids = torch.tensor([rows[row][position] for row, position in enumerate(positions)])
            logits = decoder.decode_step(input_ids, cache)
            expected_step = torch.stack([expected_rows[row][position] for row, position in enumerate(positions)])
            assert torch.allclose(logits, expected_step, atol=1e-4)


def test_a_copied_row_continues_like_its_source(model: GPT) -> None:
    decoder, cache, other_cache = Decoder(model), new_cache(model, 3), new_cache(model, 1)
    input_ids = random_ids(20, seed=9)
    with torch.inference_mode():
        decoder.prefill([PromptChunk(2, input_ids[:12])], cache, [False])
        other_cache.copy_row(cache, 2, 0, 12)
        cache.copy_row(cache, 2, 0, 7)
        assert (cache.lengths, other_cache.lengths) == ([7, 0, 12], [12])
        for copy, length in ((other_cache, 12), (cache, 7)):
            logits = decoder.prefill([PromptChunk(0, input_ids[length:])], copy, [True])
            assert torch.allclose(logits[0], forward_logits(model, input_ids)[-1], atol=1e-4)


@pytest.mark.parametrize("storage", TOLERANCE)
@pytest.mark.parametrize("plain", [True, False])
def test_every_storage_computes_with_its_rounded_weights(model: GPT, storage: Storage, plain: bool) -> None:
    """The reference is `GPT.forward` with weights that were rounded by the same storage."""
    rounded = GPT(model.config).eval()
    rounded.load_state_dict(model.state_dict())
    always_float32 = ("ln_", "bias", "wpe")
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if not any(part in name for part in always_float32):
                parameter.copy_(store_weight(parameter, None, storage).dequantize())
    decoder, cache = Decoder(model, storage=storage, plain=plain), new_cache(model, 20)
    input_ids = random_ids(30, seed=3)
    expected = forward_logits(rounded, input_ids)
    with torch.inference_mode():
        for row in range(20):
            decoder.prefill([PromptChunk(row, input_ids[:28])], cache, [False])
        for position, n_rows in ((28, 20), (29, 1)):
            logits = decoder.decode_step(torch.tensor([input_ids[position]] * n_rows), cache)
            scale = expected[position].abs().max()
            assert ((logits - expected[position]).abs().max() <= TOLERANCE[storage] * scale).all()
    assert (forward_logits(model, input_ids) - expected).abs().max() > 0 or storage == "float32"


def test_lora_adapters_are_merged(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    input_ids = random_ids(12, seed=1)
    without_adapters = forward_logits(model, input_ids)
    add_adapters(model, LoraSettings(rank=2, alpha=16), seed=1)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=torch.Generator().manual_seed(2)))
    expected = forward_logits(model, input_ids)
    assert (expected - without_adapters).abs().max() > 0.01
    with torch.inference_mode():
        logits = Decoder(model).prefill([PromptChunk(0, input_ids)], new_cache(model, 1), [True], all_positions=True)
    assert torch.allclose(logits, expected, atol=1e-4)


# --- prefixes -----------------------------------------------------------------------------------------------------


def test_common_prefix_length() -> None:
    for first, second, expected in [
        ([], [], 0),
        ([1], [], 0),
        ([1, 2], [1, 2], 2),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2, 3], [1, 4, 3], 1),
        ([5], [1], 0),
    ]:
        assert common_prefix_length(first, second) == expected


def test_a_prefix_cache_keeps_the_shared_prefix_and_grows(model: GPT) -> None:
    decoder, prefix_cache = Decoder(model), PrefixCache(model.config, device=CPU)
    input_ids = random_ids(20, seed=9)

    def read(prompt: list[int], slots: int) -> int:
        """Prefill what the cache does not have, check the logits, and return how many tokens it had."""
        n_kept = prefix_cache.reuse_prefix(prompt, slots)
        assert prefix_cache.cache.slots >= slots
        with torch.inference_mode():
            logits = decoder.prefill([PromptChunk(0, prompt[n_kept:])], prefix_cache.cache, [True])
        prefix_cache.append(prompt[n_kept:])
        assert torch.allclose(logits[0], forward_logits(model, prompt)[-1], atol=1e-4)
        return n_kept

    assert read(input_ids[:12], 12) == 0
    assert read(input_ids[:12], 12) == 11  # the logits after the last token are still needed
    assert read(input_ids, 64) == 12
    assert read([*input_ids[:5], 255, 254], 7) == 5
    prefix_cache.clear()
    assert read(input_ids, 20) == 0
