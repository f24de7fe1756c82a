"""Decoding speed and memory beside the book's code, transformers and llama.cpp, on the same weights and prompts.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/generate.py build/gpt2-124m ../shared/data/book-instruction-data.json

Each contender is a process of its own that loads the weights, answers once to warm up, and is then timed; contenders
take turns, and the median of the rounds is given. All decode greedily and none ends by itself. The work: `one`, a
short prompt and 100 new tokens; `first`, the time to the first token of a prompt of 900; `many`, the 110 test prompts
of the book's split with 64 new tokens each. Memory is the peak of `one` or `many` above that of the loaded model.
Peers are left out, and that is said, where they are not installed: `llms-from-scratch`, `transformers`,
`llama-cpp-python` with `gguf`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
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

NEW = {"one": 100, "first": 1, "many": 64}
BOOK_NEW = {"one": 40, "first": 1, "many": 16}
"""The book's loop reads everything again for every token; it is given fewer, and fewer prompts."""
BOOK_PROMPTS = 8
LONG_PROMPT = 900
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
"""New tokens of every prompt."""
NO_EOS = -1
"""No token has this id, so nothing ends by itself."""


def prompts(work: str, model: Path, data: Path) -> list[list[int]]:
    """What is answered, always the same."""
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
    engine = build_engine(load_checkpoint(model).model, eos_id=NO_EOS, precision=precision)

    def answer(given: list[list[int]], new: int) -> list[list[int]]:
        engine.memory.forget()  # each round reads its prompts anew
        found = engine.generate(given, GenerationSettings(max_new_tokens=new), batch_size=BATCH)
        return [list(one.token_ids) for one in sorted(found, key=lambda one: one.index)]

    return answer


BATCH = 55


def the_book(model: Path, _: str) -> Answer:
    from llms_from_scratch.ch05 import generate

    config = read_config(model)
    network = book_model(config).eval()

    def answer(given: list[list[int]], new: int) -> list[list[int]]:
        return [
            generate(network, torch.tensor([ids]), max_new_tokens=new, context_size=config.n_positions)[0].tolist()
            for ids in given
        ]

    return answer


def transformers(model: Path, precision: str) -> Answer:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()

    def answer(given: list[list[int]], new: int) -> list[list[int]]:
        found: list[list[int]] = []
        in_order = sorted(given, key=len)
        for start in range(0, len(given), 32):
            rows = in_order[start : start + 32]
            width = max(len(row) for row in rows)
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            out = network.generate(
                ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
            )
            found += out[:, width:].tolist()
        return found

    return answer


def llama_cpp(model: Path, kind: str) -> Answer:
    from llama_cpp import Llama

    path = model / f"{kind}.gguf"
    if not path.exists():
        from benchmarks.gguf_file import write_gguf

        write_gguf(model, path, kind)
    network = Llama(str(path), n_ctx=1024, n_threads=torch.get_num_threads(), verbose=False, logits_all=False)

    def answer(given: list[list[int]], new: int) -> list[list[int]]:
        found = []
        for ids in given:
            network.reset()
            tokens: list[int] = []
            for token in network.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
                tokens.append(token)
                if len(tokens) == new:
                    break
            found.append(tokens)
        return found

    return answer


# --- measuring ----------------------------------------------------------------------------------------------------


def resident() -> tuple[int, int]:
    """Memory of this process now and at its highest, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    now, peak = (1024 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, peak


def run_one(work: str, name: str, model: Path, data: Path) -> None:
    """Run a contender and print what it took."""
    kind, _, precision = name.rpartition(" ") if name != "the book" else (name, "", "")
    makers: dict[str, Callable[[Path, str], Answer]] = {
        "ours": ours, "the book": the_book, "transformers": transformers, "llama.cpp": llama_cpp
    }  # fmt: skip
    given, new = prompts(work, model, data), NEW[work]
    if name == "the book":
        given, new = given[:: max(1, len(given) // BOOK_PROMPTS)][:BOOK_PROMPTS], BOOK_NEW[work]
    answer = makers[kind](model, precision)
    answer([given[0][:8]], 2)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading has freed and not given back would be used again
    Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
    before, _ = resident()
    started = time.perf_counter()
    found = answer(given, new)
    seconds = time.perf_counter() - started
    _, peak = resident()
    tokens = new * len(given)
    print(json.dumps({"rate": tokens / seconds, "seconds": seconds, "memory": peak - before, "first": found[0][:20]}))


def main() -> None:
    """Run all contenders in turn, a few rounds, and print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a GPT-2.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--work", nargs="+", choices=list(NEW), default=list(NEW))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="One contender, in this process.")
    options = parser.parse_args()
    if options.only:
        run_one(options.work[0], options.only, options.model, options.data)
        return
    for work in options.work:
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for name in CONTENDERS[work]:
                words = [str(options.model), str(options.data), "--work", work, "--only", name]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{name}: left out, {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                found.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(f"{work}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
        print(table(work, found), flush=True)


def table(work: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, beside the first contender's."""
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("rate", "seconds", "memory")}
        for name, runs in found.items()
    }
    base = next(iter(middle))
    lines = [f"\n| {work} | tokens/s | seconds | times {base} | memory above the model, MB |", "|" + " --- |" * 5]
    lines += [
        f"| {name} | {m['rate']:,.1f} | {m['seconds']:.2f} | {m['rate'] / middle[base]['rate']:.2f} | "
        f"{m['memory'] / 1e6:,.0f} |"
        for name, m in middle.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
