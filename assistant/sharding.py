"""A model spread over several processes, each of which keeps a part of every weight: torch's `fully_shard` (FSDP2).

A block's weights are whole only while it computes, so what must fit into each process is its part of weights, gradients
and optimizer state, and one block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from assistant.distributed import Ranks
from assistant.model import GPT, model_of

NORM_PIECE = 2**20
"""Numbers that are made wide together, to add up their squares."""


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


def norm_of(gradients: list[Tensor]) -> Tensor:
    """The norm () float32 of all gradients together, whether or not they are spread, or narrower than that."""
    if all(gradient.dtype is torch.float32 for gradient in gradients):
        return whole(torch.nn.utils.get_total_norm(gradients))  # takes few steps on a GPU
    # In one buffer, by products: what asks for memory for each piece, or shares it out among the processor's cores in
    # another way than the copy does, takes up to five times as long.
    wide = torch.empty(NORM_PIECE, device=gradients[0].device)
    pieces = [piece for gradient in gradients for piece in torch.split(gradient.reshape(-1), NORM_PIECE)]
    widened = (wide[: len(piece)].copy_(piece) for piece in pieces)
    return torch.stack([piece.dot(piece) for piece in widened]).sum().sqrt()
