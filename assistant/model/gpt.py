"""GPT-2 in torch, under GPT-2's own module names, so that a checkpoint loads by name.

The forward pass ends at the hidden states. The head is called separately, because it is a third of the computation of a
small GPT-2 and is only needed at positions that have a target. Decoding uses `assistant.decoding`, which has a cache.

Shapes: B rows, T tokens, N packed tokens, K target positions, C n_embd, V vocab_size, H heads, D head size, S keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from assistant.model import fused
from assistant.model.block import Attend, Block, attend_packed, attend_rows
from assistant.model.config import ClassifierConfig, GPTConfig, LlamaConfig, ModelConfig
from assistant.model.linear import Linear, NoInitialWeights, embed_tied
from assistant.model.llama import LlamaBlock, RMSNorm, Rotary, stored_parts
from assistant.model.packing import PackedBatch


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.query_factor = config.query_factor(layer)
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def inputs(self, x: Tensor) -> Tensor:
        """x (N, C) -> queries, keys and values (N, 3 * C). Usual attention of them is this layer's attention."""
        qkv: Tensor = self.c_attn(x)
        if self.query_factor == 1:
            return qkv
        factors = qkv.new_ones(qkv.shape[-1])
        factors[: qkv.shape[-1] // 3] = self.query_factor
        return qkv * factors


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, inner)
        self.c_proj = Linear(inner, config.n_embd)
        self.approximate = "none" if config.activation_function == "gelu" else "tanh"

    def forward(self, x: Tensor, *, uses_loops: bool) -> Tensor:
        inner = self.c_fc(x)
        is_fused = uses_loops and self.approximate == "tanh" and fused.supports(inner)
        out: Tensor = self.c_proj(fused.gelu(inner) if is_fused else F.gelu(inner, approximate=self.approximate))
        return out


class GPTBlock(Block):
    """GPT-2's block: LayerNorm before attention and before the MLP, and a residual around each."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def attention_inputs(self, x: Tensor, positions: Tensor) -> Tensor:
        del positions  # the embedding has added them
        out: Tensor = self.attn.inputs(self.ln_1(x))
        return out

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.add(x, self.attn.c_proj(attended))
        return self.add(x, self.mlp(self.ln_2(x), uses_loops=self.uses_loops))


class Embedding(NoInitialWeights, nn.Embedding):
    """torch's embedding."""


class Transformer(nn.Module):
    """Embeddings, blocks and the last norm, of GPT-2 or of the Llama family."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.wte = Embedding(config.vocab_size, config.n_embd)
        if isinstance(config, LlamaConfig):
            rotary = Rotary(config.rope, config.heads.size)
            self.h = nn.ModuleList(LlamaBlock(config, rotary) for _ in range(config.n_layer))
            self.ln_f: nn.Module = RMSNorm(config.n_embd, config.rms_norm_eps)
        else:
            self.wpe = Embedding(config.n_positions, config.n_embd)
            self.h = nn.ModuleList(GPTBlock(config, layer) for layer in range(config.n_layer))
            self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    @property
    def embeddings(self) -> list[nn.Embedding]:
        """The embeddings of tokens and, in GPT-2, of positions."""
        return [self.wte, self.wpe] if hasattr(self, "wpe") else [self.wte]

    def add_positions(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add GPT-2's embeddings of positions (N,) to those of tokens (N, C). Rotary positions add nothing here."""
        return x + self.wpe(positions) if hasattr(self, "wpe") else x


class GPT(nn.Module):
    """A language model: GPT-2, or one of the Llama family. `forward` returns hidden states, `head` their logits."""

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
        n_rows, heads = len(input_ids), self.config.heads
        positions = torch.arange(n_tokens, device=input_ids.device).repeat(n_rows)
        x = self.transformer.add_positions(self.transformer.wte(input_ids.flatten()).float(), positions)
        for block in self.transformer.h:
            x = self._run(block, x, positions, lambda qkv: attend_rows(qkv, n_rows, heads))
        hidden: Tensor = self.transformer.ln_f(x)
        return hidden.view(n_rows, n_tokens, -1)

    def target_logits(self, batch: PackedBatch, before_last: Tensor | None = None) -> Tensor:
        """Logits (K, V) at a packed batch's target positions. They equal those of `forward` and `head`, but cost less.

        Each token is computed once (see `packing`). After its attention, the last block runs only at the targets.
        `before_last` (N, C) is what `before_last_block` returned, where it is known already.

        Raises:
            ValueError: a row is longer than the context length.
        """
        gradients: list[Tensor] | None = [] if self._ties_gradients else None
        x = self.before_last_block(batch, gradients) if before_last is None else before_last
        last = self.transformer.h[-1](x, batch.positions, self._attention_of(batch), batch.target_positions)
        hidden: Tensor = self.transformer.ln_f(last)
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
        x = wte(batch.input_ids).float() if gradients is None else embed_tied(wte.weight, batch.input_ids, gradients)
        x = self.transformer.add_positions(x, batch.positions)
        attend = self._attention_of(batch)
        for block in self.transformer.h[:-1]:
            x = self._run(block, x, batch.positions, attend)
        return x

    def _run(self, block: nn.Module, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        if self.gradient_checkpointing and self.training:
            x = checkpoint(block, x, positions, attend, use_reentrant=False)
        else:
            x = block(x, positions, attend)
        return x

    def _attention_of(self, batch: PackedBatch) -> Attend:
        return lambda qkv: attend_packed(qkv, batch, self.config.heads)

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
                elif ".ln_" in name or "_norm." in name:
                    parameter.fill_(1.0)
                else:
                    std = residual_std if name.endswith("c_proj.weight") else 0.02
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    @property
    def n_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


class Score(NoInitialWeights, nn.Linear):
    """A classifier's head. It computes in float32, also under autocast: it costs nothing, and few logits decide."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., labels) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


class GPTClassifier(GPT):
    """GPT-2 with one output for each label instead of one for each token: V is the number of labels."""

    padded_to: int | None = None
    """Length, in tokens, that texts are padded to before the label is read at the end. None: it is read at the last
    token of the text."""

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
    """A model in evaluation mode with the tensors of a state dict as its weights. They are not copied.

    The state need not have a tied head.
    """
    with torch.device("meta"):
        model = build_model(config)
    head = {"lm_head.weight": state["transformer.wte.weight"]} if config.tie_word_embeddings else {}
    model.load_state_dict({**state, **head}, assign=True)
    if config.tie_word_embeddings:  # assign=True made two parameters of it
        model.lm_head.weight = model.transformer.wte.weight
    return model.eval()


def stored_names(name: str, config: ModelConfig) -> list[tuple[str, int]]:
    """The tensors of a file that together are one of the model's: their names, and the rows of each; -1 for all."""
    return stored_parts(name, config) if isinstance(config, LlamaConfig) else [(name, -1)]


def stored_views(name: str, value: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The parts of a tensor of the model under their names in a file. They share its memory."""
    parts = stored_names(name, config)
    views = value.split([rows for _, rows in parts]) if len(parts) > 1 else (value,)  # type: ignore[no-untyped-call]
    return zip((stored for stored, _ in parts), views, strict=True)


def with_usual_attention(model: GPT) -> dict[str, Tensor]:
    """The state dict of a model, for programs that only know usual attention: a layer's queries have its factor."""
    config, state = model.config, dict(model.state_dict())
    factors = [config.query_factor(layer) for layer in range(config.n_layer)] if isinstance(config, GPTConfig) else []
    for layer, factor in enumerate(factors):
        for kind in ("weight", "bias") if factor != 1 else ():
            name = f"transformer.h.{layer}.attn.c_attn.{kind}"
            state[name] = state[name].detach().clone()
            state[name][: config.n_embd] *= factor
    return state
