"""Preference training by DPO (Rafailov et al., arXiv 2305.18290): the same loop, with pairs of answers as rows.

The reward of an answer is beta times the gain of its log-probability over the starting weights. The loss of a pair is
-log sigmoid(reward of the chosen answer - reward of the rejected answer). The log-probabilities under the starting
weights are computed once and saved with the run's state, so no second model is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from assistant.dataset.encode import EncodedExample, EncodedRows, sequences
from assistant.errors import CheckpointError, SettingsError
from assistant.settings import Precision, TrainOn
from assistant.training.batches import by_length
from assistant.training.distributed import Ranks
from assistant.training.loss import log_probabilities
from assistant.training.precision import Picked
from assistant.training.trainer import Trainer


class PreferenceTrainer(Trainer):
    """Learns which of two answers is better.

    Raises:
        DataError: a row has only one answer; and as `Trainer`.
        SettingsError: no beta, or settings that do not apply to pairs.
    """

    metric_names = ("reward_accuracy", "margin")
    as_pairs = True

    def _check_settings(self) -> None:
        settings = self.settings
        if settings.beta is None:
            raise SettingsError("--beta: expected a number above 0 to learn preferences, got none. Give one.")
        if settings.book or settings.train_on != "response":
            given = "--book" if settings.book else f"--train-on {settings.train_on}"
            raise SettingsError(f"--beta: expected to learn from responses only, got {given} too. Leave one out.")
        if settings.loss_per != "token":
            raise SettingsError(
                f"--beta: expected the loss of preferences, which is per pair, got --loss-per {settings.loss_per}. "
                f"Leave one out."
            )
        super()._check_settings()
        self.beta = settings.beta

    @staticmethod
    def pick_precision(name: Precision, device: torch.device, width: int, ranks: Ranks) -> Picked:
        """As `Trainer.pick_precision`, but `auto` is float32.

        DPO learns from small differences of log-probabilities. In bfloat16 a margin of 0.05 nats was measured as 0.26
        after the first step (benchmarks/RESULTS.md).
        """
        return Trainer.pick_precision("float32" if name == "auto" else name, device, width, ranks)

    def compute_reference(self) -> None:
        """Compute the log-probability of every answer under the starting weights, which must not have changed yet."""
        with self.gathered_model():  # a sharded forward needs all processes at once, but each has its own batches
            self.load_reference({part: self._log_probabilities(rows) for part, rows in self._parts().items()})

    def reference_logprobs(self) -> dict[str, torch.Tensor]:
        """Log-probabilities (nats) under the starting weights: per part (N, 2) float32, chosen and rejected."""
        tensors = {}
        for part, encoded in self._parts().items():
            flat = [row.reference_logprob for row in sequences(encoded.rows) if row.reference_logprob is not None]
            tensors[part] = torch.tensor(flat, dtype=torch.float32).view(2, -1).T.contiguous()
        return tensors

    def load_reference(self, logprobs: Mapping[str, torch.Tensor]) -> None:
        """Load what `reference_logprobs` returned.

        Raises:
            CheckpointError: the log-probabilities do not fit these rows.
        """
        for part, encoded in self._parts().items():
            expected = (len(encoded.rows), 2)
            shape = tuple(logprobs[part].shape) if part in logprobs else "none"
            if shape != expected:
                raise CheckpointError(
                    f"reference: expected log-probabilities of shape {expected} for the {part} pairs, got {shape}. "
                    f"Start again with --overwrite."
                )
        self.train, self.validation = (
            replace(encoded, rows=_with_reference(encoded.rows, logprobs[part]))
            for part, encoded in self._parts().items()
        )

    def loss_denominator(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> int:
        """The number of pairs."""
        del train_on
        return len(rows)

    def loss_sums(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> dict[str, torch.Tensor]:
        """Sums over pairs: the loss, the number of pairs whose chosen answer has the larger reward, and the margins."""
        now = log_probabilities(self.model, self.collate(rows, train_on), self.precision)
        before = torch.tensor(
            [row.reference_logprob for row in sequences(rows)], dtype=torch.float32, device=self.device
        )
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
        """Log-probabilities of every row's answers (N, 2), chosen and rejected. The processes share the batches."""
        self.model.eval()
        index_of = {id(row): index for index, row in enumerate(encoded.rows)}
        logprobs = torch.zeros(len(encoded.rows), 2, device=self.device)
        with torch.inference_mode():
            for rows in self.ranks.share(list(by_length(encoded.rows, self.settings.batch_size))):
                values = log_probabilities(self.model, self.collate(rows, "response"), self.precision)
                logprobs[[index_of[id(row)] for row in rows]] = values.view(2, -1).T
        return self.ranks.all_reduce_tensor(logprobs)


def _with_reference(rows: Sequence[EncodedExample], logprobs: torch.Tensor) -> tuple[EncodedExample, ...]:
    return tuple(
        replace(row, reference_logprob=chosen, rejected=replace(row.rejected, reference_logprob=rejected))
        for row, (chosen, rejected) in zip(rows, logprobs.tolist(), strict=True)
        if row.rejected is not None
    )
