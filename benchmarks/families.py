"""Training and decoding of a Llama beside a plain Hugging Face loop, TRL, transformers and llama.cpp.

    assistant import SmolLM2.gguf --output build/smollm2
    python benchmarks/families.py build/smollm2 ../shared/data/book-instruction-data.json

A folder that does not exist is written first: random weights of SmolLM2-135M's shape, and a small tokenizer that is
trained on the shipped instructions. Every contender is a process of its own, and contenders take turns. The table shows
medians of the rounds, with two threads.

Training reads every row once in batches of 8, after two steps that are not timed (see `finetune.py`). Tokens are those
of the rows. Memory is the peak of the whole process. The Hugging Face loop has float32 weights, bfloat16 autocast,
AdamW, shuffled batches that are padded on the right, and a head that runs only where the answer is. Decoding is one
row and 100 new tokens (see `generate.py`). What is not installed (`trl`, llama.cpp) is left out with a message.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from assistant.dataset.encode import EncodedExample
from assistant.dataset.instructions import Example
from assistant.model.packing import IGNORE_INDEX
from benchmarks import finetune, generate
from benchmarks.finetune import WARM_UP, Work

THREADS = 2
OURS, HUGGING_FACE = "ours, masked, bfloat16", "Hugging Face loop, masked, bfloat16"
TRAINING = (HUGGING_FACE, finetune.TRL, OURS)
DECODING = tuple(name for name in generate.CONTENDERS["one"] if name != finetune.THE_BOOK)
BARS = {
    "training, times the Hugging Face loop": (2.8, ("tokens_per_second", OURS, HUGGING_FACE)),
    "training, share of its memory": (0.65, ("peak_bytes", OURS, HUGGING_FACE)),
    "one row in bfloat16, times transformers": (2.0, ("rate", "ours bfloat16", "transformers bfloat16")),
    "one row in float32, times transformers": (1.6, ("rate", "ours float32", "transformers float32")),
}
"""What issue 20 asks for. The share of memory is an upper bound, the others are lower bounds."""


def write_random(folder: Path) -> None:
    """Write random weights of SmolLM2-135M's shape, with a tokenizer of its kind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.support.families import BOS, EOS, train

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8_192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )  # fmt: skip
    tokenizer = train("smollm", vocab_size=4_000, n_texts=20_000)
    config.bos_token_id, config.eos_token_id = (tokenizer.token_to_id(token) for token in (BOS, EOS))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")


def hugging_face(work: Work, examples: list[Example]) -> list[float]:
    """The loop that a person writes with transformers. It pads on the right, and the head runs only on answers."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32)
    encoded = finetune.encode(work, examples)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5, weight_decay=0.1)
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(123)).tolist()
    batches = [[encoded[index] for index in order[at : at + work.batch]] for at in range(0, len(order), work.batch)]
    network.train()
    seconds = []
    for batch in [*batches[:WARM_UP], *batches]:
        started = time.perf_counter()
        input_ids, targets, mask = padded(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = network.model(input_ids, attention_mask=mask, use_cache=False).last_hidden_state
            counted = targets != IGNORE_INDEX
            logits = network.lm_head(hidden[counted])
        loss = F.cross_entropy(logits.float(), targets[counted])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def padded(batch: list[EncodedExample]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and attention mask, all (B, T) int64. Only the answer's tokens are targets."""
    longest = max(len(row.input_ids) for row in batch) - 1
    input_ids, targets = torch.zeros(len(batch), longest, dtype=torch.long), torch.full((len(batch), longest), -100)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(batch):
        ids, masked = torch.tensor(row.input_ids), row.prompt_length - 1
        input_ids[index, : len(ids) - 1], mask[index, : len(ids) - 1] = ids[:-1], 1
        targets[index, masked : len(ids) - 1] = ids[masked + 1 :]
    return input_ids, targets, mask


def train_one(name: str, work: Work) -> None:
    """Run a contender of the training, and print what it took as JSON."""
    examples = finetune.rows(work.data, work.rows)
    if name == OURS:
        seconds = finetune.ours(work, examples, name)
    else:
        seconds = hugging_face(work, examples) if name == HUGGING_FACE else finetune.trl(work, examples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens = sum(len(row.input_ids) for row in finetune.encode(work, examples))
    print(json.dumps({"tokens_per_second": tokens / sum(seconds), "peak_bytes": peak}))


def run(script: str, *arguments: str) -> dict[str, float] | None:
    """Run a contender as a process. None and a message if it fails."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    name = arguments[-1]
    if done.returncode:
        print(f"{name}: left out, {done.stderr.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
        return None
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: {found}", file=sys.stderr, flush=True)
    return {key: value for key, value in found.items() if not isinstance(value, list)}


def main() -> None:
    """Run all contenders in turn, a few rounds; print two tables and what became of the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a Llama, or where to write one.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="+", choices=("training", "decoding"), default=["training", "decoding"])
    parser.add_argument("--only", help="One contender of the training, in this process.")
    options = parser.parse_args()
    if not options.model.exists():
        write_random(options.model)
    if options.only:
        train_one(options.only, Work(model=options.model, data=options.data, rows=options.rows, batch=8, device="cpu"))
        return
    paths, found = (str(options.model), str(options.data)), dict[str, list[dict[str, float]]]()
    for _ in range(options.rounds):
        for name in TRAINING if "training" in options.work else ():
            found.setdefault(name, []).append(
                run("families.py", *paths, "--rows", str(options.rows), "--only", name) or {}
            )
        for name in DECODING if "decoding" in options.work else ():
            found.setdefault(name, []).append(run("generate.py", *paths, "--work", "one", "--only", name) or {})
    show({name: medians(runs) for name, runs in found.items() if all(runs)})


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def show(found: dict[str, dict[str, float]]) -> None:
    """Print the tables, and each bar with what was reached."""
    print("| training | tokens/s | peak memory, GB |", "| --- | --- | --- |", sep="\n")
    for name in (name for name in TRAINING if name in found):
        print(f"| {name} | {found[name]['tokens_per_second']:,.0f} | {found[name]['peak_bytes'] / 1e9:.2f} |")
    print("\n| one row | tokens/s |", "| --- | --- |", sep="\n")
    for name in (name for name in DECODING if name in found):
        print(f"| {name} | {found[name]['rate']:,.1f} |")
    for name, (bar, (key, mine, other)) in BARS.items():
        if mine in found and other in found:
            print(f"{name}: {found[mine][key] / found[other][key]:.2f} (asked for: {bar})")


if __name__ == "__main__":
    main()
