"""A model spread over several processes, each of which keeps a part of every weight: torch's `fully_shard` (FSDP2).

A block's weights are whole only while it computes, so what must fit into each process is its part of weights, gradients
and optimizer state, and one block.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from assistant.model.gpt import GPT, model_of
from assistant.training.distributed import Ranks


def shard(model: GPT, ranks: Ranks) -> None:
    """Leave each process its part of the weights of `model`, in place. All processes must call it.

    On the way back a gradient becomes the mean over the processes, not their sum.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.world,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
        register_fsdp_forward_method(block, "forward_shared")
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "logits_at")


def gather(model: GPT) -> GPT:
    """The whole of a spread model, a plain one, in every process. All processes must call it."""
    return model_of(model.config, {name: whole(value).detach() for name, value in model.state_dict().items()})


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread; if it is, all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has, put where `like` lies: on its device, and in parts if that is in parts."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
