"""The parts of one update of the weights: loss, optimizer, schedule, precision."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

from assistant import fused
from assistant.collate import Batch
from assistant.config import FinetuneSettings, Precision
from assistant.layout import IGNORE_INDEX
from assistant.linear import Linear, has_copies
from assistant.model import GPT
from assistant.sharding import whole

ADAM_BETAS = (0.9, 0.999)
ADAM_BETAS_BESIDE_MUON = (0.9, 0.95)
FINAL_LEARNING_RATE = 0.1
"""The schedule's end, as a share of its peak."""
WIDE_ROWS = 8
"""Rows of logits that a processor makes float32 together."""
PROBED_WIDTH, PROBED_ROWS, PROBES = 256, 256, 7
WORTH_BFLOAT16 = 1.4
"""How many times as fast bfloat16 must be on a processor: it costs some accuracy, and nobody asked for it."""
LARGEST_WARMUP = 0.1
"""The warm-up's longest share of all steps: small data sets have few."""


def summed_loss(model: GPT, batch: Batch, precision: torch.dtype = torch.float32, *, is_plain: bool = False) -> Tensor:
    """Summed cross-entropy (a float32 scalar, nats) of a batch over the targets that count.

    The head runs on those positions alone; the rest have no say in the loss. Divide by the targets of everything
    that makes one update, not of this batch. What all rows open with is computed once, unless `is_plain`: then every
    position of every row is computed, to compare with.
    """
    losses, counts = _target_losses(model, batch, precision, is_plain)
    return losses @ counts.sum(dim=0)


def log_probabilities(
    model: GPT, batch: Batch, precision: torch.dtype = torch.float32, *, is_plain: bool = False
) -> Tensor:
    """Log-probability (nats) of all targets of each row together: (B,) float32. Computed as `summed_loss` is."""
    losses, counts = _target_losses(model, batch, precision, is_plain)
    return -(counts @ losses)  # not `index_add`, whose order of adding is left to chance on a GPU


def _target_losses(model: GPT, batch: Batch, precision: torch.dtype, is_plain: bool) -> tuple[Tensor, Tensor]:
    """Cross-entropy (K,) of the targets, and in which rows each counts: (B, K) of zeros and ones. Both float32."""
    by_autocast = precision is torch.bfloat16 and (is_plain or not has_copies(model))
    with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=by_autocast):
        if is_plain:
            counted = batch.targets != IGNORE_INDEX
            targets, counts = batch.targets[counted], _one_hot_rows(counted.nonzero()[:, 0], len(counted))
            logits = model.head(model(batch.input_ids)[counted])
        else:
            logits, targets, counts = model.logits_at(batch.layout), batch.layout.targets, batch.layout.counts
    if is_plain or logits.device.type != "cpu":
        return F.cross_entropy(logits.float(), targets, reduction="none"), counts
    losses: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses, counts


class _CrossEntropy(torch.autograd.Function):
    """Of a few rows at a time: they are made wide where the processor works on them, and never all at once.

    There is one way back alone: it leaves the gradient where the logits were.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """logits (K, V), targets (K,) int64 -> (K,) float32 nats."""
        ctx.save_for_backward(logits, targets)
        parts = zip(torch.split(logits, WIDE_ROWS), torch.split(targets, WIDE_ROWS), strict=True)
        return torch.cat([F.cross_entropy(some.float(), wanted, reduction="none") for some, wanted in parts])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Written over the logits, which nothing else needs: they are the largest of all that a step holds.
        logits, targets = ctx.saved_tensors
        parts = (torch.split(tensor, WIDE_ROWS) for tensor in (logits, targets, gradient))
        for some, wanted, factors in zip(*parts, strict=True):
            wide = some.float().softmax(dim=1)
            wide[torch.arange(len(wide)), wanted] -= 1
            some.copy_(wide.mul_(factors[:, None]))
        return logits, None


def _one_hot_rows(rows: Tensor, n_rows: int) -> Tensor:
    """(B, K) float32 with a one where the k-th of `rows` (K,) is that row."""
    return (rows == torch.arange(n_rows, device=rows.device)[:, None]).float()


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
    if all(map(fused.takes, narrow)):
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


def pick_precision(name: Precision, device: torch.device, width: int) -> torch.dtype:
    """The dtype of the matrix products of a model of this `width` (n_embd); weights stay float32.

    `auto` is bfloat16 on a GPU that computes in it, and on a processor that is found to: having the instructions does
    not make it faster everywhere (benchmarks/RESULTS.md). Small models always have float32 on a processor.
    """
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_units = device.type == "cpu" and width >= PROBED_WIDTH and _is_much_faster_in_bfloat16(width)
    return torch.bfloat16 if has_units else torch.float32


def _is_much_faster_in_bfloat16(width: int) -> bool:
    """Whether a product of a block's largest shape is, and is right. Takes some 30 ms at a width of 768."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(n, width, generator=generator) for n in (PROBED_ROWS, 4 * width))
    factors = {torch.float32: (rows, weight), torch.bfloat16: (rows.bfloat16(), weight.bfloat16())}
    seconds = dict.fromkeys(factors, math.inf)
    for _ in range(PROBES):
        for dtype, (left, right) in factors.items():
            started = time.perf_counter()
            product = F.linear(left, right)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    is_right = torch.allclose(product.float(), F.linear(rows, weight), atol=0.05 * math.sqrt(width))
    return is_right and seconds[torch.float32] > WORTH_BFLOAT16 * seconds[torch.bfloat16]
