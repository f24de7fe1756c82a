"""Compare decoding speed and memory with the book's code, transformers and llama.cpp on the same weights and prompts.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/generate.py build/gpt2-124m ../shared/data/book-instruction-data.json

Each contender runs in its own process: it loads the weights, answers once to warm up, and is then timed. Contenders
take turns, and the table shows the median of the rounds. All decode greedily, and none stops early. The kinds of work:

    one    a short prompt, 100 new tokens
    first  the time to the first token of a prompt of 900 tokens
    many   the 110 test prompts of the book's split, 64 new tokens each

Memory is the peak during the work, above that of the loaded model. Contenders that are not installed are left out with
a message: `llms-from-scratch`, `transformers`, `llama-cpp-python` with `gguf`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from assistant.dataset.instructions import read_examples
from assistant.dataset.prompts import get_template
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import read_tokenizer
from assistant.decoding.engine import build_engine
from assistant.model.checkpoint import load_checkpoint, read_config
from assistant.settings import GenerationSettings
from benchmarks.book import book_model

NEW_TOKENS = {"one": 100, "first": 1, "many": 64}
BOOK_NEW_TOKENS = {"one": 40, "first": 1, "many": 16}
BOOK_PROMPTS = 8
"""The book's loop reads the whole text again for every token, so it gets fewer new tokens and fewer prompts."""
LONG_PROMPT = 900
BATCH_SIZE = 55
PRECISIONS = ("auto", "float32", "float16", "bfloat16", "int8")
CONTENDERS = {
    "one": (
        "the book",
        *(f"transformers {name}" for name in ("float32", "bfloat16")),
        *(f"llama.cpp {name}" for name in ("f32", "f16", "q8_0")),
        *(f"ours {name}" for name in PRECISIONS),
    ),
    "first": ("transformers float32", "ours auto", "ours float32"),
    "many": ("the book", "transformers float32", "ours float32", "ours bfloat16", "ours int8"),
}
Answer = Callable[[list[list[int]], int], list[list[int]]]
"""Takes prompts and a number of new tokens; returns the new tokens of every prompt."""
NO_EOS = -1
"""No token has this id, so no reply stops early."""


def work_prompts(work: str, model: Path, data: Path) -> list[list[int]]:
    """Return the prompts of one kind of work, which are always the same."""
    tokenizer, template = read_tokenizer(model), get_template("alpaca")
    test = split_examples(read_examples(data), method="book").test
    encoded = [tokenizer.encode(template.render(row.instruction, row.input)) for row in test]
    if work == "many":
        return encoded
    if work == "one":
        return [encoded[0]]
    joined = [token for ids in encoded * 3 for token in ids]
    return [joined[:LONG_PROMPT]]


# --- contenders ---------------------------------------------------------------------------------------------------


def ours(model: Path, precision: Any) -> Answer:
    """This project's engine."""
    engine = build_engine(load_checkpoint(model).model, eos_id=NO_EOS, precision=precision)

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        engine.prefix_cache.clear()  # so that each call reads its prompts
        results = engine.generate(prompts, GenerationSettings(max_new_tokens=n_new), batch_size=BATCH_SIZE)
        return [list(result.token_ids) for result in sorted(results, key=lambda result: result.index)]

    return answer


def the_book(model: Path, _: str) -> Answer:
    """The book's `generate`, with random weights of the same shape."""
    from llms_from_scratch.ch05 import generate

    config = read_config(model)
    network = book_model(config).eval()

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        return [
            generate(network, torch.tensor([ids]), max_new_tokens=n_new, context_size=config.n_positions)[0].tolist()
            for ids in prompts
        ]

    return answer


def transformers(model: Path, precision: str) -> Answer:
    """`generate` of transformers, in batches of 32 sorted by length, padded on the left."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        new_ids: list[list[int]] = []
        by_length = sorted(prompts, key=len)
        for start in range(0, len(prompts), 32):
            rows = by_length[start : start + 32]
            width = max(len(row) for row in rows)
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            output = network.generate(
                ids, attention_mask=mask, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, pad_token_id=0
            )
            new_ids += output[:, width:].tolist()
        return new_ids

    return answer


def llama_cpp(model: Path, kind: str) -> Answer:
    """llama.cpp, one prompt at a time; writes the GGUF file into the model's folder at the first use."""
    from llama_cpp import Llama

    path = model / f"{kind}.gguf"
    if not path.exists():
        from benchmarks.gguf_file import write_gguf

        write_gguf(model, path, kind)
    network = Llama(str(path), n_ctx=1024, n_threads=torch.get_num_threads(), verbose=False, logits_all=False)

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        new_ids = []
        for ids in prompts:
            network.reset()
            tokens = network.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
            new_ids.append(list(itertools.islice(tokens, n_new)))
        return new_ids

    return answer


# --- measuring ----------------------------------------------------------------------------------------------------


def resident() -> tuple[int, int]:
    """Return the resident memory of this process, now and at its peak, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, peak = (1024 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, peak


def run_one(work: str, name: str, model: Path, data: Path) -> None:
    """Run one contender in this process; print its rate, seconds, memory and first tokens as JSON."""
    kind, _, precision = name.rpartition(" ") if name != "the book" else (name, "", "")
    makers: dict[str, Callable[[Path, str], Answer]] = {
        "ours": ours, "the book": the_book, "transformers": transformers, "llama.cpp": llama_cpp
    }  # fmt: skip
    prompts, n_new = work_prompts(work, model, data), NEW_TOKENS[work]
    if name == "the book":
        prompts, n_new = prompts[:: max(1, len(prompts) // BOOK_PROMPTS)][:BOOK_PROMPTS], BOOK_NEW_TOKENS[work]
    answer = makers[kind](model, precision)
    answer([prompts[0][:8]], 2)
    gc.collect()
    # Return freed memory to the system: the work would use it again, and its peak would look too low.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, _ = resident()
    started = time.perf_counter()
    new_ids = answer(prompts, n_new)
    seconds = time.perf_counter() - started
    _, peak = resident()
    rate = n_new * len(prompts) / seconds
    print(json.dumps({"rate": rate, "seconds": seconds, "memory": peak - before, "first": new_ids[0][:20]}))


def main() -> None:
    """Run all contenders in turn for several rounds, and print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a GPT-2 model.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--work", nargs="+", choices=list(NEW_TOKENS), default=list(NEW_TOKENS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="Run only this contender, in this process.")
    options = parser.parse_args()
    if options.only:
        run_one(options.work[0], options.only, options.model, options.data)
        return
    for work in options.work:
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for name in CONTENDERS[work]:
                arguments = [str(options.model), str(options.data), "--work", work, "--only", name]
                process = subprocess.run(
                    [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
                )
                if process.returncode:
                    print(f"{name}: left out, {process.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                results.setdefault(name, []).append(json.loads(process.stdout.strip().splitlines()[-1]))
                print(f"{work}, {name}: {results[name][-1]}", file=sys.stderr, flush=True)
        print(table(work, results), flush=True)


def table(work: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table of the medians, and of the rates relative to the first contender."""
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("rate", "seconds", "memory")}
        for name, runs in results.items()
    }
    base = next(iter(medians))
    lines = [f"\n| {work} | tokens/s | seconds | times {base} | memory above the model, MB |", "|" + " --- |" * 5]
    lines += [
        f"| {name} | {m['rate']:,.1f} | {m['seconds']:.2f} | {m['rate'] / medians[base]['rate']:.2f} | "
        f"{m['memory'] / 1e6:,.0f} |"
        for name, m in medians.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
