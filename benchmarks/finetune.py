"""Fine-tuning speed and memory beside the book's code and TRL, on the same weights' shape and the same rows.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/finetune.py build/gpt2-124m ../shared/data/book-instruction-data.json
    python benchmarks/finetune.py build/gpt2-124m ../shared/data/book-instruction-data.json --device cuda --batch 64

Each contender is a process of its own that reads every row once, in batches of 8 with AdamW, after two steps that
are not timed. Tokens are those of the rows, however few are computed. The share of the matrix rate is what these
tokens would take, at 6 operations for each weight and token, of what this machine can do in the dtype in one large
product. TRL and what it needs must be importable (`pip install trl`); without it, its lines are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from assistant.dataset.encode import EncodedExample, encode_examples
from assistant.dataset.instructions import Example, read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import Splits
from assistant.dataset.tokenizer import read_tokenizer
from assistant.model.checkpoint import load_checkpoint, read_config
from assistant.model.packing import IGNORE_INDEX
from assistant.settings import FinetuneSettings
from assistant.training.malloc import keep_freed_memory
from assistant.training.trainer import Trainer
from benchmarks.book import book_model

WARM_UP = 2
OURS = {
    "ours, masked, bfloat16": ("response", "bfloat16"),
    "ours, masked, float32": ("response", "float32"),
    "ours, unmasked, bfloat16": ("all", "bfloat16"),
    "ours, unmasked, float32": ("all", "float32"),
}
THE_BOOK, TRL = "the book", "trl, masked, bfloat16"
CONTENDERS = (THE_BOOK, TRL, *OURS)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contender is given."""

    model: Path
    data: Path
    rows: int
    batch: int
    device: str


def encode(work: Work, examples: list[Example]) -> tuple[EncodedExample, ...]:
    """The rows as ids."""
    tokenizer = read_tokenizer(work.model)
    return encode_examples(examples, get_template("alpaca"), tokenizer, max_length=1024).rows


def rows(path: Path, count: int) -> list[Example]:
    """Some rows of the file, always the same."""
    examples = [example for example in read_examples(path) if not example.history]
    return random.Random(1).sample(examples, min(count, len(examples)))


def ours(work: Work, examples: list[Example], name: str) -> list[float]:
    """Seconds of every step of our trainer."""
    if work.device == "cpu":
        keep_freed_memory()  # as the command does
    train_on, precision = OURS[name]
    settings = FinetuneSettings(batch_size=work.batch, train_on=train_on, precision=precision, epochs=1)
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
    trainer = Trainer(load_checkpoint(work.model, device=work.device), splits, settings)
    windows = [window for _, window in trainer.windows(0)]
    for window in windows[:WARM_UP]:
        trainer.train_step(1, window)
    return [trainer.train_step(step, window).seconds for step, window in enumerate(windows, start=1)]


def the_book(work: Work, examples: list[Example]) -> list[float]:
    """The same of the book's model and loop, from random weights of the same shape."""
    from llms_from_scratch.ch05 import calc_loss_batch
    from llms_from_scratch.ch07 import InstructionDataset, custom_collate_fn

    network, device = book_model(read_config(work.model)).to(work.device), torch.device(work.device)
    entries = [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples]
    dataset = InstructionDataset(entries, read_tokenizer(work.model).encoding)
    torch.manual_seed(123)
    loader = torch.utils.data.DataLoader(dataset, batch_size=work.batch, collate_fn=custom_collate_fn, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.1)
    network.train()
    batches = list(loader)
    seconds = []
    for input_ids, targets in [*batches[:WARM_UP], *batches]:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = calc_loss_batch(input_ids, targets, network, device)
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def trl(work: Work, examples: list[Example]) -> list[float]:
    """The same of TRL's SFTTrainer with its best settings for short rows."""
    import pyarrow
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    encoded = encode(work, examples)
    pairs = [
        {
            "input_ids": list(row.input_ids),
            "labels": [IGNORE_INDEX] * row.prompt_length + list(row.input_ids[row.prompt_length :]),
        }
        for row in encoded
    ]
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    tokenizer.pad_token = tokenizer.eos_token
    seconds: list[float] = []

    class Clock(TrainerCallback):
        """Times the steps."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if work.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.started)

    config = SFTConfig(
        output_dir="build/trl",
        per_device_train_batch_size=work.batch,
        num_train_epochs=1,
        learning_rate=5e-5,
        weight_decay=0.1,
        bf16=True,
        use_cpu=work.device == "cpu",
        gradient_checkpointing=False,
        completion_only_loss=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # these are ids already
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(work.model),
        args=config,
        train_dataset=Dataset(pyarrow.Table.from_pylist(pairs[: WARM_UP * work.batch] + pairs), fingerprint="rows"),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    # Their order is theirs, so no step can be called the warm-up: the slowest two are left out instead.
    return sorted(seconds)[: len(seconds) - WARM_UP]


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large product."""
    size = 8192 if device == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(5):
            product = one @ other
        product[0, 0].item()
        return time.perf_counter() - started

    return 5 * 2 * size**3 / min(seconds() for _ in range(4))


def run_one(name: str, work: Work) -> None:
    """Run a contender and print what it took."""
    examples = rows(work.data, work.rows)
    if name in OURS:
        seconds = ours(work, examples, name)
    else:
        seconds = the_book(work, examples) if name == THE_BOOK else trl(work, examples)
    tokens = sum(len(row.input_ids) for row in encode(work, examples))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if work.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    n_weights = load_checkpoint(work.model).model.n_parameters
    rate = tokens / sum(seconds)
    share = rate * 6 * n_weights / matrix_rate(work.device, dtype)
    print(json.dumps({"tokens_per_second": rate, "peak_bytes": peak, "matrix_share": share}))


def main() -> None:
    """Run all contenders in turn, a few rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a GPT-2.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", help="One contender, in this process.")
    options = parser.parse_args()
    if options.rows < (WARM_UP + 1) * options.batch:
        parser.error(f"--rows: expected at least {(WARM_UP + 1) * options.batch}, got {options.rows}.")
    work = Work(model=options.model, data=options.data, rows=options.rows, batch=options.batch, device=options.device)
    if options.only:
        run_one(options.only, work)
        return
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", name], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{name}: left out, {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            found.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    show(found)


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """The table, of medians."""
    print("| | tokens/s | times the book | peak memory, GB | of the book's | share of the matrix rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    book = middle.get(THE_BOOK, {"tokens_per_second": math.nan, "peak_bytes": math.nan})
    for name, of in middle.items():
        speed, peak = of["tokens_per_second"], of["peak_bytes"]
        ratios = f"{speed / book['tokens_per_second']:.2f} | {peak / 1e9:.2f} | {peak / book['peak_bytes']:.2f}"
        print(f"| {name} | {speed:,.0f} | {ratios} | {of['matrix_share']:.1%} |")


if __name__ == "__main__":
    main()
