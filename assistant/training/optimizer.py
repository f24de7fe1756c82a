"""The optimizers, the gradient norm, and one optimizer step."""

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
from assistant.training.recipe import make_recipe
from assistant.training.sharding import full_tensor

ADAM_BETAS = (0.9, 0.999)
ADAM_BETAS_WITH_MUON = (0.9, 0.95)


def build_optimizers(model: GPT, settings: FinetuneSettings) -> list[torch.optim.Optimizer]:
    """The optimizers that together update every trained weight. Each weight belongs to one of them.

    AdamW by default. With `muon` the matrices inside the blocks go to Muon (Jordan et al., 2024), with updates as large
    as AdamW's (Liu et al., arXiv 2502.16982), so that one learning rate serves both.
    """
    recipe = make_recipe(settings)
    blocks = set(model.transformer.h.parameters()) if settings.optimizer == "muon" else set()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for_muon = [weight for weight in trained if weight in blocks and weight.dim() == 2]
    for_adamw = [weight for weight in trained if weight not in blocks or weight.dim() != 2]
    groups = [
        {"params": [weight for weight in for_adamw if recipe.decays(weight)], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in for_adamw if not recipe.decays(weight)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = ADAM_BETAS_WITH_MUON if for_muon else ADAM_BETAS
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, fused=True)
    ]
    if for_muon:
        decay = settings.weight_decay
        optimizers.append(
            torch.optim.Muon(for_muon, lr=settings.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    for optimizer in optimizers:
        for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
            # The same as the first step would create. Created now, it does not fragment the memory of that step.
            optimizer.state[weight] = {
                name: torch.zeros((), device=weight.device) if name == "step" else torch.zeros_like(weight)
                for name in state_names(optimizer)
            }
    return optimizers


def state_names(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Names of the tensors that an optimizer keeps for each weight."""
    return ("momentum_buffer",) if isinstance(optimizer, torch.optim.Muon) else ("step", "exp_avg", "exp_avg_sq")


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Norm of all gradients together, of any dtype, sharded or not."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    narrow = [gradient for gradient in gradients if gradient.dtype is not torch.float32]
    if all(map(fused.supports, narrow)):
        float32 = [gradient for gradient in gradients if gradient.dtype is torch.float32]
        norm = float(full_tensor(torch.nn.utils.get_total_norm(float32)))  # few kernels on a GPU
        return math.hypot(norm, math.sqrt(sum(map(fused.squared_norm, narrow))))
    # Row by row: the norm of a row is rounded to bfloat16, which evens out to 1e-5 over thousands of rows. To upcast
    # all gradients first takes three times as long.
    matrices = [gradient.float() if gradient.dim() == 1 else gradient for gradient in gradients]
    rows = [torch.linalg.vector_norm(gradient, dim=-1).float().view(-1) for gradient in matrices]
    return float(torch.stack([norms.dot(norms) for norms in rows]).sum().sqrt())


def take_step(optimizers: Sequence[torch.optim.Optimizer], model: GPT, factor: float) -> None:
    """Update every weight that has a gradient, with the gradient scaled by `factor`, and clear all gradients."""
    layers = {layer.weight: layer for layer in model.modules() if isinstance(layer, Linear) and layer.copy is not None}
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.AdamW):
            _step_layers(optimizer, layers, factor)
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        for weight in weights:
            weight.grad = weight.grad.to(weight.dtype)
        if weights and factor != 1.0:
            torch._foreach_mul_([weight.grad for weight in weights], factor)  # one kernel for all on a GPU
        optimizer.step()
        for weight in weights:
            weight.grad = None
            if weight in layers:
                layers[weight].renew_copy()


def _step_layers(optimizer: torch.optim.AdamW, layers: Mapping[Tensor, Linear], factor: float) -> None:
    """AdamW's step for layers with a bfloat16 copy, which is renewed, with the gradient scaled by `factor`.

    One layer after another: upcasting all gradients at once would need the memory of a second model.
    """
    for group in optimizer.param_groups:
        for weight in (weight for weight in group["params"] if weight in layers and weight.grad is not None):
            state, layer = optimizer.state[weight], layers[weight]
            if fused.is_compiled() and layer.copy is not None:
                state["step"] += 1
                step = fused.AdamStep(
                    factor=factor,
                    step=int(state["step"]),
                    **{name: group[name] for name in ("lr", "betas", "weight_decay", "eps")},
                )
                fused.adamw(weight.detach(), weight.grad, state["exp_avg"], state["exp_avg_sq"], layer.copy, step)
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
