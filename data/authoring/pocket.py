"""The pocket model from nothing: corpus, tokenizer, pretraining, model folder. `make pocket` runs this.

    python -m data.authoring.pocket --work build/pocket --output data/pocket

Pretraining is `assistant finetune` with plain text: the same loop, which may be stopped and taken up again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from assistant.dataset.instructions import read_examples
from assistant.dataset.prompts import TEXT_TEMPLATE
from assistant.files import write_atomic
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.config import ModelConfig
from assistant.model.scratch import new_checkpoint
from data.lexicon.corpus import DEFAULT_DOCUMENTS, DEFAULT_SEED, FIRST, SECOND, THIRD, Mix, write_corpus

CARD = Path(__file__).parent / "model_card.md"
SHAPE = ModelConfig(n_layer=4, n_head=4, n_embd=256, n_positions=256, vocab_size=4096)
TRAINING = (
    *("--template", TEXT_TEMPLATE, "--train-on", "all", "--epochs", "1", "--batch-size", "8"),
    *("--optimizer", "muon", "--precision", "bfloat16", "--test-share", "0", "--validation-share", "0.002"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One pass over a corpus."""

    mix: Mix
    seed: int
    documents: int
    options: tuple[str, ...]
    digest: str
    """SHA-256 of the corpus that the shipped model read."""


READINGS = (
    Reading(
        mix=FIRST,
        seed=DEFAULT_SEED,
        documents=DEFAULT_DOCUMENTS,
        options=("--learning-rate", "6e-3", "--warmup-steps", "300"),
        digest="6b4f25078f155ec45458a7074bf27b541d08c521b9b27080628d9a3ebf595e99",
    ),
    Reading(
        mix=SECOND,
        seed=DEFAULT_SEED + 1,
        documents=60_000,
        options=("--learning-rate", "3e-3", "--warmup-steps", "100"),
        digest="f26fd6e4f817a76620554054dbec49b79e0f95bddaa25f6a73bb31935a04d44e",
    ),
    Reading(
        mix=THIRD,
        seed=DEFAULT_SEED + 2,
        documents=18_000,
        options=("--learning-rate", "1.2e-3", "--warmup-steps", "50"),
        digest="24c7577a0c473ef357aa2fb4f14efe4d14f9fb92180fa81f0d28b5451dc027a7",
    ),
)
SEED = 1
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**27)}
"""glibc keeps freed memory instead of asking for it again every step: a fifth faster (benchmarks/RESULTS.md)."""


def main() -> None:
    """Make what is not there yet: every stage leaves a file or folder in `--work`, and is not repeated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="Folder for the corpus and the run.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the finished model.")
    parser.add_argument("--share", type=float, default=1.0, help="Of the documents: for a smaller one.")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    started = time.perf_counter()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / "pocket"
    for number, reading in enumerate(READINGS, start=1):
        corpus, run = options.work / f"corpus-{number}.jsonl", options.work / f"run-{number}"
        if not corpus.exists():
            count = max(1, round(options.share * reading.documents))
            write_corpus(corpus, seed=reading.seed, count=count, mix=reading.mix)
            if options.share == 1 and hashlib.sha256(corpus.read_bytes()).hexdigest() != reading.digest:
                print(f"{corpus}: not what the shipped model read; the tables or instructions have changed since.")
        if not model.exists():
            begin(corpus, model, options.seed)
        read(corpus, model, run, (*reading.options, "--seed", str(options.seed)))
        model = run / "last"
    finish(model, options.output)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{options.output}: made in {minutes:.0f} minutes on {platform.machine()}, {torch.get_num_threads()} threads."
    )


def begin(corpus: Path, model: Path, seed: int) -> None:
    """A model with random weights and the vocabulary of a corpus."""
    examples = read_examples(corpus)
    save_checkpoint(new_checkpoint(examples, SHAPE, seed=seed, name=model.name, template=TEXT_TEMPLATE), model)


def read(corpus: Path, model: Path, run: Path, options: Sequence[str]) -> None:
    """One pass over a corpus, by the command that anyone may type; nothing where that was done before."""
    command = ["finetune", str(corpus), "--model", str(model), "--output", str(run), *TRAINING, *options]
    print("$ assistant", " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "assistant", *command, "--resume"], env=os.environ | KEEP_MEMORY, check=False
    )
    if done.returncode:  # a Ctrl-C, too: what there is, is kept, and the next call goes on
        sys.exit(done.returncode)


def finish(model: Path, output: Path) -> None:
    """The newest weights in 16 bits, as a base model: without the records of a fine-tuned one, with its model card."""
    checkpoint = load_checkpoint(model)
    info = checkpoint.info
    assert info is not None
    save_checkpoint(checkpoint.as_base(), output, dtype=torch.float16)
    write_atomic(output / "README.md", CARD.read_text(encoding="utf-8"))
    print(json.dumps({"metrics": info.metrics, "rows": info.rows, "versions": info.versions}, indent=2))


if __name__ == "__main__":
    main()
