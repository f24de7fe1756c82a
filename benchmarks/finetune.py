"""Fine-tuning speed and memory beside the book's code and TRL, on the same weights' shape and the same rows.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/finetune.py build/gpt2-124m ../shared/data/book-instruction-data.json

Each contender is a process of its own that reads every row once, in batches of 8 with AdamW, behind two steps that
are not timed. Tokens are those of the rows, however few are computed. TRL and what it needs must be importable
(`pip install trl`); without it, its lines are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from assistant.checkpoint import load_checkpoint, read_config
from assistant.collate import encode_examples
from assistant.config import FinetuneSettings
from assistant.instructions import Example, read_examples
from assistant.memory import keep_memory
from assistant.prompts import get_template
from assistant.splits import Splits
from assistant.tokenizer import read_tokenizer
from assistant.trainer import Trainer
from benchmarks.book import book_model

BATCH, WARM_UP = 8, 2
OURS = {
    "ours, masked, bfloat16": ("response", "bfloat16"),
    "ours, masked, float32": ("response", "float32"),
    "ours, unmasked, bfloat16": ("all", "bfloat16"),
    "ours, unmasked, float32": ("all", "float32"),
}
CONTENDERS = ("the book", "trl, masked, bfloat16", *OURS)


def rows(path: Path, count: int) -> list[Example]:
    """Some rows of the file, always the same."""
    examples = [example for example in read_examples(path) if not example.history]
    return random.Random(1).sample(examples, min(count, len(examples)))


def ours(model: Path, examples: list[Example], name: str) -> list[float]:
    """Seconds of every step of our trainer."""
    keep_memory()  # as the command does
    train_on, precision = OURS[name]
    settings = FinetuneSettings(batch_size=BATCH, train_on=train_on, precision=precision, epochs=1)
    nothing: tuple[Example, ...] = ()
    splits = Splits(
        train=tuple(examples),
        validation=nothing,
        test=nothing,
        method="book",
        seed=1,
        fractions=(1.0, 0.0, 0.0),
        data_fingerprint="",
    )
    trainer = Trainer(load_checkpoint(model), splits, settings)
    windows = [window for _, window in trainer.windows(0)]
    for window in windows[:WARM_UP]:
        trainer.update(1, window)
    return [trainer.update(1, window).seconds for window in windows]


def the_book(model: Path, examples: list[Example]) -> list[float]:
    """The same of the book's model and loop, from random weights of the same shape."""
    from llms_from_scratch.ch05 import calc_loss_batch
    from llms_from_scratch.ch07 import InstructionDataset, custom_collate_fn

    config = read_config(model)
    network = book_model(config)
    entries = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    dataset = InstructionDataset(entries, read_tokenizer(model).encoding)
    torch.manual_seed(123)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, collate_fn=custom_collate_fn, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.1)
    network.train()
    batches = list(loader)
    seconds = []
    for input_ids, targets in [*batches[:WARM_UP], *batches]:
        started = time.perf_counter()
        optimizer.zero_grad()
        calc_loss_batch(input_ids, targets, network, torch.device("cpu")).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def trl(model: Path, examples: list[Example]) -> list[float]:
    """The same of TRL's SFTTrainer with its best settings for a CPU."""
    from datasets import Dataset
    from transformers import AutoTokenizer, GPT2LMHeadModel, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    template = get_template("alpaca")
    pairs = [{"prompt": template.render(e.instruction, e.input), "completion": e.output} for e in examples]
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.eos_token
    seconds: list[float] = []

    class Clock(TrainerCallback):
        """Times the steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.started)

    config = SFTConfig(
        output_dir="build/trl",
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=5e-5,
        weight_decay=0.1,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
    )
    warm = pairs[: WARM_UP * BATCH]
    trainer = SFTTrainer(
        model=GPT2LMHeadModel.from_pretrained(model),
        args=config,
        train_dataset=Dataset.from_list(warm + pairs),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    # Their order is theirs, so no step can be called the warm-up: the slowest two are left out instead.
    return sorted(seconds)[: len(seconds) - WARM_UP]


def run_one(name: str, model: Path, data: Path, count: int) -> None:
    """Run a contender and print what it took."""
    examples = rows(data, count)
    if name in OURS:
        seconds = ours(model, examples, name)
    else:
        seconds = the_book(model, examples) if name == "the book" else trl(model, examples)
    tokenizer = read_tokenizer(model)
    encoded = encode_examples(examples, get_template("alpaca"), tokenizer, max_length=1024).rows
    tokens = sum(len(row.input_ids) for row in encoded)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_second": tokens / sum(seconds), "peak_bytes": peak}))


def main() -> None:
    """Run all contenders in turn, a few rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a GPT-2.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", help="One contender, in this process.")
    options = parser.parse_args()
    if options.only:
        run_one(options.only, options.model, options.data, options.rows)
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            words = [str(options.model), str(options.data), "--rows", str(options.rows), "--only", name]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}: left out, {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print("| | tokens/s | times the book | peak memory, GB | of the book's |\n| --- | --- | --- | --- | --- |")
    middle = {
        name: [statistics.median(run[key] for run in runs) for key in ("tokens_per_second", "peak_bytes")]
        for name, runs in found.items()
    }
    book = middle.get("the book", [float("nan")] * 2)
    for name, (speed, peak) in middle.items():
        print(f"| {name} | {speed:,.0f} | {speed / book[0]:.2f} | {peak / 1e9:.2f} | {peak / book[1]:.2f} |")


if __name__ == "__main__":
    main()
