"""Which rows a fine-tuned model was trained on: its own data, their split, and the prompts in its folder.

Evaluation and the chat choose the rows to answer by these rules. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from assistant.dataset.examples import Example
from assistant.dataset.splits import (
    DEFAULT_FRACTIONS,
    DEFAULT_SPLIT_SEED,
    Splits,
    data_fingerprint,
    split_examples,
)
from assistant.dataset.trained_prompts import PromptHashes, prompt_hashes, read_hashes
from assistant.model.config import ModelInfo


def is_own_data(info: ModelInfo | None, examples: Sequence[Example]) -> bool:
    """Return whether a model's training run split exactly these rows. Never true of a base model, with `info` None."""
    return info is not None and info.data_fingerprint == data_fingerprint(examples)


def split_as_trained(info: ModelInfo | None, examples: Sequence[Example]) -> Splits:
    """Split rows as the model's training run did, or with the default settings for a base model.

    Raises:
        SettingsError: the run used the book's split, and there are conversations among the rows.
    """
    if info is None:
        return split_examples(examples, method="grouped", seed=DEFAULT_SPLIT_SEED, fractions=DEFAULT_FRACTIONS)
    return split_examples(examples, method=info.split_method, seed=info.split_seed, fractions=info.split_fractions)


def trained_prompts(folder: Path, info: ModelInfo | None, examples: Sequence[Example]) -> PromptHashes | None:
    """Return the hashes of the prompts that the model in `folder` was fine-tuned on. None if they are not known.

    A folder without hashes is a base model or of an older version. The training part of an old model is known if
    `examples` are the rows that it is from.
    """
    trained = read_hashes(folder)
    if trained is None and is_own_data(info, examples):
        return prompt_hashes(split_as_trained(info, examples).train)
    return trained
