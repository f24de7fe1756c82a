"""The tensors of a model under llama.cpp's names and in its layout, which GGUF files have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from assistant.model.config import LlamaConfig, ModelConfig
from assistant.model.gpt import GPT, stored_views, with_usual_attention
from assistant.model.llama import frequency_shares
from assistant.model.weights import HEAD

FREQUENCIES = "rope_freqs.weight"
"""What llama.cpp divides the frequencies of Llama 3's positions by."""


def gguf_tensors(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Yield llama.cpp's name and the weights of every tensor, matrices as (out, in). A tied head is omitted.

    llama.cpp only knows usual attention, so a model's own attention scaling is folded into its queries.
    """
    config, name_of = model.config, gguf_names(model.config)
    if isinstance(config, LlamaConfig) and config.rope.factor != 1 and not config.rope.linear:
        yield FREQUENCIES, 1 / frequency_shares(config.rope, config.heads.size)
    for name, value in with_usual_attention(model).items():
        if name == HEAD and config.tie_word_embeddings:
            continue  # llama.cpp uses the embedding
        for stored, part in stored_views(name, value, config):
            part = part.detach().to("cpu", torch.float32)
            yield name_of(stored), turned_rows(name_of(stored), part, config).contiguous()


def gguf_names(config: ModelConfig) -> Callable[[str], str]:
    """What turns Hugging Face's name of a tensor into llama.cpp's."""
    import gguf

    architectures = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(architectures[config.model_type], config.n_layer)
    return lambda stored: str(known.get_name(stored, (".weight", ".bias")))


def turned_rows(name: str, value: Tensor, config: ModelConfig, *, back: bool = False) -> Tensor:
    """Put the rows of a Llama's queries and keys in llama.cpp's order, or `back` in Hugging Face's.

    There the two numbers of a pair that is turned together are neighbours; here they are half a head apart.
    """
    n_head, n_kv_head, size = config.heads
    count = {"attn_q": n_head, "attn_k": n_kv_head}.get(name.split(".")[-2])
    if config.model_type != "llama" or count is None:
        return value
    pair = (size // 2, 2) if back else (2, size // 2)
    return value.view(count, *pair, -1).transpose(1, 2).reshape(value.shape)
