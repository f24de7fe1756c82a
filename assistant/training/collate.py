"""Token rows to batches. The shift by one and the loss mask are made here and nowhere else.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.dataset.encode import EncodedExample
from assistant.model.packing import IGNORE_INDEX, PackedBatch, pack
from assistant.settings import TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddedBatch:
    """Rows padded to one length: the plain form that packed batches are checked against."""

    input_ids: Tensor
    """(B, T) int64, padded with EOS."""
    targets: Tensor
    """(B, T) int64: the id after each position; IGNORE_INDEX where it does not count in the loss."""

    def to(self, device: torch.device) -> PaddedBatch:
        """The same batch on another device."""
        return PaddedBatch(input_ids=self.input_ids.to(device), targets=self.targets.to(device))


Batch = PackedBatch | PaddedBatch


def collate(
    rows: Sequence[EncodedExample], *, pad_id: int, train_on: TrainOn = "response", as_tree: bool = False
) -> PackedBatch:
    """Pack rows into a batch; `as_tree` as in `pack`.

    Padding is masked by length, never by value: EOS is a target, and padding has the same id. With
    `train_on="response"` the first target is the response's first token, predicted at the prompt's last position.
    """
    return pack(*_shifted(rows, train_on), pad_id=pad_id, as_tree=as_tree)


def pad(rows: Sequence[EncodedExample], *, pad_id: int, train_on: TrainOn = "response") -> PaddedBatch:
    """Pad rows to the longest, with the same inputs and targets as `collate`."""
    inputs, targets = _shifted(rows, train_on)
    longest = max(map(len, inputs))
    return PaddedBatch(
        input_ids=torch.tensor([(*ids, *((longest - len(ids)) * [pad_id])) for ids in inputs]),
        targets=torch.tensor([(*ids, *((longest - len(ids)) * [IGNORE_INDEX])) for ids in targets]),
    )


def _shifted(rows: Sequence[EncodedExample], train_on: TrainOn) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Inputs: all ids but the last. Targets: all ids but the first, with IGNORE_INDEX before the first that counts.

    A labelled text is read whole. Its only target is the label, at the last token.
    """
    inputs, targets = [], []
    for row in rows:
        if row.label is not None:
            inputs.append(row.input_ids)
            targets.append((*((len(row.input_ids) - 1) * [IGNORE_INDEX]), row.label))
            continue
        n_masked = row.prompt_length - 1 if train_on == "response" else 0
        inputs.append(row.input_ids[:-1])
        targets.append((*(n_masked * [IGNORE_INDEX]), *row.input_ids[n_masked + 1 :]))
    return inputs, targets
