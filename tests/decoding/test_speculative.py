"""Speculative decoding gives the decoder's tokens with any draft, and a draft is used only if it is faster."""

from __future__ import annotations

import pytest
import torch

from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine, build_engine
from assistant.decoding.speculative import FIRST_DRAFTED, MAX_PROPOSED
from assistant.decoding.step import FEW_TOKENS
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from tests.support.generation import GREEDY, SAMPLED, CountingDecoder, common_tokens, generate_all, random_prompts
from tests.support.models import requires_step


def perturbed(model: GPT, noise: float) -> GPT:
    """A copy whose weights have noise, in units of each parameter's standard deviation."""
    copy = GPT(model.config).eval()
    copy.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std(correction=0) * noise)
    return copy


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(
    "settings",
    [GREEDY, SAMPLED, SAMPLED.model_copy(update={"repetition_penalty": 1.3, "min_p": 0.02, "logprobs": 3})],
)
def test_a_draft_changes_only_the_number_of_steps(model: GPT, settings: GenerationSettings, noise: float) -> None:
    eos_id = common_tokens(generate_all(model, random_prompts(10, 40), settings), 3)[-1]
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=eos_id, draft=Decoder(perturbed(model, noise), plain=True))
    prompts = random_prompts(30, 63, seed=8)
    n_tokens = 0
    for prompt in prompts:
        (expected,) = generate_all(model, [prompt], settings, eos_id=eos_id)
        seen_ids: list[int] = []

        def on_token(_: int, token_id: int, seen_ids: list[int] = seen_ids) -> None:
            seen_ids.append(token_id)

        (generated,) = engine.generate([prompt], settings, on_token=on_token)
        assert (generated.token_ids, generated.stop_reason) == (expected.token_ids, expected.stop_reason)
        assert tuple(seen_ids) == generated.token_ids
        for token, expected_token in zip(generated.logprobs or (), expected.logprobs or (), strict=True):
            assert token.logprob == pytest.approx(expected_token.logprob, abs=1e-4)
        n_tokens += len(generated.token_ids)
    assert decoder.n_steps == 0
    assert n_tokens > 100
    if not noise:  # every proposed token is accepted, so hardly a token is read twice
        assert decoder.n_prefilled < sum(len(prompt) for prompt in prompts) + n_tokens + 30


def test_a_draft_ends_at_limits_when_on_token_ends_the_row_and_when_cancelled(model: GPT) -> None:
    engine = Engine(Decoder(model, plain=True), eos_id=256, draft=Decoder(model, plain=True))
    prompt = [65, 66]
    (complete,) = engine.generate([prompt], GREEDY)
    for count in range(1, 20):
        (generated,) = engine.generate([prompt], GenerationSettings(max_new_tokens=count))
        assert (generated.token_ids, generated.stop_reason) == (complete.token_ids[:count], "length")
        seen_ids: list[int] = []

        def stop_at_count(_: int, token_id: int, seen_ids: list[int] = seen_ids, count: int = count) -> bool:
            seen_ids.append(token_id)
            return len(seen_ids) == count

        (generated,) = engine.generate([prompt], GREEDY, on_token=stop_at_count)
        assert (generated.token_ids, generated.stop_reason) == (complete.token_ids[:count], "stop")
        calls: list[int] = []

        def stop_after_count(calls: list[int] = calls, count: int = count) -> bool:
            calls.append(1)
            return len(calls) > count

        (generated,) = engine.generate([prompt], GREEDY, should_stop=stop_after_count)
        assert generated.token_ids == complete.token_ids[: len(generated.token_ids)]
        assert generated.stop_reason == "cancelled"
        assert len(calls) <= count + 2  # it is called once or twice more, and not until the end


def test_small_models_get_no_draft(model: GPT) -> None:
    engine = build_engine(model, eos_id=256)
    assert all(engine.draft_for_next_token() is None for _ in range(2 * FIRST_DRAFTED))


@requires_step
def test_auto_makes_its_draft_after_some_tokens(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the logits that verify are those of single steps, bit for bit, so no token and no log-probability differs."""
    monkeypatch.setattr("assistant.decoding.speculative.MIN_WEIGHT_BYTES", 0)
    settings = GREEDY.model_copy(update={"logprobs": 2, "max_new_tokens": 40})
    for prompt in random_prompts(40, 20, seed=3):
        engine = build_engine(model, eos_id=-1)
        (short,) = engine.generate([prompt], GenerationSettings(max_new_tokens=FIRST_DRAFTED))
        drafts = [engine.draft]
        engine.prefix_cache.clear()
        (found,) = engine.generate([prompt], settings)
        drafts.append(engine.draft)
        assert [draft and draft.storage for draft in drafts] == [None, "int8"]
        engine.prefix_cache.clear()
        (again,) = engine.generate([prompt], settings)  # with the draft from the first token on
        (expected,) = build_engine(model, eos_id=-1, precision="float32").generate([prompt], settings)
        assert short.token_ids == expected.token_ids[:FIRST_DRAFTED]
        assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
        assert (again.token_ids, again.logprobs) == (expected.token_ids, expected.logprobs)
    engine = build_engine(model, eos_id=-1, may_draft=False)
    assert all(engine.draft_for_next_token() is None for _ in range(2 * FIRST_DRAFTED))


def test_what_is_verified_is_computed_in_c_at_every_level() -> None:
    """Else its logits would not be those of single steps, bit for bit."""
    assert min(FEW_TOKENS) >= MAX_PROPOSED


@requires_step
def test_short_replies_together_make_the_draft(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.decoding.speculative.MIN_WEIGHT_BYTES", 0)
    engine, settings = build_engine(model, eos_id=-1), GenerationSettings(max_new_tokens=10)
    has_draft = []
    for prompt in random_prompts(4, 20, seed=3):
        (found,) = engine.generate([prompt], settings)
        (expected,) = build_engine(model, eos_id=-1, precision="float32").generate([prompt], settings)
        assert found.token_ids == expected.token_ids
        has_draft.append(engine.draft is not None)
    assert has_draft == [False, False, True, True]
