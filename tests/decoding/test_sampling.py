"""Sampling against transformers' logits processors on random logits; ties, random draws, and log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assistant.decoding.sampling import RowState, candidates, new_row_state, penalise_repetition, sample, token_logprobs
from assistant.settings import GenerationSettings

V = 200


def row_state(seed: int = 0, seen_ids: tuple[int, ...] = ()) -> RowState:
    return RowState(generator=torch.Generator().manual_seed(seed), seen_ids=set(seen_ids))


def draw(logits: list[float], sampling: GenerationSettings, count: int = 400) -> list[int]:
    row = row_state()
    return [sample(torch.tensor([logits]), sampling, [row])[0] for _ in range(count)]


def probabilities(logits: torch.Tensor, sampling: GenerationSettings) -> torch.Tensor:
    """The probability (B, V) of every token to be drawn."""
    weights, ids = candidates(logits, sampling)
    all_weights = torch.zeros(logits.shape, dtype=torch.float64).scatter_add(-1, ids, weights)
    return all_weights / all_weights.sum(dim=-1, keepdim=True)


def transformers_scores(logits: torch.Tensor, seen_ids: torch.Tensor, sampling: GenerationSettings) -> torch.Tensor:
    """Scores (B, V) of transformers: temperature and filters, -inf for tokens that are filtered out."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k is not None:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p is not None:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    for warper in warpers:
        logits = warper(seen_ids, logits)
    return logits


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.1, 3),
    top_k=st.none() | st.integers(1, V + 5),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
    penalty=st.sampled_from([1.0, 0.7, 1.3, 5.0]),
)
@example(seed=0, temperature=0.25, top_k=None, top_p=1.0, min_p=None, penalty=5.0)
def test_filters_and_probabilities_equal_those_of_transformers(
    seed: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, penalty: float
) -> None:
    """The same tokens stay, with the same probabilities, through all filters in transformers' order."""
    from transformers import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, V, generator=generator)
    seen_ids = torch.randint(V, (3, 20), generator=generator)
    penalised = penalise_repetition(logits, penalty, [row_state(seen_ids=tuple(ids)) for ids in seen_ids.tolist()])
    assert torch.equal(penalised, RepetitionPenaltyLogitsProcessor(penalty)(seen_ids, logits.clone()))
    sampling = GenerationSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = transformers_scores(penalised, seen_ids, sampling).double().softmax(dim=-1)
    actual = probabilities(penalised, sampling)
    # One token of a row at a filter's border may differ, where the two round differently. transformers computes in
    # float32 and loses tokens whose probability is below its precision; the project computes in float64.
    is_different = (actual > 0) != (expected > 0)
    is_different &= actual.maximum(expected) > torch.finfo(torch.float32).eps
    assert int(is_different.sum(dim=1).max()) <= 1
    if not is_different.any():
        assert torch.allclose(actual, expected, atol=1e-5)


def test_filters_keep_the_expected_tokens() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().tolist()
    cases: list[tuple[set[int], dict[str, Any]]] = [
        ({1, 3}, {"top_k": 2}),
        ({0, 1, 2, 3}, {"top_k": 9}),
        ({1, 3}, {"top_p": 0.79}),
        ({1, 2, 3}, {"top_p": 0.81}),
        ({1}, {"top_p": 0.01}),
        ({1, 2, 3}, {"min_p": 0.29}),
        ({1, 3}, {"min_p": 0.31}),
        ({1}, {"min_p": 1.0}),
        ({0, 1, 2, 3}, {"min_p": 0.0}),
        ({1}, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}),
    ]
    for expected_ids, filters in cases:
        assert set(draw(logits, GenerationSettings(temperature=1.0, **filters))) == expected_ids, filters


def test_draws_follow_the_probabilities() -> None:
    expected = [0.5, 0.3, 0.15, 0.05]
    logits = torch.tensor(expected).log().tolist()
    drawn_ids = draw(logits, GenerationSettings(temperature=1.0), 4000)
    for token_id, probability in enumerate(expected):
        assert abs(drawn_ids.count(token_id) / 4000 - probability) < 0.03
    assert draw(logits, GenerationSettings(temperature=0.25), 1000).count(0) / 1000 > 0.85
    for temperature in (0.0, 1e-42):
        assert set(draw(logits, GenerationSettings(temperature=temperature))) == {0}


def test_top_k_keeps_ties_and_ignores_the_other_rows() -> None:
    tied = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, -1.0])
    without_ties = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    sampling = GenerationSettings(temperature=1.0, top_k=2)
    both = probabilities(torch.stack([tied, without_ties]), sampling)
    assert both[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert both[1].nonzero()[:, 0].tolist() == [0, 1]
    single, batched = row_state(3), row_state(3)
    expected = [sample(without_ties[None], sampling, [single])[0] for _ in range(50)]
    batch = torch.stack([tied, without_ties])
    assert [sample(batch, sampling, [row_state(), batched])[1] for _ in range(50)] == expected


def test_top_p_keeps_the_smallest_of_equally_likely_ids() -> None:
    actual = probabilities(torch.zeros(1, 10), GenerationSettings(temperature=1.0, top_p=0.35))
    assert actual[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_rows_draw_independently() -> None:
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(1))
    sampling = GenerationSettings(temperature=2.0)

    def draw_alone(index: int, seed: int) -> list[int]:
        row = new_row_state(seed, [index])
        return [sample(logits[index : index + 1], sampling, [row])[0] for _ in range(20)]

    rows = [new_row_state(7, [0]), new_row_state(7, [1])]
    batched = [sample(logits, sampling, rows) for _ in range(20)]
    assert [first for first, _ in batched] == draw_alone(0, 7)
    assert [second for _, second in batched] == draw_alone(1, 7)
    assert draw_alone(0, 8) != draw_alone(0, 7)
    assert draw_alone(0, 2**63 - 1) != draw_alone(0, 7)


def test_a_copied_row_state_makes_the_same_draws() -> None:
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(1))
    sampling = GenerationSettings(temperature=2.0, repetition_penalty=1.3)
    row = new_row_state(7, [0])
    sample(logits, sampling, [row])
    copy = row.copy()
    expected = [sample(logits, sampling, [copy]) for _ in range(20)]
    assert [sample(logits, sampling, [row]) for _ in range(20)] == expected


def test_the_repetition_penalty_applies_to_greedy_decoding_and_to_new_tokens() -> None:
    row = new_row_state(0, [2])
    logits = torch.tensor([[-0.5, 1.0, 1.5, 0.9]])
    sampling = GenerationSettings(repetition_penalty=2.0)
    assert [sample(logits, sampling, [row])[0] for _ in range(3)] == [1, 3, 2]
    assert torch.equal(logits, torch.tensor([[-0.5, 1.0, 1.5, 0.9]]))  # not changed in place
    negative = penalise_repetition(torch.tensor([[-1.0, 1.0]]), 2.0, [row_state(seen_ids=(0, 1))])
    assert negative.tolist() == [[-2.0, 0.5]]


def test_greedy_decoding_uses_no_random_numbers_and_takes_the_first_of_equal_tokens() -> None:
    row = row_state()
    before = row.generator.get_state()
    assert sample(torch.tensor([[1.0, 3.0, 3.0]]), GenerationSettings(), [row]) == [1]
    assert torch.equal(row.generator.get_state(), before)


def test_the_largest_random_number_draws_the_last_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_args, **_kwargs: largest)
    for logits in (torch.zeros(1, 3), torch.tensor([[0.0, -0.3, -1.7]]), torch.tensor([[4.0, 1.0, float("-inf")]])):
        (token_id,) = sample(logits, GenerationSettings(temperature=1.0), [row_state()])
        assert token_id == int(logits.isfinite().sum()) - 1
        (token_id,) = sample(logits, GenerationSettings(temperature=1.0, top_k=1, top_p=0.1), [row_state()])
        assert logits[0, token_id] == logits.max()


def test_logprobs_are_those_of_the_tokens_and_of_the_likeliest_ones() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]).log() + 3
    first, second = token_logprobs(logits, [0, 0], count=2)
    assert first.token_id == 0
    assert first.logprob == pytest.approx(torch.tensor(0.1).log().item())
    assert [top.token_id for top in first.likeliest] == [2, 1]
    assert [top.token_id for top in second.likeliest] == [0, 1]
    assert [top.logprob for top in second.likeliest] == pytest.approx(torch.tensor([0.5, 0.3]).log().tolist())


@pytest.mark.parametrize(
    "invalid",
    [
        {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"repetition_penalty": float("inf")},
        {"stop": ("",)}, {"stop": "word"}, {"logprobs": -1},
    ],
)  # fmt: skip
def test_invalid_generation_settings_are_refused(invalid: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GenerationSettings.model_validate(invalid)
