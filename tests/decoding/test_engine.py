"""The engine against transformers, batches against single rows, the prefix cache, and the ways a row can end."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import split_examples
from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine, build_engine, generate
from assistant.decoding.generated import Generated
from assistant.errors import ContextError
from assistant.model.checkpoint import load_checkpoint
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from assistant.shipped import find_model, shipped
from tests.support.generation import (
    GREEDY,
    SAMPLED,
    CountingDecoder,
    by_index,
    common_tokens,
    generate_all,
    random_prompts,
)
from tests.support.models import load_model

PENALISED = SAMPLED.model_copy(update={"repetition_penalty": 1.5, "min_p": 0.01})


def assert_likeliest(token_ids: tuple[int, ...], logits: Tensor) -> None:
    """Each token is the likeliest of its logits (T, V), up to the first near tie that went the other way."""
    top = logits.topk(2, dim=-1)
    margins = (top.values[:, 0] - top.values[:, 1]).tolist()
    for token_id, (first, second), margin in zip(token_ids, top.indices.tolist(), margins, strict=True):
        if token_id != first:
            assert token_id == second
            assert margin < 1e-4
            break


def test_greedy_tokens_equal_those_of_transformers(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=64, n_embd=48, n_layer=2, n_head=4, initializer_range=0.15,
        bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    reference = GPT2LMHeadModel(config).eval()
    reference.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    prompts = random_prompts(200, 63)
    for generated, prompt in zip(generate_all(model, prompts, GREEDY, eos_id=300, batch_size=16), prompts, strict=True):
        # One forward over all tokens checks them by induction: each is what transformers chooses after those before it.
        with torch.inference_mode():
            logits = reference(torch.tensor([[*prompt, *generated.token_ids]])).logits[0, len(prompt) - 1 : -1]
        assert_likeliest(generated.token_ids, logits)
        assert len(generated.token_ids) == min(24, 64 - len(prompt))
    for prompt in [prompt for prompt in prompts if len(prompt) < 40][:5]:
        new_ids = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=24, do_sample=False, pad_token_id=256,
        )[0, len(prompt) :].tolist()  # fmt: skip
        expected = new_ids[: new_ids.index(256)] if 256 in new_ids else new_ids
        assert generate_all(model, [prompt], GREEDY)[0].token_ids == tuple(expected)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_a_row_gets_the_same_tokens_alone_and_in_any_batch(model: GPT, settings: GenerationSettings) -> None:
    prompts = random_prompts(30, 63, seed=2)
    (eos_id,) = common_tokens(generate_all(model, prompts, settings), 1)
    single = [generate_all(model, [prompt], settings, eos_id=eos_id)[0] for prompt in prompts]
    for batch_size in (3, 30):
        batched = generate_all(model, prompts, settings, eos_id=eos_id, batch_size=batch_size)
        assert [g.token_ids for g in batched] == [g.token_ids for g in single]
        assert [g.stop_reason for g in batched] == [g.stop_reason for g in single]
    assert {g.stop_reason for g in single} == {"eos", "length"}


def test_the_seed_decides_the_draws(model: GPT) -> None:
    prompts = random_prompts(10, 20, seed=3)

    def token_ids(seed: int) -> list[tuple[int, ...]]:
        settings = GenerationSettings(max_new_tokens=20, temperature=1.0, seed=seed)
        return [g.token_ids for g in generate_all(model, prompts, settings)]

    torch.manual_seed(0)
    first = token_ids(1)
    torch.manual_seed(99)  # torch's global generator does not matter
    assert token_ids(1) == first
    assert token_ids(2) != first


def test_the_pocket_model_gives_the_same_tokens_in_any_batch_with_any_kernel_and_with_a_draft() -> None:
    checkpoint = load_checkpoint(find_model("pocket"))
    rows = split_examples(read_examples(shipped("instructions.json"))).test[:48]
    prompts = [checkpoint.tokenizer.encode(checkpoint.template.render(row.instruction, row.input)) for row in rows]
    eos_id = checkpoint.tokenizer.eos_id
    plain = Engine(Decoder(checkpoint.model, plain=True), eos_id=eos_id)
    expected = [next(plain.generate([prompt], GREEDY)).token_ids for prompt in prompts]
    drafted = Engine(Decoder(checkpoint.model), eos_id=eos_id, draft=Decoder(checkpoint.model, storage="int8"))
    assert [next(drafted.generate([prompt], GREEDY)).token_ids for prompt in prompts] == expected
    for batch_size in (5, 48):
        auto = build_engine(checkpoint.model, eos_id=eos_id)
        batched = by_index(auto.generate(prompts, GREEDY, batch_size=batch_size))
        assert [g.token_ids for g in batched] == expected


def test_build_engine_uses_the_requested_storage(model: GPT) -> None:
    assert build_engine(model, eos_id=256, precision="int8").decoder.storage == "int8"


# --- how rows end -------------------------------------------------------------------------------------------------


def test_a_reply_ends_at_the_end_of_the_context(model: GPT) -> None:
    settings = GenerationSettings(max_new_tokens=500, temperature=5.0, seed=1)
    (generated,) = generate_all(model, [[65] * 60], settings)
    assert generated.stop_reason in {"length", "eos"}
    assert len(generated.token_ids) <= 4
    greedy = GenerationSettings(max_new_tokens=500)
    results = [generate_all(model, [[65 + n] * 60], greedy)[0] for n in range(20)]
    assert max(len(g.token_ids) for g in results if g.stop_reason == "length") == 4


@pytest.mark.parametrize(
    ("length", "message"), [(64, "expected fewer than 64 tokens, got 64"), (0, "at least one token")]
)
def test_prompts_without_room_for_a_reply_are_refused(model: GPT, length: int, message: str) -> None:
    with pytest.raises(ContextError, match=message):
        generate_all(model, [[65], [65] * length], GREEDY)


def test_cancelled_rows_keep_their_tokens(model: GPT) -> None:
    seen_ids: list[int] = []
    prompts = random_prompts(4, 20, seed=5)
    calls = iter(range(100))
    cancelled = list(
        generate(
            model, prompts, SAMPLED, eos_id=256, on_token=lambda _, token_id: seen_ids.append(token_id),
            should_stop=lambda: next(calls) >= 5,
        )
    )  # fmt: skip
    assert sum(len(g.token_ids) for g in cancelled) == len(seen_ids)
    assert {g.stop_reason for g in cancelled} <= {"cancelled", "eos"}
    assert max(len(g.token_ids) for g in cancelled) == 5
    complete = {g.index: g for g in generate_all(model, prompts, SAMPLED)}
    for g in cancelled:
        assert complete[g.index].token_ids[: len(g.token_ids)] == g.token_ids


def test_on_token_ends_only_its_own_row(model: GPT) -> None:
    prompts = random_prompts(3, 20, seed=6)
    complete = generate_all(model, prompts, GREEDY)
    counts: Counter[int] = Counter()

    def on_token(index: int, _token_id: int) -> bool:
        counts[index] += 1
        return index == 1 and counts[1] == 4

    results = by_index(generate(model, prompts, GREEDY, eos_id=256, on_token=on_token))
    assert results[1].stop_reason == "stop"
    assert results[1].token_ids == complete[1].token_ids[:4]
    assert [results[n].token_ids for n in (0, 2)] == [complete[n].token_ids for n in (0, 2)]


@pytest.mark.parametrize("has_draft", [True, False])
def test_a_failure_or_an_early_close_leaves_the_engine_usable(model: GPT, has_draft: bool) -> None:
    draft = Decoder(model, plain=True) if has_draft else None
    engine = Engine(Decoder(model, plain=True), eos_id=256, draft=draft)
    prompts = random_prompts(6, 30, seed=12)
    expected = [generate_all(model, [prompt], GREEDY)[0].token_ids for prompt in prompts]

    def fail(_: int, token_id: int) -> None:
        if token_id % 3 == 0:
            raise RuntimeError("the callback failed")

    for prompt, expected_ids in zip(prompts, expected, strict=True):
        with suppress(RuntimeError):
            list(engine.generate([prompt], GREEDY, on_token=fail))
        with suppress(RuntimeError):
            list(engine.generate(prompts, GREEDY, on_token=fail))
        results = engine.generate(prompts, GREEDY, batch_size=2)
        next(results)
        results.close()
        assert next(engine.generate([prompt], GREEDY)).token_ids == expected_ids


# --- what is computed ---------------------------------------------------------------------------------------------


def test_a_prompt_is_only_read_after_the_prefix_it_shares_with_the_last(model: GPT) -> None:
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=256)

    def generate_one(prompt: list[int]) -> Generated:
        (generated,) = engine.generate([prompt], GREEDY)
        return generated

    first = random_prompts(1, 1)[0] + list(range(30))
    reply = generate_one(first)
    assert decoder.n_prefilled == len(first)
    next_turn = [*first, *reply.token_ids, 7, 8, 9]  # as in a chat
    assert generate_one(next_turn).token_ids == generate_all(model, [next_turn], GREEDY)[0].token_ids
    assert decoder.n_prefilled == len(first) + 4  # the last token of a reply is not in the cache
    assert generate_one(first).token_ids == reply.token_ids
    assert decoder.n_prefilled == len(first) + 5  # the last token of a prompt is read again for its logits
    other = [*first[:10], 200, 201]
    assert generate_one(other).token_ids == generate_all(model, [other], GREEDY)[0].token_ids
    assert decoder.n_prefilled == len(first) + 7


def test_the_prefix_that_all_prompts_share_is_read_once(model: GPT) -> None:
    prefix = list(range(100, 120))
    prompts = [prefix + rest for rest in random_prompts(9, 20, seed=4)]
    n_unshared = sum(len(prompt) - len(prefix) for prompt in prompts)
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=256)
    results = by_index(engine.generate(prompts, GREEDY, batch_size=4))
    assert decoder.n_prefilled == len(prefix) + n_unshared
    assert [g.token_ids for g in results] == [generate_all(model, [prompt], GREEDY)[0].token_ids for prompt in prompts]
    list(engine.generate(prompts, GREEDY, batch_size=4))
    assert decoder.n_prefilled == len(prefix) + 2 * n_unshared


def test_a_waiting_prompt_takes_the_place_of_a_finished_row(model: GPT) -> None:
    """If each batch ran to its end instead, it would take as many steps as its longest reply."""
    prompts = random_prompts(24, 20, seed=6)
    (eos_id,) = common_tokens(generate_all(model, prompts, GREEDY), 1)
    single = [generate_all(model, [prompt], GREEDY, eos_id=eos_id)[0] for prompt in prompts]
    lengths = [len(g.token_ids) + 1 for g in single]
    assert min(lengths) < max(lengths) == 25
    decoder = CountingDecoder(model)
    list(Engine(decoder, eos_id=eos_id).generate(prompts, GREEDY, batch_size=4))
    order = sorted(range(24), key=lambda index: -len(prompts[index]))
    n_steps_by_batch = sum(max(lengths[index] for index in order[start : start + 4]) for start in range(0, 24, 4))
    assert decoder.n_steps < n_steps_by_batch - 10


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_long_prompts_are_read_in_chunks(model: GPT, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    prompts = random_prompts(12, 60, seed=11)
    expected = [g.token_ids for g in generate_all(model, prompts, GREEDY)]
    for name in ("PREFILL_CHUNK", "SINGLE_PROMPT_CHUNK"):
        monkeypatch.setattr(f"assistant.decoding.engine.{name}", chunk)
    engine = Engine(CountingDecoder(model), eos_id=256)
    assert [g.token_ids for g in by_index(engine.generate(prompts, GREEDY, batch_size=5))] == expected
    assert [next(engine.generate([prompt], GREEDY)).token_ids for prompt in prompts] == expected
    (cancelled,) = engine.generate([[*prompts[0][:-1], 3]], GREEDY, should_stop=lambda: True)
    assert (cancelled.token_ids, cancelled.stop_reason) == ((), "cancelled")


# --- log-probabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [GREEDY, PENALISED])
def test_logprobs_equal_those_of_forward_without_a_cache(model: GPT, settings: GenerationSettings) -> None:
    settings = settings.model_copy(update={"logprobs": 3})
    prompts = random_prompts(8, 40, seed=4)
    (eos_id,) = common_tokens(generate_all(model, prompts, settings), 1)
    results = generate_all(model, prompts, settings, eos_id=eos_id, batch_size=5)
    for generated, prompt in zip(results, prompts, strict=True):
        assert generated.logprobs is not None
        new_ids = [*generated.token_ids, *([eos_id] if generated.stop_reason == "eos" else [])]
        assert [token.token_id for token in generated.logprobs] == new_ids
        with torch.inference_mode():
            hidden = model(torch.tensor([[*prompt, *new_ids[:-1]]]))
            expected = model.head(hidden)[0, len(prompt) - 1 :].double().log_softmax(dim=-1)
        for expected_row, token in zip(expected, generated.logprobs, strict=True):
            assert token.logprob == pytest.approx(expected_row[token.token_id].item(), abs=1e-4)
            values, ids = expected_row.topk(3)
            assert [top.logprob for top in token.likeliest] == pytest.approx(values.tolist(), abs=1e-4)
            if (values.diff() < -1e-3).all():
                assert [top.token_id for top in token.likeliest] == ids.tolist()
    assert {generated.stop_reason for generated in results} == {"eos", "length"}
    assert generate_all(model, prompts[:1], GREEDY)[0].logprobs is None


def test_logprobs_of_more_tokens_than_the_vocabulary_has(model: GPT) -> None:
    (generated,) = generate_all(model, [[65]], GenerationSettings(max_new_tokens=1, logprobs=1000))
    assert generated.logprobs is not None
    assert sorted(token.token_id for token in generated.logprobs[0].likeliest) == list(range(257))
    assert sum(math.exp(token.logprob) for token in generated.logprobs[0].likeliest) == pytest.approx(1, abs=1e-5)
