"""Several processes that train one model: each takes a share of every batch, and gradients are all-reduced.

`torchrun` starts the processes and gives each its rank. Only the main process, rank 0, writes files and reports.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The rank of this process, and the collective operations of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Rank on this machine; also the number of its GPU."""
    shards: bool = False
    """Whether each process keeps only a shard of the model."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's share of a batch. Every row is in exactly one share."""
        return rows[self.rank :: self.world_size]

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients over all processes. A process without rows counts as zero.

        FSDP2 has already reduced the gradients of a sharded model in the backward pass.
        """
        if self.world_size == 1 or self.shards:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
        dist.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in trained])
        for parameter, values in zip(trained, parts, strict=True):
            parameter.grad = values.view_as(parameter)

    def all_reduce_sum(self, value: float, device: torch.device) -> float:
        """Sum of a number over all processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        dist.all_reduce(total)
        return total.item()

    def all_reduce_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: int, device: torch.device) -> int:
        """Largest value of a number over all processes, so that every rank decides alike."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value, device=device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def barrier(self) -> None:
        """Wait until every process has arrived."""
        if self.world_size > 1:
            dist.barrier()


SINGLE_PROCESS = Ranks()


def is_main_process() -> bool:
    """Whether this is the only process, or rank 0 of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def is_multi_process() -> bool:
    """Whether torchrun started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def process_group(*, use_gpu: bool, shards: bool = False) -> Iterator[Ranks]:
    """Join the process group that torchrun set up. Without torchrun, run as a single process that shards nothing."""
    if not is_multi_process():
        yield SINGLE_PROCESS
        return
    dist.init_process_group("nccl" if use_gpu else "gloo")
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        yield Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), local_rank=local_rank, shards=shards)
    finally:
        dist.destroy_process_group()
