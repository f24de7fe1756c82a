"""The block of the Llama family (Llama, Qwen2, Qwen3), and the names of its tensors in Hugging Face's files.

It differs from GPT-2's in its norms (RMSNorm), its positions (rotary: queries and keys are turned by an angle), its MLP
(SwiGLU), and in heads of keys and values that several heads of queries share. The queries', keys' and values' matrices
are one here, and so are those of the MLP's gate and its input: one product instead of two or three.

Shapes: N tokens, C width, H heads, G heads of keys and values, D head size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assistant.model import fused
from assistant.model.block import Block
from assistant.model.config import Heads, LlamaConfig, Rope
from assistant.model.linear import Linear


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, computed in float32."""

    is_narrow = False
    """Whether the layer after it computes in bfloat16, so that a compiled loop may round the result (`add_copies`)."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., C)."""
        if self.is_narrow and x.dtype is torch.float32 and x.dim() == 2 and fused.supports_norm(x):
            return fused.rms_norm(x, self.weight, self.eps or 0.0)
        return F.rms_norm(x.float(), self.normalized_shape, self.weight, self.eps).to(x.dtype)


class Rotary:
    """Turns queries and keys by the angles of their positions. All blocks of a model share it."""

    def __init__(self, rope: Rope, size: int) -> None:
        self.frequencies = _frequencies(rope, size)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def turn(self, x: Tensor, n_turned: int, positions: Tensor, *, uses_loops: bool) -> Tensor:
        """Turn the first heads of x (N, K * D) at positions (N,) -> (N, K * D), in its dtype and perhaps in place."""
        if self._last is None or self._last[0] is not positions:  # once for all blocks
            angles = positions[:, None].float() * self.frequencies.to(positions.device)
            self._last = positions, angles.cos(), angles.sin()
        _, cosines, sines = self._last
        if uses_loops and fused.supports(x):
            return fused.rotate(x, cosines, sines, n_turned)
        heads, cosines, sines = x.view(len(x), -1, 2 * cosines.shape[1]), cosines[:, None], sines[:, None]
        first, second = heads[:, :n_turned].chunk(2, dim=2)
        turned = (first * cosines - second * sines, second * cosines + first * sines)
        return torch.cat([torch.cat(turned, dim=2).to(x.dtype), heads[:, n_turned:]], dim=1).flatten(1)


def _frequencies(rope: Rope, size: int) -> Tensor:
    """Angles (D / 2,) float32 by which a head's pairs turn from one position to the next."""
    frequencies = _plain_frequencies(rope, size)
    return frequencies / rope.factor if rope.linear else frequencies * frequency_shares(rope, size)


def _plain_frequencies(rope: Rope, size: int) -> Tensor:
    return 1 / rope.theta ** (torch.arange(0, size, 2, device="cpu").float() / size)  # never on the device meta


def frequency_shares(rope: Rope, size: int) -> Tensor:
    """What Llama 3 multiplies the frequencies with (D / 2,): 1 for fast pairs, and less for slow ones."""
    turns = rope.original_context * _plain_frequencies(rope, size) / (2 * math.pi)
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return torch.lerp(torch.tensor(1 / rope.factor, device="cpu"), torch.tensor(1.0, device="cpu"), share.clamp(0, 1))


class GroupedAttention(nn.Module):
    def __init__(self, config: LlamaConfig, rotary: Rotary) -> None:
        super().__init__()
        self.heads: Heads = config.heads
        self.rotary = rotary
        n_head, n_kv_head, size = config.heads
        has_bias = config.attention_bias or config.model_type == "qwen2"
        self.c_attn = Linear(config.n_embd, (n_head + 2 * n_kv_head) * size, bias=has_bias)
        self.c_proj = Linear(n_head * size, config.n_embd, bias=config.attention_bias)
        if config.model_type == "qwen3":
            self.q_norm, self.k_norm = RMSNorm(size, config.rms_norm_eps), RMSNorm(size, config.rms_norm_eps)

    def inputs(self, x: Tensor, positions: Tensor, *, uses_loops: bool) -> Tensor:
        """x (N, C) -> queries, keys and values (N, (H + 2 * G) * D), turned."""
        n_head, n_kv_head, size = self.heads
        qkv: Tensor = self.c_attn(x)
        if hasattr(self, "q_norm"):
            heads = qkv.view(len(x), -1, size)
            queries, keys, values = torch.split(heads, [n_head, n_kv_head, n_kv_head], dim=1)
            qkv = torch.cat([part.flatten(1) for part in (self.q_norm(queries), self.k_norm(keys), values)], dim=1)
        return self.rotary.turn(qkv, n_head + n_kv_head, positions, uses_loops=uses_loops)


class SwiGLU(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 2 * config.intermediate_size, bias=False)
        self.c_proj = Linear(config.intermediate_size, config.n_embd, bias=False)

    def forward(self, x: Tensor, *, uses_loops: bool) -> Tensor:
        both = self.c_fc(x)
        if uses_loops and fused.supports(both):
            inner = fused.swiglu(both)
        else:
            gate, inner = both.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        out: Tensor = self.c_proj(inner)
        return out


class LlamaBlock(Block):
    """RMSNorm before attention and before the MLP, and a residual around each."""

    def __init__(self, config: LlamaConfig, rotary: Rotary) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.attn = GroupedAttention(config, rotary)
        self.ln_2 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def attention_inputs(self, x: Tensor, positions: Tensor) -> Tensor:
        out: Tensor = self.attn.inputs(self.ln_1(x), positions, uses_loops=self.uses_loops)
        return out

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.add(x, self.attn.c_proj(attended))
        return self.add(x, self.mlp(self.ln_2(x), uses_loops=self.uses_loops))


_NAMES = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "mlp.c_proj": "mlp.down_proj",
}
PEFT_MODULES = {
    "attn.c_attn": ("q_proj", "k_proj", "v_proj"),
    "attn.c_proj": ("o_proj",),
    "mlp.c_fc": ("gate_proj", "up_proj"),
    "mlp.c_proj": ("down_proj",),
}
"""Our linear layers, and what they are in a file."""


def stored_parts(name: str, config: LlamaConfig) -> list[tuple[str, int]]:
    """The tensors of a file that together are one of ours, one below the other: their names, and their rows.

    A tensor that is alone has -1 rows.
    """
    prefix, _, kind = name.rpartition(".")
    if prefix in ("transformer.wte", "transformer.ln_f", "lm_head"):
        return [(f"{_NAMES.get(prefix, prefix)}.{kind}", -1)]
    _, _, layer, inner = prefix.split(".", 3)
    at = f"model.layers.{layer}."
    n_head, n_kv_head, size = config.heads
    if inner == "attn.c_attn":
        rows = {"q": n_head * size, "k": n_kv_head * size, "v": n_kv_head * size}
        return [(f"{at}self_attn.{part}_proj.{kind}", count) for part, count in rows.items()]
    if inner == "mlp.c_fc":
        return [(f"{at}mlp.{part}_proj.{kind}", config.intermediate_size) for part in ("gate", "up")]
    return [(f"{at}{_NAMES[inner]}.{kind}", -1)]
