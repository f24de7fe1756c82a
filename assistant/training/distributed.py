"""Several processes that train one model: each takes a share of every batch, and their gradients are added up.

`torchrun` starts them and tells each its number. The first one alone writes files and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

Share = TypeVar("Share")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1
    local: int = 0
    """Its number on this machine, which is also that of its GPU."""
    shards: bool = False
    """Whether each keeps a part of the model alone, instead of all of it."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def share(self, rows: Sequence[Share]) -> Sequence[Share]:
        """This process's part of a batch; every row is in one part."""
        return rows[self.rank :: self.world]

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add every process's gradients up, so that all have the same. One that had no rows counts as zero.

        Those of a model that is spread over the processes have been added on the way back.
        """
        if self.world == 1 or self.shards:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        together = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
        dist.all_reduce(together)
        parts = torch.split(together, [parameter.numel() for parameter in trained])
        for parameter, values in zip(trained, parts, strict=True):
            parameter.grad = values.view_as(parameter)

    def add(self, value: float, device: torch.device) -> float:
        """The sum of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        dist.all_reduce(total)
        return total.item()

    def add_up(self, values: torch.Tensor) -> torch.Tensor:
        """The same for a tensor, which is changed in place and given back."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def largest(self, value: int, device: torch.device) -> int:
        """The largest of a number over all processes: what one has seen, all go by."""
        if self.world == 1:
            return value
        found = torch.tensor(value, device=device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found.item())

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()


ALONE = Ranks()


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def started_with_others() -> bool:
    """Whether torchrun has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def joined(*, use_gpu: bool, shards: bool = False) -> Iterator[Ranks]:
    """Join the processes that torchrun has started; by itself without it, and then with all of the model."""
    if not started_with_others():
        yield ALONE
        return
    dist.init_process_group("nccl" if use_gpu else "gloo")
    try:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        yield Ranks(rank=dist.get_rank(), world=dist.get_world_size(), local=local, shards=shards)
    finally:
        dist.destroy_process_group()
