"""Write a GPT-2 with random weights and GPT-2's vocabulary: a base model for machines that cannot download one.

    python benchmarks/random_gpt2.py FOLDER [--layers 4] [--width 128] [--cache ../shared/tiktoken-cache]

`transformers` writes the weights. The vocabulary comes from tiktoken's download cache (TIKTOKEN_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

# tiktoken's names for its downloads.
MERGES, VOCAB = "6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("../shared/tiktoken-cache"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = GPT2Config(n_layer=options.layers, n_embd=options.width, n_head=max(1, options.width // 64))
    GPT2LMHeadModel(config).save_pretrained(options.folder)
    shutil.copyfile(options.cache / MERGES, options.folder / "merges.txt")
    shutil.copyfile(options.cache / VOCAB, options.folder / "vocab.json")


if __name__ == "__main__":
    main()
