"""Makes the pocket model from scratch: corpus, tokenizer, pretraining, model folder. `make pocket` runs this.

    python -m data.authoring.pocket --work build/pocket --output data/pocket

Pretraining is `assistant finetune` on plain text, so you can stop it and resume it.
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
from assistant.model.config import GPTConfig
from assistant.model.scratch import new_checkpoint
from data.lexicon.corpus import DEFAULT_DOCUMENTS, DEFAULT_SEED, FIRST, SECOND, THIRD, Mix, write_corpus

CARD = Path(__file__).parent / "model_card.md"
SHAPE = GPTConfig(n_layer=4, n_head=4, n_embd=256, n_positions=512, vocab_size=4096)
TRAINING = (
    *("--template", TEXT_TEMPLATE, "--train-on", "all", "--epochs", "1", "--batch-size", "16"),
    *("--optimizer", "muon", "--precision", "auto", "--test-share", "0", "--validation-share", "0.002"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One phase of pretraining: one pass over one corpus."""

    mix: Mix
    seed: int
    documents: int
    options: tuple[str, ...]
    digest: str
    """SHA-256 of the corpus."""


PHASES = (
    Phase(
        mix=FIRST,
        seed=DEFAULT_SEED,
        documents=DEFAULT_DOCUMENTS,
        options=("--learning-rate", "8e-3", "--warmup-steps", "300"),
        digest="776a5287153856c6758a030c23ac1d9c3927249deb38761203be8e527f0809bf",
    ),
    Phase(
        mix=SECOND,
        seed=DEFAULT_SEED + 1,
        documents=28_000,
        options=("--learning-rate", "2.5e-3", "--warmup-steps", "50"),
        digest="fa94e521ee5f5de43d6007524b11a2061cfb5964a2161763ec476400433f4b61",
    ),
    Phase(
        mix=THIRD,
        seed=DEFAULT_SEED + 2,
        documents=15_000,
        options=("--learning-rate", "1.2e-3", "--warmup-steps", "30"),
        digest="eea7a3378ea2a2985a2fa38e82961f331049f3c624465ef89d1b2273d5f26c7d",
    ),
)
SEED = 1
MALLOC_SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**27)}
"""glibc keeps freed memory, so that the run does not request it again in each step: a fifth faster
(benchmarks/RESULTS.md)."""


def main() -> None:
    """Run every stage that has no result yet. Each stage leaves a file or folder in `--work`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="Folder for the corpus and the run.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the finished model.")
    parser.add_argument("--share", type=float, default=1.0, help="Share of the documents, for a smaller corpus.")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    started = time.perf_counter()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / "pocket"
    for number, phase in enumerate(PHASES, start=1):
        corpus, run = options.work / f"corpus-{number}.jsonl", options.work / f"run-{number}"
        if not corpus.exists():
            count = max(1, round(options.share * phase.documents))
            write_corpus(corpus, seed=phase.seed, count=count, mix=phase.mix)
            if options.share == 1 and hashlib.sha256(corpus.read_bytes()).hexdigest() != phase.digest:
                print(f"{corpus}: its hash is not the known one; the tables or instructions have changed.")
        if not model.exists():
            create_model(corpus, model, options.seed)
        pretrain(corpus, model, run, (*phase.options, "--seed", str(options.seed)))
        model = run / "last"
    export(model, options.output)
    minutes = (time.perf_counter() - started) / 60
    print(
        f"{options.output}: made in {minutes:.0f} minutes on {platform.machine()}, {torch.get_num_threads()} threads."
    )


def create_model(corpus: Path, model: Path, seed: int) -> None:
    """Train a tokenizer on the corpus, and save it with a model with random weights."""
    examples = read_examples(corpus)
    save_checkpoint(new_checkpoint(examples, SHAPE, seed=seed, name=model.name, template=TEXT_TEMPLATE), model)


def pretrain(corpus: Path, model: Path, run: Path, options: Sequence[str]) -> None:
    """Train for one pass over a corpus with `assistant finetune --resume`, which skips a finished pass."""
    command = ["finetune", str(corpus), "--model", str(model), "--output", str(run), *TRAINING, *options]
    print("$ assistant", " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "assistant", *command, "--resume"], env=os.environ | MALLOC_SETTINGS, check=False
    )
    if done.returncode:  # After an error or Ctrl-C, the next call resumes the run.
        sys.exit(done.returncode)


def export(model: Path, output: Path) -> None:
    """Save the last weights in float16 as a base model, with its model card and without the training record."""
    checkpoint = load_checkpoint(model)
    info = checkpoint.info
    assert info is not None
    save_checkpoint(checkpoint.as_base(), output, dtype=torch.float16)
    write_atomic(output / "README.md", CARD.read_text(encoding="utf-8"))
    print(json.dumps({"metrics": info.metrics, "rows": info.rows, "versions": info.versions}, indent=2))


if __name__ == "__main__":
    main()
