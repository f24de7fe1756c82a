"""Which trainer a run needs: its settings say what is learnt."""

from __future__ import annotations

from pathlib import Path

import torch

from assistant.dataset.splits import Splits
from assistant.model.checkpoint import Checkpoint, config_to_open, load_checkpoint
from assistant.settings import FinetuneSettings, Precision
from assistant.training.classification import ClassifierTrainer
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.dpo import PreferenceTrainer
from assistant.training.trainer import Trainer


def load_trainer(
    folder: Path,
    splits: Splits,
    settings: FinetuneSettings,
    *,
    device: torch.device,
    ranks: Ranks = SINGLE_PROCESS,
    precision: Precision | None = None,
    schedule_start: int = 0,
) -> Trainer:
    """The trainer of a run that starts from a model folder: `make_trainer` of what `load_checkpoint` opens.

    With LoRA in bfloat16, the frozen weights are loaded in bfloat16. Raises what both raise.
    """
    kind, width = _kind(settings), config_to_open(folder).n_embd
    picked = kind.pick_precision(precision or settings.precision, device, width, ranks)
    checkpoint = load_checkpoint(
        folder,
        device=device,
        may_classify=settings.classifier is not None,
        narrow=settings.lora is not None and picked is torch.bfloat16,
    )
    precision = "bfloat16" if picked is torch.bfloat16 else "float32"
    return kind(checkpoint, splits, settings, ranks=ranks, precision=precision, schedule_start=schedule_start)


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
    kind = _kind(settings)
    return kind(checkpoint, splits, settings, ranks=ranks, precision=precision, schedule_start=schedule_start)


def _kind(settings: FinetuneSettings) -> type[Trainer]:
    if settings.classifier is not None:
        return ClassifierTrainer
    return Trainer if settings.beta is None else PreferenceTrainer
