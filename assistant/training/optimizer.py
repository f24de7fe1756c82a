"""The optimizers, their step, the gradient norm and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from assistant.model import fused
from assistant.model.gpt import GPT
from assistant.model.linear import Linear
from assistant.settings import FinetuneSettings
from assistant.training.sharding import whole

ADAM_BETAS = (0.9, 0.999)
ADAM_BETAS_BESIDE_MUON = (0.9, 0.95)
FINAL_LEARNING_RATE = 0.1
"""The schedule's end, as a share of its peak."""
LARGEST_WARMUP = 0.1
"""The warm-up's longest share of all steps: small data sets have few."""


def build_optimizers(model: GPT, settings: FinetuneSettings) -> list[torch.optim.Optimizer]:
    """The optimizers that together update every weight once that is not frozen.

    AdamW, with weight decay on matrices and embeddings only: biases and LayerNorms have no scale to keep small. With
    `muon` the matrices inside the blocks go to Muon (Jordan et al., 2024), its steps as long as AdamW's (Liu et al.,
    arXiv 2502.16982), so that one learning rate serves both.
    """
    blocks = set(model.transformer.h.parameters()) if settings.optimizer == "muon" else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inside = [parameter for parameter in trained if parameter in blocks and parameter.dim() == 2]
    others = [parameter for parameter in trained if parameter not in blocks or parameter.dim() != 2]
    groups = [
        {"params": [parameter for parameter in others if parameter.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in others if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    if settings.book:
        groups = [{"params": trained, "weight_decay": settings.weight_decay}]
    groups = [group for group in groups if group["params"]]
    betas = ADAM_BETAS_BESIDE_MUON if inside else ADAM_BETAS
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    ]
    if inside:
        decay = settings.weight_decay
        optimizers.append(
            torch.optim.Muon(inside, lr=settings.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in optimizers:
        for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
            # As the first step would make them. Made now, they do not lie scattered among what a step needs.
            optimizer.state[weight] = {
                name: torch.zeros((), device=weight.device) if name == "step" else torch.zeros_like(weight)
                for name in state_names(optimizer)
            }
    return optimizers


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Of all gradients together, whatever they are kept in, and whether or not they are spread."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    narrow = [gradient for gradient in gradients if gradient.dtype is not torch.float32]
    if all(map(fused.supports, narrow)):
        others = [gradient for gradient in gradients if gradient.dtype is torch.float32]
        norm = float(whole(torch.nn.utils.get_total_norm(others)))  # takes few steps on a GPU
        return math.hypot(norm, math.sqrt(sum(map(fused.squared_norm, narrow))))
    # Row by row: a row's norm is rounded to bfloat16 as its numbers were, which thousands of rows even out to 1e-5. To
    # make all numbers wide first takes three times as long.
    wide = [gradient.float() if gradient.dim() == 1 else gradient for gradient in gradients]
    rows = [torch.linalg.vector_norm(gradient, dim=-1).float().view(-1) for gradient in wide]
    return float(torch.stack([norms.dot(norms) for norms in rows]).sum().sqrt())


def take_step(optimizers: Sequence[torch.optim.Optimizer], model: GPT, factor: float) -> None:
    """Update every weight that has a gradient by `factor` times it, and leave no gradient."""
    layers = {layer.weight: layer for layer in model.modules() if isinstance(layer, Linear) and layer.copy is not None}
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.AdamW):
            _step_one_by_one(optimizer, layers, factor)
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        for weight in weights:
            weight.grad = weight.grad.to(weight.dtype)
        _scale([weight.grad for weight in weights], factor)
        optimizer.step()
        for weight in weights:
            weight.grad = None
            if weight in layers:
                layers[weight].renew_copy()


def _scale(gradients: list[Tensor], factor: float) -> None:
    if factor == 1.0:
        return
    if gradients and gradients[0].device.type == "cuda":
        torch._foreach_mul_(gradients, factor)  # one step for all of them, as torch's own clipping has it
        return
    for gradient in gradients:
        gradient.mul_(factor)


def _step_one_by_one(optimizer: torch.optim.AdamW, layers: Mapping[Tensor, Linear], factor: float) -> None:
    """What `step` does to the weights of some layers, for gradients times `factor`, and their copies made anew.

    One behind the other, since all gradients at once would be a second model if they were made wide.
    """
    for group in optimizer.param_groups:
        for weight in (weight for weight in group["params"] if weight in layers and weight.grad is not None):
            state, layer = optimizer.state[weight], layers[weight]
            if fused.is_compiled() and layer.copy is not None:
                state["step"] += 1
                by = fused.AdamStep(
                    factor=factor,
                    step=int(state["step"]),
                    **{name: group[name] for name in ("lr", "betas", "weight_decay", "eps")},
                )
                fused.adamw(weight.detach(), weight.grad, state["exp_avg"], state["exp_avg_sq"], layer.copy, by)
                layer.copied_version = weight._version
            else:
                adamw(
                    [weight.detach()], [weight.grad.float()], [state["exp_avg"]], [state["exp_avg_sq"]],
                    [], [state["step"]], lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
                    weight_decay=group["weight_decay"], eps=group["eps"],
                    amsgrad=False, maximize=False, fused=True, grad_scale=torch.tensor(1 / factor),
                )  # fmt: skip
                layer.renew_copy()
            weight.grad = None


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """The tensors that an optimizer keeps for each weight."""
    return ("momentum_buffer",) if isinstance(optimizer, torch.optim.Muon) else ("step", "exp_avg", "exp_avg_sq")


def learning_rate(step: int, total_steps: int, settings: FinetuneSettings) -> float:
    """The rate of step 1 to `total_steps`: a linear warm-up that never is zero, then a cosine to a tenth.

    In the book's loop it is constant.
    """
    if settings.book:
        return settings.learning_rate
    warmup = min(settings.warmup_steps, int(total_steps * LARGEST_WARMUP))
    if step <= warmup:
        return settings.learning_rate * step / warmup
    share = (step - warmup) / max(1, total_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return settings.learning_rate * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine)
