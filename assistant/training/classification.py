"""Learning to label texts: the same loop, with one target for each row, the label at the end of its text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from assistant.dataset.encode import EncodedExample, EncodedRows
from assistant.dataset.labelled import encode_labelled, sort_labels
from assistant.dataset.splits import Splits
from assistant.errors import SettingsError
from assistant.model.checkpoint import Checkpoint
from assistant.model.gpt import GPTClassifier
from assistant.model.heads import make_classifier, new_record
from assistant.model.packing import PackedBatch
from assistant.settings import ClassifierSettings, TrainOn
from assistant.training.collate import Batch
from assistant.training.frozen import FrozenStates, fits_in_memory
from assistant.training.loss import before_last_block, label_losses
from assistant.training.trainer import Trainer


class ClassifierTrainer(Trainer):
    """Learns the labels of texts. A language model gets a new head first; a classifier with these labels learns on.

    Raises:
        DataError: a text without a token, or a label in the validation part that no training row has.
        SettingsError: only one label, or settings that do not apply to labels.
    """

    metric_names = ("accuracy",)

    def _adapt(self, checkpoint: Checkpoint) -> Checkpoint:
        settings = self.settings
        self.how = settings.classifier or ClassifierSettings()
        self._states: FrozenStates | None = None
        self.labels = _labels(checkpoint, self.splits)
        return super()._adapt(make_classifier(checkpoint, self.labels, seed=settings.seed, as_in_book=settings.book))

    def _prepare_model(self) -> None:
        super()._prepare_model()
        assert isinstance(self.model, GPTClassifier)
        # A temperature of an earlier training says nothing about this one.
        record = new_record(self.model)
        changes = {"reading": self.how.reading, "max_length": self.max_length}
        self.checkpoint = replace(self.checkpoint, classifier=record.model_copy(update=changes))
        counts = Counter(row.label for row in self.train.rows)
        weights = [len(self.train.rows) / (len(self.labels) * counts[index]) for index in range(len(self.labels))]
        self.label_weights = torch.tensor(weights, device=self.device)
        """(labels,) float32: 1 on average over the training rows, and larger for a rarer label."""

    def _check_settings(self) -> None:
        settings = self.settings
        faults = {
            "--beta": settings.beta is not None,
            "--loss-per": settings.loss_per != "token",
            "--validation-answers": settings.validation_answers > 0,
            "--best-by": settings.best_by in ("exact", "ended"),
            "--template": settings.template != "text",
            "--lora with --book": settings.book and settings.lora is not None,
            "--balance with --book": settings.book and self.how.balance != "none",
        }
        given = [option for option, is_given in faults.items() if is_given]
        if given:
            raise SettingsError(
                f"classifier: expected settings of a run that learns labels, got {given[0]}. Leave it out."
            )
        super()._check_settings()

    def _checked_max_length(self) -> int:
        """The longest text, in tokens. With the padded reading, at most the longest of the training rows."""
        max_length = super()._checked_max_length()
        if self.how.reading == "last":
            return max_length
        texts = (example.instruction for example in self.splits.train)
        return min(max_length, max(len(self.checkpoint.tokenizer.encode(text)) for text in texts))

    def _choose_trained(self) -> None:
        model = self.model
        assert isinstance(model, GPTClassifier)
        if self.settings.lora is not None or self.how.trained == "all":
            super()._choose_trained()
            model.score.requires_grad_(True)
            return
        model.requires_grad_(False)
        for module in (model.transformer.h[-1], model.transformer.ln_f, model.score):
            module.requires_grad_(True)

    def _encode(self, part: str) -> EncodedRows:
        examples, tokenizer = self.splits.part(part), self.checkpoint.tokenizer
        encoded = encode_labelled(examples, self.labels, tokenizer, max_length=self.max_length)
        if self.how.reading == "last":
            return encoded
        return replace(encoded, rows=tuple(self._padded(row) for row in encoded.rows))

    def _padded(self, row: EncodedExample) -> EncodedExample:
        pad_id = self.checkpoint.tokenizer.pad_id
        padding = (self.max_length - len(row.input_ids)) * (pad_id,)
        return replace(row, input_ids=(*row.input_ids, *padding))

    def _batches(self, epoch: int) -> list[list[int]]:
        if self.how.balance != "sampling":
            return super()._batches(epoch)
        chosen = balanced_rows([row.label for row in self.train.rows], seed=self.settings.seed, epoch=epoch)
        lengths = [self.train.rows[index].n_tokens for index in chosen]
        batches = self.recipe.batches(lengths, len(self.validation.rows), epoch)
        return [[chosen[index] for index in batch] for batch in batches]

    def prepare(self) -> None:
        """Compute what the last block reads, if the blocks before it are frozen and the rows are used again."""
        trains_last_block = self.settings.lora is None and self.how.trained == "last-block"
        rows = (*self.train.rows, *self.validation.rows)
        width = self.checkpoint.config.n_embd
        if (
            not trains_last_block
            or self.reference
            or self.ranks.shards  # a sharded forward needs all processes at once
            or self.total_steps < self.steps_per_epoch
            or not fits_in_memory(rows, width, self.device, self.ranks)
        ):
            return
        states = FrozenStates(rows, width, self.device)
        self.model.train()
        states.fill(self._packed, lambda batch: before_last_block(self.model, batch, self.precision), self.ranks)
        self._states = states

    def _packed(self, rows: Sequence[EncodedExample]) -> PackedBatch:
        batch = self._batch(rows, "response", padded=False)
        assert isinstance(batch, PackedBatch)
        return batch

    def loss_denominator(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> int:
        """The number of texts."""
        del train_on
        return len(rows)

    def loss_sums(self, rows: Sequence[EncodedExample], train_on: TrainOn) -> dict[str, torch.Tensor]:
        """Sums over texts: the loss and the number of right labels.

        With `--balance` every label has the same share of the loss. Sampling does that for training, so there weights
        are only for validation, whose loss chooses the best weights.
        """
        batch = self.collate(rows, train_on)
        losses, hits = label_losses(self.model, batch, self.precision, self._known_states(rows, batch))
        is_weighted = self.how.balance == "weights" or (self.how.balance == "sampling" and not self.model.training)
        if is_weighted:
            losses = losses * self.label_weights[torch.tensor([row.label for row in rows], device=self.device)]
        return {"loss": losses.sum(), "accuracy": hits.sum()}

    def _known_states(self, rows: Sequence[EncodedExample], batch: Batch) -> torch.Tensor | None:
        if self._states is None or not isinstance(batch, PackedBatch):
            return None
        return self._states.of(rows, batch)


def balanced_rows(labels: Sequence[int | None], *, seed: int, epoch: int) -> list[int]:
    """Row indices of one epoch with as many rows of each label as the rarest label has, in file order.

    The rows of a more frequent label take turns, in an order that depends only on `seed`, so that all of them are used
    over the epochs.
    """
    indices: dict[int | None, list[int]] = {}
    for index, label in enumerate(labels):
        indices.setdefault(label, []).append(index)
    count = min(map(len, indices.values()))
    chosen: list[int] = []
    for label, rows in indices.items():
        random.Random(f"balance {seed} {label}").shuffle(rows)
        chosen += [rows[(epoch * count + offset) % len(rows)] for offset in range(count)]
    return sorted(chosen)


def _labels(checkpoint: Checkpoint, splits: Splits) -> tuple[str, ...]:
    """The labels of the training rows: in the order of a classifier that has them all already, or else sorted."""
    labels = sort_labels(example.output for example in splits.train)
    model = checkpoint.model
    is_same = isinstance(model, GPTClassifier) and set(model.labels) == set(labels)
    return model.labels if is_same and isinstance(model, GPTClassifier) else labels
