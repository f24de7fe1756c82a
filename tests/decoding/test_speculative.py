"""Speculative decoding gives the decoder's tokens with any draft, and a draft is used only if it is faster."""

from __future__ import annotations

import pytest
import torch

from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine, build_engine
from assistant.decoding.speculative import fastest_draft
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from tests.support.generation import GREEDY, SAMPLED, CountingDecoder, common_tokens, generate_all, random_prompts


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
    assert build_engine(model, eos_id=256).draft is None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([10.0, 10.0, 1.0, 3.0], "int8"),
        ([10.0, 10.0, 3.0, 1.0], "float16"),
        ([10.0, 55.0, 3.0, 1.0], "float16"),
        ([10.0, 75.0, 3.0, 1.0], None),
    ],
)
def test_a_draft_is_used_only_if_it_is_faster(
    model: GPT, monkeypatch: pytest.MonkeyPatch, seconds: list[float], expected: str | None
) -> None:
    """The times are those of a step, of verifying, and of a step in int8 and in float16."""
    monkeypatch.setattr("assistant.decoding.speculative.MIN_WEIGHT_BYTES", 0)
    times = iter(seconds)
    monkeypatch.setattr("assistant.decoding.speculative._min_seconds", lambda *_: next(times))
    draft = fastest_draft(model, Decoder(model, plain=True))
    assert (draft and draft.storage) == expected
