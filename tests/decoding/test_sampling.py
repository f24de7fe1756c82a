"""Sampling against transformers' logits processors, on random logits; ties, chances, and what costs nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assistant.decoding.sampling import RowChance, candidates, penalise, row_chance, sample
from assistant.settings import GenerationSettings

V = 200


def chance(seed: int = 0, seen: tuple[int, ...] = ()) -> RowChance:
    return RowChance(generator=torch.Generator().manual_seed(seed), seen=set(seen))


def draws(logits: list[float], how: GenerationSettings, count: int = 400) -> list[int]:
    row = chance()
    return [sample(torch.tensor([logits]), how, [row])[0] for _ in range(count)]


def probabilities(logits: torch.Tensor, how: GenerationSettings) -> torch.Tensor:
    """Of every token, (B, V)."""
    weights, ids = candidates(logits, how)
    whole = torch.zeros(logits.shape, dtype=torch.float64).scatter_add(-1, ids, weights)
    return whole / whole.sum(dim=-1, keepdim=True)


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
def test_as_transformers(
    seed: int, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, penalty: float
) -> None:
    """The same tokens stay, with the same probabilities, through all filters in transformers' order."""
    from transformers import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, V, generator=generator)
    said = torch.randint(V, (3, 20), generator=generator)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(said, logits.clone())
    rows = [chance(seen=tuple(line)) for line in said.tolist()]
    ours = penalise(logits, penalty, rows)
    assert torch.equal(ours, theirs)
    theirs = TemperatureLogitsWarper(temperature)(said, theirs)
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(said, theirs)
    if top_p is not None:
        theirs = TopPLogitsWarper(top_p)(said, theirs)
    if min_p is not None:
        theirs = MinPLogitsWarper(min_p)(said, theirs)
    expected = theirs.double().softmax(dim=-1)
    how = GenerationSettings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    found = probabilities(ours, how)
    # Where the two round differently just at a border, the tokens there may differ; else none do. transformers drops
    # what float32 has no probability for; ours is float64.
    least = torch.finfo(torch.float32).tiny
    differing = (found > least) != (expected > least)
    assert int(differing.sum()) <= 1
    if not differing.any():
        assert torch.allclose(found, expected, atol=1e-5)


def test_filters_by_hand() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().tolist()
    for kept, how in [
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
    ]:
        assert set(draws(logits, GenerationSettings(temperature=1.0, **how))) == kept, how


def test_draws_follow_the_probabilities() -> None:
    wanted = [0.5, 0.3, 0.15, 0.05]
    logits = torch.tensor(wanted).log().tolist()
    found = draws(logits, GenerationSettings(temperature=1.0), 4000)
    for index, probability in enumerate(wanted):
        assert abs(found.count(index) / 4000 - probability) < 0.03
    assert draws(logits, GenerationSettings(temperature=0.25), 1000).count(0) / 1000 > 0.85
    for temperature in (0.0, 1e-42):
        assert set(draws(logits, GenerationSettings(temperature=temperature))) == {0}


def test_tokens_as_likely_as_the_kth_are_all_kept_and_neighbours_do_not_matter() -> None:
    tied = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, -1.0])
    plain = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    how = GenerationSettings(temperature=1.0, top_k=2)
    both = probabilities(torch.stack([tied, plain]), how)
    assert both[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert both[1].nonzero()[:, 0].tolist() == [0, 1]
    alone, together = chance(3), chance(3)
    expected = [sample(plain[None], how, [alone])[0] for _ in range(50)]
    assert [sample(torch.stack([tied, plain]), how, [chance(), together])[1] for _ in range(50)] == expected


def test_of_equal_tokens_at_the_border_of_top_p_the_smallest_ids_are_kept() -> None:
    found = probabilities(torch.zeros(1, 10), GenerationSettings(temperature=1.0, top_p=0.35))
    assert found[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_rows_have_chances_of_their_own() -> None:
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(1))
    how = GenerationSettings(temperature=2.0)

    def alone(line: int, seed: int) -> list[int]:
        row = row_chance(seed, [line])
        return [sample(logits[line : line + 1], how, [row])[0] for _ in range(20)]

    rows = [row_chance(7, [0]), row_chance(7, [1])]
    together = [sample(logits, how, rows) for _ in range(20)]
    assert [first for first, _ in together] == alone(0, 7)
    assert [second for _, second in together] == alone(1, 7)
    assert alone(0, 8) != alone(0, 7)
    assert alone(0, 2**63 - 1) != alone(0, 7)


def test_the_penalty_counts_in_greedy_decoding_and_new_tokens_are_seen() -> None:
    row = row_chance(0, [2])
    logits = torch.tensor([[-0.5, 1.0, 1.5, 0.9]])
    how = GenerationSettings(repetition_penalty=2.0)
    assert [sample(logits, how, [row])[0] for _ in range(3)] == [1, 3, 2]
    assert torch.equal(logits, torch.tensor([[-0.5, 1.0, 1.5, 0.9]]))  # left as they were
    negative = penalise(torch.tensor([[-1.0, 1.0]]), 2.0, [chance(seen=(0, 1))])
    assert negative.tolist() == [[-2.0, 0.5]]


def test_greedy_draws_nothing_and_takes_the_first_of_equal_tokens() -> None:
    row = chance()
    before = row.generator.get_state()
    assert sample(torch.tensor([[1.0, 3.0, 3.0]]), GenerationSettings(), [row]) == [1]
    assert torch.equal(row.generator.get_state(), before)


def test_a_number_just_below_one_takes_the_last_token_that_may_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_args, **_kwargs: largest)
    for logits in (torch.zeros(1, 3), torch.tensor([[0.0, -0.3, -1.7]]), torch.tensor([[4.0, 1.0, float("-inf")]])):
        (token,) = sample(logits, GenerationSettings(temperature=1.0), [chance()])
        assert token == int(logits.isfinite().sum()) - 1
        (token,) = sample(logits, GenerationSettings(temperature=1.0, top_k=1, top_p=0.1), [chance()])
        assert logits[0, token] == logits.max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"repetition_penalty": float("inf")},
        {"stop": ("",)}, {"stop": "word"}, {"logprobs": -1},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GenerationSettings.model_validate(wrong)
