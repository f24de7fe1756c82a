"""Which trainer a run needs: its settings say what is learnt."""

from __future__ import annotations

from pathlib import Path

import torch

from assistant.dataset.splits import Splits
from assistant.model.checkpoint import Checkpoint, folder_to_open, load_checkpoint, read_config
from assistant.settings import FinetuneSettings, Precision
from assistant.training.classification import ClassifierTrainer
from assistant.training.distributed import SINGLE_PROCESS, Ranks
from assistant.training.dpo import PreferenceTrainer
from assistant.training.trainer import Trainer


def make_trainer(
    start: Checkpoint | Path,
    splits: Splits,
    settings: FinetuneSettings,
    *,
    device: torch.device | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    precision: Precision | None = None,
    schedule_start: int = 0,
) -> Trainer:
    """A `ClassifierTrainer` for settings with a classifier, a `PreferenceTrainer` for ones with a beta, or a `Trainer`.

    The model to start from is a checkpoint, or a folder that is loaded to `device`, by default the processor. With LoRA
    in bfloat16 its frozen weights are loaded in bfloat16. Raises what that class and `load_checkpoint` raise.
    """
    kind = Trainer if settings.beta is None else PreferenceTrainer
    if settings.classifier is not None:
        kind = ClassifierTrainer
    if isinstance(start, Path):
        device, width = device or torch.device("cpu"), read_config(folder_to_open(start)).n_embd
        precision = kind.pick_precision(precision or settings.precision, device, width, ranks)
        is_narrow = settings.lora is not None and precision == "bfloat16"
        may_classify = settings.classifier is not None
        start = load_checkpoint(start, device=device, may_classify=may_classify, narrow=is_narrow)
    return kind(start, splits, settings, ranks=ranks, precision=precision, schedule_start=schedule_start)
