"""Training speed of a classifier beside the book's loop: the same weights' shape, the same rows, one thread pool.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/classify_speed.py build/gpt2-124m data/spam.json

Every contender is a process of its own that trains the last block, the final norm and the head in batches of 8 with
AdamW. Tokens are those of the texts, without padding. The book's loop pads every text to the longest and computes each
epoch alike, so one epoch of it is timed. Ours computes the frozen blocks once, which counts as a part of its run; with
all weights trained, one epoch of it is timed, too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from assistant.classifier.label_files import read_labelled
from assistant.dataset.examples import Example
from assistant.dataset.labelled import sort_labels
from assistant.dataset.splits import Splits
from assistant.dataset.tokenizer import read_tokenizer
from assistant.model.checkpoint import load_checkpoint, read_config
from assistant.settings import ClassifierSettings, FinetuneSettings
from assistant.training.classification import ClassifierTrainer
from assistant.training.malloc import keep_freed_memory
from benchmarks.book import book_model

BATCH = 8
THE_BOOK, OURS, OURS_ALL = "the book, last block", "ours, last block", "ours, all weights"
CONTENDERS = (THE_BOOK, OURS, OURS_ALL)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contender is given."""

    model: Path
    data: Path
    rows: int
    epochs: int
    precision: str


def some_rows(work: Work) -> list[Example]:
    """Some rows of the file, always the same."""
    examples = list(read_labelled(work.data).examples)
    return random.Random(1).sample(examples, min(work.rows, len(examples)))


def ours(work: Work, *, trained: str) -> tuple[int, float]:
    """Tokens and seconds of a whole run of our trainer."""
    keep_freed_memory()  # as the command does
    examples, nothing = tuple(some_rows(work)), tuple[Example, ...]()
    splits = Splits(
        train=examples, validation=nothing, test=nothing, method="book", seed=1, fractions=(1.0, 0.0, 0.0),
        data_fingerprint="",
    )  # fmt: skip
    settings = FinetuneSettings.model_validate(
        {
            **{
                "batch_size": BATCH,
                "epochs": 1 if trained == "all" else work.epochs,
                "template": "text",
                "validation_answers": 0,
            },
            **{"precision": work.precision, "classifier": ClassifierSettings.model_validate({"trained": trained})},
        }
    )
    trainer = ClassifierTrainer(load_checkpoint(work.model), splits, settings)
    windows = [window for _, window in trainer.windows(0)]
    trainer.check_fast_path(windows[0])  # a warm-up
    started = time.perf_counter()
    trainer.prepare()
    tokens = sum(trainer.train_step(step, window).tokens for step, window in enumerate(windows, start=1))
    return tokens, time.perf_counter() - started


def the_book(work: Work) -> tuple[int, float]:
    """Tokens and seconds of one epoch of the book's loop, from random weights of the same shape."""
    import pandas as pd
    from llms_from_scratch.ch06 import SpamDataset, calc_loss_batch

    examples, tokenizer = some_rows(work), read_tokenizer(work.model)
    labels = sort_labels(example.output for example in examples)
    network = book_model(read_config(work.model))
    network.requires_grad_(False)
    network.out_head = torch.nn.Linear(network.tok_emb.weight.shape[1], len(labels))
    for module in (network.trf_blocks[-1], network.final_norm):
        module.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        rows = [{"Label": labels.index(e.output), "Text": e.instruction} for e in examples]
        pd.DataFrame(rows).to_csv(path, index=False)
        dataset = SpamDataset(path, tokenizer.encoding, pad_token_id=tokenizer.pad_id)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.1)
    network.train()
    batches = list(loader)
    seconds = 0.0
    for index, (input_ids, targets) in enumerate([batches[0], *batches]):  # the first is a warm-up
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = calc_loss_batch(input_ids, targets, network, torch.device("cpu"))
        loss.backward()
        optimizer.step()
        loss.item()
        seconds += time.perf_counter() - started if index else 0.0
    n_tokens = sum(int((ids != tokenizer.pad_id).sum()) for ids, _ in batches)
    return n_tokens, seconds


def contend(name: str, work: Work) -> dict[str, Any]:
    """One contender's figures."""
    tokens, seconds = (
        the_book(work) if name == THE_BOOK else ours(work, trained="all" if name == OURS_ALL else "last-block")
    )
    return {"name": name, "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def main() -> None:
    """Run the contenders in turn, some rounds, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", choices=CONTENDERS, help="one contender, in this process")
    options = parser.parse_args()
    fields = ("model", "data", "rows", "epochs", "precision")
    work = Work(**{name: getattr(options, name) for name in fields})
    if options.only:
        print(json.dumps(contend(options.only, work)))
        return
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name, measured in speeds.items():
            words = [f"--{key}={value}" for key, value in asdict(work).items() if key not in ("model", "data")]
            command = [sys.executable, __file__, str(work.model), str(work.data), *words, "--only", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured.append(json.loads(done.stdout)["tokens_per_second"])
            print(f"{name:22} {measured[-1]:10,.0f} tokens/s", flush=True)
    book = statistics.median(speeds[THE_BOOK])
    print("\nmedians")
    for name, measured in speeds.items():
        median = statistics.median(measured)
        print(f"{name:22} {median:10,.0f} tokens/s  {median / book:6.1f} times the book")


if __name__ == "__main__":
    main()
