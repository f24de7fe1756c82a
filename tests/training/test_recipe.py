"""The learning rate schedule, and which weights decay."""

from __future__ import annotations

import itertools

import pytest
import torch

from assistant.settings import BOOK, FinetuneSettings
from assistant.training.recipe import BookRecipe, Recipe, make_recipe


def test_learning_rate_warms_up_and_decays_to_a_tenth() -> None:
    recipe = Recipe(FinetuneSettings(learning_rate=1.0, warmup_steps=20))
    rates = [recipe.learning_rate(step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])  # at most a tenth of the steps, so not 20
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.1)
    assert recipe.learning_rate(1, 1) == pytest.approx(0.1)
    assert recipe.learning_rate(1, 200) == pytest.approx(1 / 20)


def test_book_recipe_has_a_constant_rate_and_decays_every_weight() -> None:
    recipe = make_recipe(BOOK)
    assert isinstance(recipe, BookRecipe)
    assert {recipe.learning_rate(step, 100) for step in range(1, 101)} == {5e-5}
    assert recipe.decays(torch.zeros(3))
    assert not make_recipe(FinetuneSettings()).decays(torch.zeros(3))
