"""What differs between this project's way of training and the book's: row order, schedule, weight decay, head."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from assistant.settings import FinetuneSettings
from assistant.training.batches import book_batches, plan_batches

FINAL_LEARNING_RATE = 0.1
"""Last learning rate, as a share of the peak."""
LARGEST_WARMUP = 0.1
"""Longest warm-up, as a share of all steps: small data sets have few steps."""


class Recipe:
    """This project's recipe."""

    unties_head = False
    """Whether a tied head becomes a weight of its own before training."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.settings = settings

    def batches(self, lengths: Sequence[int], n_validation: int, epoch: int) -> list[list[int]]:
        """Row indices of every micro-batch of an epoch, from the training rows' lengths in tokens."""
        del n_validation
        return plan_batches(lengths, batch_size=self.settings.batch_size, seed=self.settings.seed, epoch=epoch)

    def decays(self, weight: Tensor) -> bool:
        """Whether weight decay applies: to matrices and embeddings, not to biases and LayerNorms."""
        return weight.dim() >= 2

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Learning rate of step 1 to `total_steps`: a linear warm-up that is never zero, then a cosine to a tenth."""
        warmup = min(self.settings.warmup_steps, int(total_steps * LARGEST_WARMUP))
        if step <= warmup:
            return self.settings.learning_rate * step / warmup
        share = (step - warmup) / max(1, total_steps - warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        return self.settings.learning_rate * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine)


class BookRecipe(Recipe):
    """The recipe of the book's loop (rasbt/LLMs-from-scratch, ch07/01_main-chapter-code)."""

    unties_head = True
    evaluate_every = 5
    """Steps between two evaluations (`eval_freq`)."""
    measures_epochs = False
    """Whether the loop measures the accuracy after each epoch."""

    def __init__(self, settings: FinetuneSettings) -> None:
        super().__init__(settings)
        self._epochs: list[list[list[int]]] = []

    def batches(self, lengths: Sequence[int], n_validation: int, epoch: int) -> list[list[int]]:
        """Row indices as in the book: shuffled by torch's generator, without an incomplete last batch."""
        if epoch >= len(self._epochs):
            self._epochs = book_batches(
                len(lengths),
                n_validation,
                batch_size=self.settings.batch_size,
                seed=self.settings.seed,
                epochs=max(epoch + 1, self.settings.epochs),
                evaluate_every=self.evaluate_every,
                measures_epochs=self.measures_epochs,
            )
        return self._epochs[epoch]

    def decays(self, weight: Tensor) -> bool:
        """Every weight."""
        del weight
        return True

    def learning_rate(self, step: int, total_steps: int) -> float:
        """Constant."""
        del step, total_steps
        return self.settings.learning_rate


class BookClassifierRecipe(BookRecipe):
    """The recipe of the book's loop for classifiers (rasbt/LLMs-from-scratch, ch06/01_main-chapter-code)."""

    evaluate_every = 50
    measures_epochs = True


def make_recipe(settings: FinetuneSettings) -> Recipe:
    """The recipe that the settings name."""
    if not settings.book:
        return Recipe(settings)
    return BookRecipe(settings) if settings.classifier is None else BookClassifierRecipe(settings)
