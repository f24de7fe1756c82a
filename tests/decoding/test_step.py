"""The forward pass in C against torch: every storage, level, family and odd shape; threads, forks, broken libraries."""

from __future__ import annotations

import os
import random
import signal
import threading
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.cli.doctor import examine
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding import step
from assistant.decoding.decoder import Cache, Decoder, PromptChunk
from assistant.decoding.engine import Engine
from assistant.model.config import GPTConfig, LlamaConfig, ModelConfig
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings, Storage
from tests.support.libraries import replace_library
from tests.support.models import requires_step, tiny_checkpoint, tiny_llama

pytestmark = requires_step
CPU = torch.device("cpu")
NEAR_TIE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 2e-2, "int8": 5e-2}
"""Tokens whose logits in torch differ by less may change places."""
LEVEL_COUNT = 1 + step.LEVELS.index(step.level() or "plain C")


def random_model(config: ModelConfig, seed: int = 1) -> GPT:
    """A model with biases, norms and embeddings large enough to matter."""
    model = GPT(config).eval()
    model.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def decoder_at(level: int, model: GPT, storage: Storage = "float32") -> Decoder:
    with patch.object(step, "_best_level", lambda _: level):
        return Decoder(model, storage=storage)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Shapes that no vector length divides, and the smallest ones."""
    n_layer, vocab_size = draw(st.integers(1, 3)), draw(st.integers(2, 70))
    if draw(st.booleans()):
        n_head = draw(st.integers(1, 4))
        return GPTConfig(
            n_layer=n_layer, n_head=n_head, n_embd=n_head * draw(st.integers(1, 40)), vocab_size=vocab_size,
            n_positions=40, n_inner=draw(st.none() | st.integers(1, 90)),
            activation_function=draw(st.sampled_from(["gelu_new", "gelu"])),
            scale_attn_by_inverse_layer_idx=draw(st.booleans()), tie_word_embeddings=draw(st.booleans()),
        )  # fmt: skip
    n_kv_head = draw(st.integers(1, 3))
    return LlamaConfig(
        model_type=draw(st.sampled_from(["llama", "qwen2", "qwen3"])), num_hidden_layers=n_layer,
        vocab_size=vocab_size, hidden_size=draw(st.integers(1, 70)), intermediate_size=draw(st.integers(1, 90)),
        num_key_value_heads=n_kv_head, num_attention_heads=n_kv_head * draw(st.integers(1, 3)),
        head_dim=2 * draw(st.integers(1, 36)), max_position_embeddings=40,
        tie_word_embeddings=draw(st.booleans()), attention_bias=draw(st.booleans()),
    )  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(config=configs(), storage=st.sampled_from(step.STORAGES), data=st.data())
def test_logits_equal_those_of_torch(config: ModelConfig, storage: Storage, data: st.DataObject) -> None:
    """Several rows of different lengths in pieces of any size, then steps of all rows, at each level."""
    model = random_model(config)
    level = data.draw(st.integers(0, LEVEL_COUNT - 1), label="level")
    pair = (
        decoder_at(level, model, storage),
        Decoder(model, storage=storage, plain=True),
    )
    lengths = data.draw(st.lists(st.integers(1, 36), min_size=1, max_size=3), label="lengths")
    chance, tolerance = random.Random(3), 1e-3 if storage == "float32" else 4e-3  # keys and values are rounded
    if level < len(step.LEVELS) - 1 and storage != "float32":
        tolerance = 0.15  # torch's kernels for many tokens round inputs to 16 bits
    caches = [Cache(config, rows=4, slots=40, device=CPU, dtype=decoder.cache_dtype) for decoder in pair]
    with torch.inference_mode():
        for row, length in enumerate(lengths):
            start = data.draw(st.integers(0, length - 1))
            ids = [chance.randrange(config.vocab_size) for _ in range(length)]
            pieces = [part for part in (ids[:start], ids[start:]) if part]
            for piece in pieces:
                all_positions, needs = data.draw(st.booleans()), data.draw(st.booleans())
                found = [
                    decoder.prefill([PromptChunk(row, piece)], cache, [needs], all_positions=all_positions)
                    for decoder, cache in zip(pair, caches, strict=True)
                ]
                assert found[0].shape == found[1].shape
                assert (
                    (found[0] - found[1]).abs() <= tolerance * (found[1].abs().amax() if len(found[1]) else 1)
                ).all()
        for _ in range(3):
            next_ids = torch.tensor([chance.randrange(config.vocab_size) for _ in lengths])
            found = [decoder.decode_step(next_ids, cache) for decoder, cache in zip(pair, caches, strict=True)]
            assert ((found[0] - found[1]).abs() <= tolerance * found[1].abs().amax()).all()
    assert caches[0].lengths == caches[1].lengths


@pytest.mark.parametrize("level", range(LEVEL_COUNT))
def test_a_tokens_logits_do_not_depend_on_the_tokens_computed_with_it(level: int, byte_tokenizer: Tokenizer) -> None:
    """The tokens of `auto` are checked together, and must be those of one step after the other, bit for bit."""
    for checkpoint in (tiny_checkpoint(byte_tokenizer, n_positions=64), tiny_llama(byte_tokenizer)):
        model, ids = random_model(checkpoint.config), [random.Random(5).randrange(256) for _ in range(36)]
        decoder, (alone, together) = (
            decoder_at(level, model),
            (Cache(model.config, rows=1, slots=64, device=CPU) for _ in range(2)),
        )
        with torch.inference_mode():
            for cache in (alone, together):
                decoder.prefill([PromptChunk(0, ids[:20])], cache, [False])
            one = torch.cat([decoder.decode_step(torch.tensor([token_id]), alone) for token_id in ids[20:]])
            many = decoder.prefill([PromptChunk(0, ids[20:])], together, [True], all_positions=True)
        assert torch.equal(one, many)


def test_the_number_of_threads_changes_nothing(byte_tokenizer: Tokenizer) -> None:
    model, before = tiny_llama(byte_tokenizer).model, torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            decoder, cache = Decoder(model, storage="int8"), Cache(model.config, rows=1, slots=64, device=CPU)
            with torch.inference_mode():
                decoder.prefill([PromptChunk(0, list(range(30)))], cache, [False])
                found.append(decoder.decode_step(torch.tensor([7]), cache))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(logits, found[0]) for logits in found)


@pytest.mark.parametrize("storage", step.STORAGES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_greedy_tokens_of_200_prompts_equal_torchs(storage: Storage, family: str, byte_tokenizer: Tokenizer) -> None:
    """100 prompts for each family. Where a token differs, torch's two logits are nearly equal; at most once here."""
    checkpoint = tiny_checkpoint(byte_tokenizer, n_positions=64) if family == "gpt2" else tiny_llama(byte_tokenizer)
    model = random_model(checkpoint.config, seed=4)
    chance = random.Random(2)
    prompts = [[chance.randrange(256) for _ in range(chance.randint(1, 40))] for _ in range(100)]
    in_torch = Decoder(model, storage=storage, plain=True)
    decoders = (Decoder(model, storage=storage), in_torch)
    answers = [
        sorted(
            Engine(decoder, eos_id=-1).generate(prompts, GenerationSettings(max_new_tokens=16), batch_size=batch_size),
            key=lambda result: result.index,
        )
        for decoder, batch_size in zip(decoders, (12, 32), strict=True)
    ]
    n_different = 0
    for prompt, ours, theirs in zip(prompts, *answers, strict=True):
        if ours.token_ids == theirs.token_ids:
            continue
        n_different += 1
        pairs = enumerate(zip(ours.token_ids, theirs.token_ids, strict=True))
        place = next(index for index, (first, second) in pairs if first != second)
        ids = [*prompt, *theirs.token_ids[:place]]
        cache = Cache(model.config, rows=1, slots=64, device=CPU)
        with torch.inference_mode():
            (logits,) = in_torch.prefill([PromptChunk(0, ids)], cache, [True])
        assert logits[theirs.token_ids[place]] - logits[ours.token_ids[place]] < NEAR_TIE[storage]
    assert n_different <= 1


def test_ctrl_c_in_a_step_ends_the_answer_and_the_next_one_is_whole(byte_tokenizer: Tokenizer) -> None:
    """Most of the time passes inside the library. Its threads and the kept prefix are usable afterwards."""
    model = random_model(tiny_checkpoint(byte_tokenizer, n_layer=4, n_embd=256, n_positions=1000).config)
    engine, chance = Engine(Decoder(model), eos_id=-1), random.Random(1)
    long, short = (GenerationSettings(max_new_tokens=count, temperature=0.0) for count in (900, 20))
    expected = next(engine.generate([[5, 6, 7]], short)).token_ids
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press_in_a_long_answer() -> None:
        presser = threading.Timer(chance.uniform(0.001, 0.03), os.kill, (os.getpid(), signal.SIGINT))
        presser.start()
        next(engine.generate([[5, 6, 7]], long))

    try:
        for _ in range(10):
            with pytest.raises(KeyboardInterrupt):
                press_in_a_long_answer()
            assert next(engine.generate([[5, 6, 7]], short)).token_ids == expected
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_forked_process_decodes_alone(byte_tokenizer: Tokenizer) -> None:
    """OpenMP's threads are not in the child, which would wait for them for ever."""
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    decoder, cache = Decoder(model), Cache(model.config, rows=1, slots=8, device=CPU)
    with torch.inference_mode():
        expected = decoder.decode_step(torch.tensor([7]), cache)
        child = os.fork()
        if child == 0:
            cache.lengths[0] = 0
            is_same = torch.equal(decoder.decode_step(torch.tensor([7]), cache), expected)
            os._exit(0 if is_same else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("token_id", "row", "position"), [(300, 0, 0), (-1, 0, 0), (1, 2, 0), (1, 0, 8), (1, 0, -1)])
def test_what_is_out_of_range_is_refused(token_id: int, row: int, position: int, byte_tokenizer: Tokenizer) -> None:
    decoder = Decoder(tiny_checkpoint(byte_tokenizer, n_positions=64).model)
    cache = Cache(decoder.config, rows=2, slots=8, device=CPU)
    assert decoder._step is not None
    with pytest.raises(IndexError, match="expected ids, rows and positions of the model and its cache"):
        decoder._step.run([token_id], [row], [position], [0], cache.memory)
    assert all(not layer.any() for layer in cache.layers)


def test_weights_that_c_would_misread_stay_with_torch(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model.bfloat16()
    assert Decoder(model, storage="float32")._step is None
    assert Decoder(tiny_checkpoint(byte_tokenizer).model, plain=True)._step is None


@pytest.mark.parametrize("origin", [None, __file__])
def test_a_missing_or_unloadable_library_is_not_used(monkeypatch: pytest.MonkeyPatch, origin: str | None) -> None:
    step._library.cache_clear()
    replace_library(monkeypatch, "assistant.decoding._step", origin)
    try:
        assert step.level() is None
        assert ("Install the project again." in (step.problem() or "")) == (origin is not None)
        (finding,) = (finding for finding in examine(None) if finding.name == "decoding in C")
        assert finding.ok == (origin is None)
    finally:
        step._library.cache_clear()


def test_a_library_with_other_results_or_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for name, value, fault in (("TOLERANCE", 0.0, "different results"), ("INTERFACE_VERSION", 0, "version")):
            step._library.cache_clear()
            with monkeypatch.context() as patch:
                patch.setattr(step, name, value)
                assert step.level() is None
                assert fault in (step.problem() or "")
    finally:
        step._library.cache_clear()
