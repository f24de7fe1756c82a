"""The names and the layout of the book's `GPTModel`, and how they become those of `GPT`, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from assistant.interop.book_classifier import HEAD_BIAS, HEAD_WEIGHT
from assistant.model.config import gpt2_only
from assistant.model.gpt import GPT, GPTClassifier, with_usual_attention
from assistant.model.weights import EMBEDDING, HEAD, SCORE, SCORE_BIAS, WRAPPERS

MASK = ".att.mask"
_TOP = {
    "tok_emb.weight": EMBEDDING,
    "pos_emb.weight": "transformer.wpe.weight",
    "final_norm.scale": "transformer.ln_f.weight",
    "final_norm.shift": "transformer.ln_f.bias",
}
_LANGUAGE_HEAD = {HEAD_WEIGHT: HEAD}
_LABEL_HEAD = {HEAD_WEIGHT: SCORE, HEAD_BIAS: SCORE_BIAS}
_IN_BLOCK = {
    "att.out_proj.weight": "attn.c_proj.weight",
    "att.out_proj.bias": "attn.c_proj.bias",
    "ff.layers.0.weight": "mlp.c_fc.weight",
    "ff.layers.0.bias": "mlp.c_fc.bias",
    "ff.layers.2.weight": "mlp.c_proj.weight",
    "ff.layers.2.bias": "mlp.c_proj.bias",
    "norm1.scale": "ln_1.weight",
    "norm1.shift": "ln_1.bias",
    "norm2.scale": "ln_2.weight",
    "norm2.shift": "ln_2.bias",
}
_QKV = ("att.W_query", "att.W_key", "att.W_value")
# The book's faster variant, `GPTModelFast`, has torch's LayerNorm and one matrix for queries, keys and values.
_FAST_NAMES = (
    (re.compile(r"(norm1|norm2|final_norm)\.weight$"), r"\1.scale"),
    (re.compile(r"(norm1|norm2|final_norm)\.bias$"), r"\1.shift"),
    (re.compile(r"att\.proj\."), "att.out_proj."),
)


def plain_name(name: str) -> str:
    """The book's own name of a tensor, without wrappers' prefixes and for both of its variants."""
    name = WRAPPERS.sub("", name)
    for pattern, replacement in _FAST_NAMES:
        name = pattern.sub(replacement, name)
    return name


def translate(state: dict[str, Tensor], width: int, *, is_classifier: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor under GPT-2's name, copied to float32. Names that the book does not have stay as they are."""
    top = _TOP | (_LABEL_HEAD if is_classifier else _LANGUAGE_HEAD)
    while state:
        name = next(iter(state))
        block, _, rest = name.removeprefix("trf_blocks.").partition(".")
        prefix, target = f"trf_blocks.{block}.", f"transformer.h.{block}."
        layer, _, kind = rest.rpartition(".")
        if name in top:
            yield top[name], _copy(state.pop(name))
        elif name.startswith("trf_blocks.") and rest in _IN_BLOCK:
            yield target + _IN_BLOCK[rest], _copy(state.pop(name))
        elif name.startswith("trf_blocks.") and layer == "att.qkv":
            yield f"{target}attn.c_attn.{kind}", _copy(state.pop(name))
        elif name.startswith("trf_blocks.") and layer in _QKV:
            parts = [state.pop(f"{prefix}{part}.{kind}", None) for part in _QKV]
            present = [_copy(part) for part in parts if part is not None]
            is_whole = len(present) == len(_QKV) and len({part.shape for part in present}) == 1
            yield (f"{target}attn.c_attn.{kind}", torch.cat(present)) if is_whole else (name, present[0])
        else:
            yield name, _copy(state.pop(name))
        c_attn = f"{target}attn.c_attn.weight"
        if rest in ("att.W_query.weight", "att.qkv.weight") and not any(
            f"{prefix}{layer}.bias" in state for layer in (*_QKV, "att.qkv")
        ):
            yield c_attn.replace("weight", "bias"), torch.zeros(3 * width)


def _copy(value: Tensor) -> Tensor:
    # Always copy: a tensor that still points into the file keeps the whole file in memory.
    return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def book_state(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor under the book's name, on the CPU. The mask of each block is among them.

    The book's classifier has always a bias. That of a head without one is zero.
    """
    config, state = gpt2_only(model.config, "model", "the book's code"), with_usual_attention(model)
    if isinstance(model, GPTClassifier):
        state.setdefault(SCORE_BIAS, torch.zeros(len(model.labels)))
    for name, ours in (_TOP | (_LABEL_HEAD if isinstance(model, GPTClassifier) else _LANGUAGE_HEAD)).items():
        yield name, _on_cpu(state[ours])
    mask = torch.triu(torch.ones(config.n_positions, config.n_positions), diagonal=1)
    for block in range(config.n_layer):
        prefix, source = f"trf_blocks.{block}.", f"transformer.h.{block}."
        for name, ours in _IN_BLOCK.items():
            yield prefix + name, _on_cpu(state[source + ours])
        weight, bias = (state[f"{source}attn.c_attn.{kind}"].chunk(3) for kind in ("weight", "bias"))
        for part, rows, numbers in zip(_QKV, weight, bias, strict=True):
            yield f"{prefix}{part}.weight", _on_cpu(rows)
            yield f"{prefix}{part}.bias", _on_cpu(numbers)
        yield prefix + "att.mask", mask


def _on_cpu(value: Tensor) -> Tensor:
    # A view of a larger tensor would be saved with all of it.
    value = value.detach().to("cpu", torch.float32).contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
