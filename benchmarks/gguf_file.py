"""Convert a GPT-2 folder to a GGUF file, so that llama.cpp can be measured with the same weights. Needs `gguf`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from assistant.model.checkpoint import load_checkpoint

GGUF_NAMES = {
    "transformer.wte.": "token_embd.",
    "transformer.wpe.": "position_embd.",
    "transformer.ln_f.": "output_norm.",
    ".ln_1.": ".attn_norm.",
    ".attn.c_attn.": ".attn_qkv.",
    ".attn.c_proj.": ".attn_output.",
    ".ln_2.": ".ffn_norm.",
    ".mlp.c_fc.": ".ffn_up.",
    ".mlp.c_proj.": ".ffn_down.",
    "transformer.h.": "blk.",
}


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write the model in `folder` to `path`.

    `kind` is the type of the matrices: `f32`, `f16` or `q8_0`. Biases, norms and position embeddings stay float32, as
    llama.cpp needs them.
    """
    model = load_checkpoint(folder).model
    config = model.config
    types = {
        "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
        "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
        "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    }
    matrix_type, file_type = types[kind]
    writer = GGUFWriter(path, "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(file_type)
    add_vocabulary(writer, folder)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":  # tied: llama.cpp uses the embedding
            continue
        gguf_name = name
        for gpt2_part, gguf_part in GGUF_NAMES.items():
            gguf_name = gguf_name.replace(gpt2_part, gguf_part)
        add_tensor(writer, gguf_name, value, matrix_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: GGUFWriter, name: str, value: torch.Tensor, matrix_type: GGMLQuantizationType) -> None:
    """Add one tensor: matrices in `matrix_type`, all others in float32."""
    from gguf.quants import quantize

    array = value.float().numpy()
    if value.dim() < 2 or name.startswith("position_embd"):
        writer.add_tensor(name, array.astype(np.float32))
    else:
        writer.add_tensor(name, quantize(array, matrix_type), raw_dtype=matrix_type)


def add_vocabulary(writer: GGUFWriter, folder: Path) -> None:
    """Add the tokens and merges of the model's folder."""
    vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token == "<|endoftext|>" else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([line for line in merges if line and not line.startswith("#version")])
    writer.add_bos_token_id(vocab["<|endoftext|>"])
    writer.add_eos_token_id(vocab["<|endoftext|>"])
