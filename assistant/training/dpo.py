"""Learning preferences by DPO (Rafailov et al., arXiv 2305.18290): the same loop, with pairs of answers for rows.

The reward of an answer is beta times how much likelier it has become than it was under the starting weights; the loss
of a pair is -log sigmoid(reward of the chosen - reward of the rejected). How likely the answers were at the start is
computed once and goes with the run's state, so there is never a second model in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from assistant.dataset.encode import EncodedExample, EncodedRows, sequences
from assistant.dataset.splits import Splits
from assistant.errors import CheckpointError, SettingsError
from assistant.model.checkpoint import Checkpoint
from assistant.settings import FinetuneSettings, Precision, TrainOn
from assistant.training.batches import by_length
from assistant.training.distributed import ALONE, Ranks
from assistant.training.loss import log_probabilities
from assistant.training.trainer import Trainer


def make_trainer(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: FinetuneSettings,
    *,
    ranks: Ranks = ALONE,
    precision: Precision | None = None,
) -> Trainer:
    """What learns by these settings: preferences where they have a beta, else answers. Raises as `Trainer` does."""
    kind = Trainer if settings.beta is None else PreferenceTrainer
    return kind(checkpoint, splits, settings, ranks=ranks, precision=precision)


class PreferenceTrainer(Trainer):
    """Learns which of two answers is the better one.

    Raises:
        DataError: a row has one answer alone; and as `Trainer`.
        SettingsError: no beta, or settings that mean nothing for pairs.
    """

    watched = ("reward_accuracy", "margin")
    as_pairs = True

    def _check_settings(self) -> None:
        settings = self.settings
        if settings.beta is None:
            raise SettingsError("--beta: expected a number above 0 to learn preferences by, got none.")
        if settings.book or settings.train_on != "response":
            given = "--book" if settings.book else f"--train-on {settings.train_on}"
            raise SettingsError(f"--beta: expected to learn from responses alone, got {given} too. Leave one out.")
        super()._check_settings()
        self.beta = settings.beta

    def _pick_precision(self, name: Precision) -> torch.dtype:
        # What is learnt from is a small difference of two log-probabilities. With bfloat16 a margin of 0.05 nats was
        # taken for 0.26 behind the first step (benchmarks/RESULTS.md).
        return super()._pick_precision("float32" if name == "auto" else name)

    def prepare(self) -> None:
        """Compute how likely every answer is under the starting weights, which must not have moved yet."""
        with self.whole_model():  # each process has rows of its own here
            self.restore({part: self._log_probabilities(rows) for part, rows in self._parts().items()})

    def kept(self) -> dict[str, torch.Tensor]:
        """Log-probabilities (nats) under the starting weights: of each part (N, 2) float32, chosen and rejected."""
        found = {}
        for part, encoded in self._parts().items():
            flat = [row.reference for row in sequences(encoded.rows) if row.reference is not None]
            found[part] = torch.tensor(flat, dtype=torch.float32).view(2, -1).T.contiguous()
        return found

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Take what `kept` gave.

        Raises:
            CheckpointError: it is not of these rows.
        """
        for part, encoded in self._parts().items():
            shape, wanted = tuple(kept[part].shape) if part in kept else "none", (len(encoded.rows), 2)
            if shape != wanted:
                raise CheckpointError(
                    f"reference: expected log-probabilities of shape {wanted} for the {part} pairs, got {shape}. "
                    f"Start anew with --overwrite."
                )
        self.train, self.validation = (
            replace(encoded, rows=_with_reference(encoded.rows, kept[part])) for part, encoded in self._parts().items()
        )

    def weight(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> int:
        """Pairs."""
        del train_on
        return len(rows)

    def measure(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> dict[str, torch.Tensor]:
        """Sums over the pairs: the DPO loss, how many have the larger reward on the chosen answer, and the margins."""
        batch = self.collate(rows, train_on)
        now = log_probabilities(self.model, batch, self.precision, is_plain=self.is_plain)
        before = torch.tensor([row.reference for row in sequences(rows)], dtype=torch.float32, device=self.device)
        chosen, rejected = (self.beta * (now - before)).chunk(2)
        margins = chosen - rejected
        return {
            "loss": -F.logsigmoid(margins).sum(),
            "reward_accuracy": (margins.detach() > 0).float().sum(),
            "margin": margins.detach().sum(),
        }

    def _parts(self) -> dict[str, EncodedRows]:
        return {"train": self.train, "validation": self.validation}

    def _log_probabilities(self, encoded: EncodedRows) -> torch.Tensor:
        """Of the answers to every row (N, 2), chosen and rejected. Several processes share the batches."""
        self.model.eval()
        places = {id(row): place for place, row in enumerate(encoded.rows)}
        found = torch.zeros(len(encoded.rows), 2, device=self.device)
        with torch.inference_mode():
            for rows in self.ranks.share(list(by_length(encoded.rows, self.settings.batch_size))):
                batch = self.collate(rows, "response")
                values = log_probabilities(self.model, batch, self.precision, is_plain=self.is_plain)
                found[[places[id(row)] for row in rows]] = values.view(2, -1).T
        return self.ranks.add_up(found)


def _with_reference(rows: Sequence[EncodedExample], values: torch.Tensor) -> tuple[EncodedExample, ...]:
    return tuple(
        replace(row, reference=chosen, rejected=replace(row.rejected, reference=rejected))
        for row, (chosen, rejected) in zip(rows, values.tolist(), strict=True)
        if row.rejected is not None
    )
