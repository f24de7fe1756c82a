"""Token rows to a padded batch. The shift by one and the mask are made here, nowhere else.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assistant.dataset.encode import EncodedExample, count_targets
from assistant.model.packing import IGNORE_INDEX, Layout, lay_out
from assistant.settings import TrainOn


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A padded batch. `targets` stand one ahead of `input_ids`; what does not count is IGNORE_INDEX."""

    input_ids: Tensor
    """(B, T) int64, filled with EOS behind each row's length."""
    targets: Tensor
    """(B, T) int64."""
    lengths: Tensor
    """(B,) int64: positions of each row that are real."""
    n_tokens: int
    """Real tokens of the rows, EOS counted."""
    n_targets: int
    """Positions that count in the loss."""
    layout: Layout
    """The same rows and targets, with everything that is alike once."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            input_ids=self.input_ids.to(device),
            targets=self.targets.to(device),
            lengths=self.lengths.to(device),
            n_tokens=self.n_tokens,
            n_targets=self.n_targets,
            layout=self.layout.to(device),
        )


def collate(
    rows: Sequence[EncodedExample], *, pad_id: int, train_on: TrainOn = "response", as_tree: bool = False
) -> Batch:
    """Pad rows to the longest and shift by one: `input_ids` are all ids but the last, `targets` all but the first.

    Padding is masked by length, never by value: EOS is a target, and the padding behind it has the same id. With
    `train_on="response"` the first target is the response's first token, predicted at the prompt's last position.
    `as_tree` is `lay_out`'s.
    """
    inputs = [row.input_ids[:-1] for row in rows]
    targets = []
    for row in rows:
        first = row.prompt_length - 1 if train_on == "response" else 0
        targets.append((*(first * [IGNORE_INDEX]), *row.input_ids[first + 1 :]))
    longest = max(map(len, inputs))
    return Batch(
        input_ids=torch.tensor([(*ids, *((longest - len(ids)) * [pad_id])) for ids in inputs]),
        targets=torch.tensor([(*ids, *((longest - len(ids)) * [IGNORE_INDEX])) for ids in targets]),
        lengths=torch.tensor([len(ids) for ids in inputs]),
        n_tokens=sum(len(row.input_ids) for row in rows),
        n_targets=sum(count_targets(row, train_on) for row in rows),
        layout=lay_out(inputs, targets, pad_id=pad_id, as_tree=as_tree),
    )
