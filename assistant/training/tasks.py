"""Which trainer a run needs: its settings say what is learnt."""

from __future__ import annotations

from assistant.dataset.splits import Splits
from assistant.model.checkpoint import Checkpoint
from assistant.settings import FinetuneSettings, Precision
from assistant.training.classification import ClassifierTrainer
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.dpo import PreferenceTrainer
from assistant.training.trainer import Trainer


def make_trainer(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: FinetuneSettings,
    *,
    ranks: Ranks = SINGLE_PROCESS,
    precision: Precision | None = None,
    schedule_start: int = 0,
) -> Trainer:
    """A `ClassifierTrainer` for settings with a classifier, a `PreferenceTrainer` for ones with a beta, or a `Trainer`.

    Raises what that class raises.
    """
    kind = Trainer if settings.beta is None else PreferenceTrainer
    if settings.classifier is not None:
        kind = ClassifierTrainer
    return kind(checkpoint, splits, settings, ranks=ranks, precision=precision, schedule_start=schedule_start)
