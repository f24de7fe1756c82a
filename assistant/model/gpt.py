"""GPT-2 in torch, under GPT-2's own module names, so that a checkpoint loads by name.

The forward pass ends at the hidden states. The head is called separately, because it is a third of the computation of a
small GPT-2 and is only needed at positions that have a target. Decoding uses `assistant.decoding`, which has a cache.

Shapes: B rows, T tokens, N packed tokens, K target positions, C n_embd, V vocab_size, H heads, D head size, S keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from assistant.model import fused
from assistant.model.config import ClassifierConfig, ModelConfig
from assistant.model.linear import Linear, embed_tied
from assistant.model.packing import PackedBatch, PrefixTree

MOST_SCORES = 2_000_000
"""On a processor, a layer with at most this many attention scores computes them explicitly. That is faster for short
rows, above all in the backward pass, and needs little memory."""


class CausalSelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.query_factor = config.query_factor(layer)
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        n_rows, n_tokens, width = x.shape
        heads = (n_rows, n_tokens, self.n_head, width // self.n_head)
        queries, keys, values = (part.view(heads).transpose(1, 2) for part in self._qkv(x).chunk(3, dim=2))
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        out: Tensor = self.c_proj(attended.transpose(1, 2).reshape(n_rows, n_tokens, width))
        return out

    def attend(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """Attention of a packed batch without the output projection: x (N, C) -> (N, C)."""
        rows, qkv, width = batch.rows, self._qkv(x), x.shape[1]
        if isinstance(rows, PrefixTree):
            return fused.attend(qkv, rows.paths, rows.spans, self.n_head)
        prefix_qkv, own_qkv = qkv.split([rows.n_shared, len(x) - rows.n_shared])  # type: ignore[no-untyped-call]
        own = self._heads(own_qkv, rows.n_rows)
        if rows.mask is None:
            return _attention(*own, None).transpose(1, 2).reshape(-1, width)
        prefix = self._heads(prefix_qkv, 1)
        keys, values = (
            torch.cat([shared.expand(rows.n_rows, -1, -1, -1), rest], dim=2)
            for shared, rest in zip(prefix[1:], own[1:], strict=True)
        )
        attended = _attention(own[0], keys, values, rows.mask)
        prefix_attended = _attention(*prefix, rows.mask.new_ones(rows.n_shared, rows.n_shared).tril())
        return torch.cat([part.transpose(1, 2).reshape(-1, width) for part in (prefix_attended, attended)])

    def _qkv(self, x: Tensor) -> Tensor:
        """x (..., C) -> queries, keys and values (..., 3 * C). Usual attention of them is this layer's attention."""
        qkv: Tensor = self.c_attn(x)
        if self.query_factor == 1:
            return qkv
        factors = qkv.new_ones(qkv.shape[-1])
        factors[: qkv.shape[-1] // 3] = self.query_factor
        return qkv * factors

    def _heads(self, qkv: Tensor, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """qkv (B * T, 3 * C) -> queries, keys and values, each (B, H, T, D)."""
        queries, keys, values = qkv.view(n_rows, -1, 3, self.n_head, qkv.shape[1] // 3 // self.n_head).unbind(2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def _attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """queries (B, H, T, D), keys and values (B, H, S, D), mask (T, S) bool -> (B, H, T, D). No mask means causal."""
    if queries.device.type != "cpu":
        # Not cuDNN's attention: it plans every new batch shape, which takes a hundred times as long as computing it.
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
    if mask is None or queries.shape[:3].numel() * keys.shape[2] > MOST_SCORES:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
    flat_queries, flat_keys, flat_values = (part.flatten(end_dim=1) for part in (queries, keys, values))
    bias = torch.where(mask, 0.0, -math.inf).to(queries.dtype)
    scores = torch.baddbmm(bias, flat_queries, flat_keys.transpose(1, 2), alpha=1 / math.sqrt(queries.shape[3]))
    # Upcast: torch's bfloat16 softmax takes up to four times as long unless S is a multiple of 32.
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(scores.dtype)
    return torch.bmm(weights, flat_values).view(queries.shape)


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, inner)
        self.c_proj = Linear(inner, config.n_embd)
        self.approximate = "none" if config.activation_function == "gelu" else "tanh"

    def forward(self, x: Tensor) -> Tensor:
        inner = self.c_fc(x)
        is_fused = self.approximate == "tanh" and fused.supports(inner)
        out: Tensor = self.c_proj(fused.gelu(inner) if is_fused else F.gelu(inner, approximate=self.approximate))
        return out


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def forward_packed(self, x: Tensor, batch: PackedBatch, positions: Tensor | None = None) -> Tensor:
        """x (N, C) -> (N, C), or (K, C) at K `positions`: after attention, other tokens no longer matter."""
        attended = self.attn.attend(self.ln_1(x), batch)
        if positions is not None:
            x, attended = x[positions], attended[positions]
        x = x + self.attn.c_proj(attended)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Embedding(nn.Embedding):
    """torch's embedding. It draws no initial weights on the device `meta`, like `Linear`."""

    def reset_parameters(self) -> None:
        """Draw torch's initial weights, except for an embedding without memory."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)


class GPT(nn.Module):
    """GPT-2. `forward` returns hidden states, and `head` turns hidden states into logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        """Whether the backward pass recomputes the activations inside each block."""
        self.transformer = Transformer(config)
        self._add_head()

    def _add_head(self) -> None:
        self.lm_head = Linear(self.config.n_embd, self.config.vocab_size, bias=False)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states (B, T, C) after the last LayerNorm, from input_ids (B, T) int64.

        Rows may be padded on the right: attention is causal, so real tokens do not see the padding.

        Raises:
            ValueError: the ids are not (B, T), or T is larger than the context length.
        """
        if input_ids.dim() != 2:
            raise ValueError(f"GPT: expected input_ids of shape (B, T), got {tuple(input_ids.shape)}.")
        n_tokens = input_ids.shape[1]
        if n_tokens > self.config.context_length:
            raise ValueError(f"GPT: expected at most {self.config.context_length} positions, got {n_tokens}.")
        positions = torch.arange(n_tokens, device=input_ids.device)
        x = self.transformer.wte(input_ids) + self.transformer.wpe(positions)
        for block in self.transformer.h:
            x = block(x)
        hidden: Tensor = self.transformer.ln_f(x)
        return hidden

    def target_logits(self, batch: PackedBatch, before_last: Tensor | None = None) -> Tensor:
        """Logits (K, V) at a packed batch's target positions. They equal those of `forward` and `head`, but cost less.

        Each token is computed once (see `packing`). After its attention, the last block runs only at the targets.
        `before_last` (N, C) is what `before_last_block` returned, where it is known already.

        Raises:
            ValueError: a row is longer than the context length.
        """
        gradients: list[Tensor] | None = [] if self._ties_gradients else None
        x = self.before_last_block(batch, gradients) if before_last is None else before_last
        last = self.transformer.h[-1]
        assert isinstance(last, Block)
        hidden: Tensor = self.transformer.ln_f(last.forward_packed(x, batch, batch.target_positions))
        return self.head(hidden) if gradients is None else self.lm_head.as_tied_head(hidden, gradients)

    def before_last_block(self, batch: PackedBatch, gradients: list[Tensor] | None = None) -> Tensor:
        """What the last block reads (N, C) float32, for every token of a packed batch.

        `gradients` is the list of `embed_tied`, if the head is the embedding.

        Raises:
            ValueError: a row is longer than the context length.
        """
        if batch.n_positions > self.config.context_length:
            raise ValueError(f"GPT: expected at most {self.config.context_length} positions, got {batch.n_positions}.")
        wte = self.transformer.wte
        x = wte(batch.input_ids) if gradients is None else embed_tied(wte.weight, batch.input_ids, gradients)
        x = x + self.transformer.wpe(batch.positions)
        blocks = [block for block in self.transformer.h if isinstance(block, Block)]
        for block in blocks[:-1]:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block.forward_packed, x, batch, use_reentrant=False)
            else:
                x = block.forward_packed(x, batch)
        return x

    @property
    def _ties_gradients(self) -> bool:
        """Whether to add the embedding's gradient to the head's: on a processor, if both are one weight."""
        weight = self.transformer.wte.weight
        is_trained_here = weight.requires_grad and weight.device.type == "cpu"
        return self.config.tie_word_embeddings and is_trained_here and not torch.is_autocast_enabled("cpu")

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., C)."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    def untie(self) -> None:
        """Give a tied head its own copy of the embedding's weights."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(self.transformer.wte.weight.detach().clone())
            self.config = self.config.model_copy(update={"tie_word_embeddings": False})

    def initialise(self, seed: int) -> None:
        """Draw GPT-2's initial weights (openai/gpt-2): normal with std 0.02, residual projections scaled by depth."""
        generator = torch.Generator().manual_seed(seed)
        residual_std = 0.02 / math.sqrt(2 * self.config.n_layer)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif ".ln_" in name:
                    parameter.fill_(1.0)
                else:
                    std = residual_std if name.endswith("c_proj.weight") else 0.02
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    @property
    def n_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


class Score(nn.Linear):
    """A classifier's head. It computes in float32, also under autocast: it costs nothing, and few logits decide."""

    def reset_parameters(self) -> None:
        """Draw torch's initial weights, except for a layer without memory."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., labels) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


class GPTClassifier(GPT):
    """GPT-2 with one output for each label instead of one for each token: V is the number of labels."""

    padded_to: int | None = None
    """Length, in tokens, that texts are padded to before the label is read at the end. None: it is read at the last
    token of the text."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)

    def _add_head(self) -> None:
        assert isinstance(self.config, ClassifierConfig)
        self.score = Score(self.config.n_embd, len(self.config.labels), bias=self.config.score_bias)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the logits."""
        assert isinstance(self.config, ClassifierConfig)
        return self.config.labels

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) float32 of hidden states (..., C)."""
        logits: Tensor = self.score(hidden)
        return logits


def build_model(config: ModelConfig) -> GPT:
    """A new model of a config: a `GPTClassifier` for a classifier's config."""
    return GPTClassifier(config) if isinstance(config, ClassifierConfig) else GPT(config)


def model_of(config: ModelConfig, state: Mapping[str, Tensor]) -> GPT:
    """A model in evaluation mode with the tensors of a state dict as its weights. They are not copied."""
    with torch.device("meta"):
        model = build_model(config)
    model.load_state_dict(dict(state), assign=True)
    if config.tie_word_embeddings:  # assign=True made two parameters of it
        model.lm_head.weight = model.transformer.wte.weight
    return model.eval()


def fold_query_factor(weight: Tensor, bias: Tensor | None, factor: float) -> tuple[Tensor, Tensor | None]:
    """Scale the queries of a c_attn layer, for programs that only know usual attention.

    Takes and returns the weight (3 * C, C) and the bias (3 * C,). With a factor of 1 they are the same tensors.
    """
    if factor == 1:
        return weight, bias
    width = weight.shape[1]
    weight, bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
    for tensor in (weight, bias):
        if tensor is not None:
            tensor[:width] *= factor
    return weight, bias
