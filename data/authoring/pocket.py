"""The pocket model from nothing: corpus, tokenizer, pretraining, model folder. `make pocket` runs this.

    python -m data.authoring.pocket --work build/pocket --output data/pocket

Pretraining is `assistant finetune` with plain text: the same loop, which may be stopped and taken up again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from assistant.checkpoint import load_checkpoint, save_checkpoint
from assistant.config import ModelConfig
from assistant.files import write_whole
from assistant.instructions import read_examples
from assistant.prompts import TEXT_TEMPLATE
from assistant.scratch import new_checkpoint
from data.lexicon.corpus import DEFAULT_DOCUMENTS, DEFAULT_SEED, write_corpus

CARD = Path(__file__).parent / "model_card.md"
SHAPE = ModelConfig(n_layer=4, n_head=4, n_embd=256, n_positions=256, vocab_size=4096)
TRAINING = (
    *("--template", TEXT_TEMPLATE, "--train-on", "all", "--epochs", "1", "--batch-size", "8"),
    *("--optimizer", "muon", "--learning-rate", "6e-3", "--warmup-steps", "300", "--precision", "bfloat16"),
    *("--test-share", "0", "--validation-share", "0.002"),
)
SEED = 1
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**27)}
"""glibc keeps freed memory instead of asking for it again every step: a fifth faster (benchmarks/RESULTS.md)."""


def main() -> None:
    """Make what is not there yet: every stage leaves a file or folder in `--work`, and is not repeated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="Folder for the corpus and the run.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the finished model.")
    parser.add_argument("--documents", type=int, default=DEFAULT_DOCUMENTS)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    started = time.perf_counter()
    corpus, base, run = (options.work / name for name in ("corpus.jsonl", "pocket", "run"))
    options.work.mkdir(parents=True, exist_ok=True)
    if not corpus.exists():
        write_corpus(corpus, seed=DEFAULT_SEED, count=options.documents)
    if not base.exists():
        save_checkpoint(
            new_checkpoint(read_examples(corpus), SHAPE, seed=options.seed, name=base.name, template=TEXT_TEMPLATE),
            base,
        )
    pretrain(corpus, base, run, options.seed)
    finish(run, options.output)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{options.output}: made in {minutes:.0f} minutes on {platform.machine()}, {torch.get_num_threads()} threads."
    )


def pretrain(corpus: Path, base: Path, run: Path, seed: int) -> None:
    """One pass over the corpus, by the command that anyone may type; nothing where that was done before."""
    command = ["finetune", str(corpus), "--model", str(base), "--output", str(run), *TRAINING, "--seed", str(seed)]
    print("$ assistant", " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "assistant", *command, "--resume"], env=os.environ | KEEP_MEMORY, check=False
    )
    if done.returncode:  # a Ctrl-C, too: what there is, is kept, and the next call goes on
        sys.exit(done.returncode)


def finish(run: Path, output: Path) -> None:
    """The newest weights in 16 bits, as a base model: without the records of a fine-tuned one, with its model card."""
    checkpoint = load_checkpoint(run / "last")
    info = checkpoint.info
    assert info is not None
    save_checkpoint(checkpoint.as_base(), output, dtype=torch.float16)
    write_whole(output / "README.md", CARD.read_text(encoding="utf-8"))
    print(json.dumps({"metrics": info.metrics, "rows": info.rows, "versions": info.versions}, indent=2))


if __name__ == "__main__":
    main()
