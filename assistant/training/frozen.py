"""What frozen blocks compute of the training rows, once for a whole run.

A classifier that trains only its last block has no gradient before it, and the model has no dropout. So what the last
block reads is the same in every epoch. It is computed in batches that depend only on the rows, so that a resumed run
has the same numbers to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from assistant.dataset.encode import EncodedExample
from assistant.model.packing import PackedBatch, row_tokens
from assistant.training.batches import by_length
from assistant.training.distributed import Ranks

SHARE_OF_MEMORY = 1 / 8
"""Most of the machine's memory that the numbers may take. Not of the free memory, which changes between two runs."""
FIXED_BATCH = 16
"""Rows that are computed together."""


class FrozenStates:
    """What the last block reads at every token of some rows, on the model's device."""

    def __init__(self, rows: Sequence[EncodedExample], width: int, device: torch.device) -> None:
        """The numbers are zero until `fill`. `rows` are known again by their identity."""
        self._start: dict[int, int] = {}
        self._rows = list(rows)
        n_tokens = 0
        for row in self._rows:
            self._start[id(row)] = n_tokens
            n_tokens += len(row.input_ids)
        self._states = torch.zeros(n_tokens, width, device=device)

    def fill(
        self,
        collate: Callable[[Sequence[EncodedExample]], PackedBatch],
        compute: Callable[[PackedBatch], Tensor],
        ranks: Ranks,
    ) -> None:
        """Compute the numbers of all rows. The processes share the batches."""
        with torch.no_grad():  # not inference mode, whose tensors cannot be saved for a backward pass
            for rows in ranks.share(list(by_length(self._rows, FIXED_BATCH))):
                batch = collate(rows)
                states = compute(batch)
                for row, tokens in zip(rows, self._tokens(rows, batch), strict=True):
                    start = self._start[id(row)]
                    self._states[start : start + len(tokens)] = states[tokens]
        ranks.all_reduce_tensor(self._states)

    def of(self, rows: Sequence[EncodedExample], batch: PackedBatch) -> Tensor | None:
        """The numbers (N, C) of a packed batch of rows. None if a row is not among those that were computed."""
        starts = [self._start.get(id(row)) for row in rows]
        index = torch.zeros(len(batch.input_ids), dtype=torch.int64)
        for start, tokens in zip(starts, self._tokens(rows, batch), strict=True):
            if start is None:
                return None
            index[tokens] = torch.arange(start, start + len(tokens))
        return self._states[index.to(self._states.device)]

    @staticmethod
    def _tokens(rows: Sequence[EncodedExample], batch: PackedBatch) -> list[Tensor]:
        return row_tokens(batch.rows, [len(row.input_ids) for row in rows])


def fits_in_memory(rows: Sequence[EncodedExample], width: int, device: torch.device, ranks: Ranks) -> bool:
    """Whether the numbers of some rows take at most `SHARE_OF_MEMORY`. Every process holds all of them."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks.world_size
    return 4 * width * sum(len(row.input_ids) for row in rows) <= SHARE_OF_MEMORY * total
