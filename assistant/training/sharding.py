"""A model sharded over several processes by torch's `fully_shard` (FSDP2).

A block's weights are complete only while it computes. So each process must hold its shard of the weights, gradients and
optimizer state, and one complete block.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from assistant.model.gpt import GPT, model_of
from assistant.training.distributed import Ranks


def shard(model: GPT, ranks: Ranks) -> None:
    """Shard the weights of `model` in place. All processes must call it.

    The backward pass then averages gradients over the processes; it does not sum them.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.world_size,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "target_logits")


def gather(model: GPT) -> GPT:
    """A complete, plain copy of a sharded model in every process. All processes must call it."""
    return model_of(model.config, {name: full_tensor(value).detach() for name, value in model.state_dict().items()})


def full_tensor(tensor: Tensor) -> Tensor:
    """The complete tensor. If it is sharded, all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has, moved to the device of `like`, and sharded if `like` is."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
