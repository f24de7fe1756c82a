"""Compare decoding speed and memory with the book's code, transformers and llama.cpp on the same weights and prompts.

    python benchmarks/random_gpt2.py build/gpt2-124m --layers 12 --width 768
    python benchmarks/generate.py build/gpt2-124m ../shared/data/book-instruction-data.json

Each contender runs in its own process: it loads the weights, answers once to warm up, and is then timed. Contenders
take turns, and the table shows the median of the rounds. All decode greedily, and none stops early. The kinds of work:

    one      a short prompt, 100 new tokens
    answers  40 test prompts of the book's split, one after the other, until the answer ends: for a fine-tuned model
    first    the time to the first token of a prompt of 900 tokens
    many     the 110 test prompts of the book's split, 64 new tokens each

A step is the time of a token after the first. Memory is the peak during the work, above that of the loaded model.
Contenders that are not installed are left out with a message: `llms-from-scratch`, `transformers`, and llama.cpp as
`llama-cpp-python` (compiled on the machine) or `xllamacpp`. Of these two, the faster one counts.
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
from assistant.interop.gguf import Quantization, export_gguf
from assistant.model.checkpoint import load_checkpoint, read_config
from assistant.settings import GenerationSettings
from benchmarks.book import book_model

NEW_TOKENS = {"one": 100, "answers": 100, "first": 1, "many": 64}
BOOK_NEW_TOKENS = {"one": 40, "first": 1, "many": 16}
BOOK_PROMPTS = 8
"""The book's loop reads the whole text again for every token, so it gets fewer new tokens and fewer prompts."""
LONG_PROMPT = 900
BATCH_SIZE = 55
PRECISIONS = ("auto", "float32", "float16", "bfloat16", "int8")
LLAMA_CPP = tuple(
    f"{name} {kind}" for kind in ("f32", "f16", "q8_0") for name in ("llama.cpp", "llama.cpp by xllamacpp")
)
CONTENDERS = {
    "one": (
        "the book",
        *(f"transformers {name}" for name in ("float32", "bfloat16")),
        *LLAMA_CPP,
        *(f"ours {name}" for name in PRECISIONS),
    ),
    "answers": (*LLAMA_CPP, *(f"ours {name}" for name in PRECISIONS)),
    "first": ("transformers float32", *LLAMA_CPP, *(f"ours {name}" for name in PRECISIONS)),
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
    if work == "answers":
        return encoded[:40]
    joined = [token for ids in encoded * 3 for token in ids]
    return [joined[:LONG_PROMPT]]


# --- contenders ---------------------------------------------------------------------------------------------------


def ours(model: Path, precision: Any, *, ends: bool) -> Answer:
    """This project's engine."""
    eos_id = read_tokenizer(model).eos_ids if ends else NO_EOS
    engine = build_engine(load_checkpoint(model).model, eos_id=eos_id, precision=precision)

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        if ends:
            settings = GenerationSettings(max_new_tokens=n_new)
            return [list(next(engine.generate([prompt], settings)).token_ids) for prompt in prompts]
        engine.prefix_cache.clear()  # so that each call reads its prompts
        results = engine.generate(prompts, GenerationSettings(max_new_tokens=n_new), batch_size=BATCH_SIZE)
        return [list(result.token_ids) for result in sorted(results, key=lambda result: result.index)]

    return answer


def the_book(model: Path, _: str, *, ends: bool) -> Answer:
    """The book's `generate`, with random weights of the same shape."""
    from llms_from_scratch.ch05 import generate

    del ends
    config = read_config(model)
    network = book_model(config).eval()

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        return [
            generate(network, torch.tensor([ids]), max_new_tokens=n_new, context_size=config.n_positions)[0].tolist()
            for ids in prompts
        ]

    return answer


def transformers(model: Path, precision: str, *, ends: bool) -> Answer:
    """`generate` of transformers, in batches of 32 sorted by length, padded on the left."""
    from transformers import AutoModelForCausalLM

    del ends
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


def gguf_file(model: Path, kind: Quantization) -> str:
    """The model as a GGUF file, which is written into its folder at the first use."""
    path = model / f"{kind}.gguf"
    if not path.exists():
        export_gguf(load_checkpoint(model), path, kind)
    return str(path)


def llama_cpp(model: Path, kind: Quantization, *, ends: bool) -> Answer:
    """llama.cpp as `llama-cpp-python` compiles it, one prompt at a time."""
    from llama_cpp import Llama

    eos_ids = read_tokenizer(model).eos_ids if ends else frozenset()
    path = gguf_file(model, kind)
    network = Llama(path, n_ctx=1024, n_threads=torch.get_num_threads(), verbose=False, logits_all=False)

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        new_ids = []
        for ids in prompts:
            if not ends:
                network.reset()
            tokens = network.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
            first_ids = itertools.islice(tokens, n_new)
            new_ids.append(list(itertools.takewhile(lambda token_id: token_id not in eos_ids, first_ids)))
        return new_ids

    return answer


def xllamacpp(model: Path, kind: Quantization, *, ends: bool) -> Answer:
    """The llama.cpp of the wheel `xllamacpp`. Its server answers one prompt at a time."""
    import httpx
    import xllamacpp as package

    parameters = package.CommonParams()
    parameters.model.path = gguf_file(model, kind)
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 1024, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = torch.get_num_threads()
    server = package.Server(parameters)
    client = httpx.Client(base_url=server.listening_address, trust_env=False, timeout=600)

    def answer(prompts: list[list[int]], n_new: int) -> list[list[int]]:
        assert server is not None
        options = {"n_predict": n_new, "temperature": 0, "samplers": ["temperature"], "return_tokens": True}
        options |= {"ignore_eos": not ends, "cache_prompt": ends}
        replies = (client.post("/completion", json={"prompt": ids} | options).raise_for_status() for ids in prompts)
        return [reply.json()["tokens"] for reply in replies]

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
    makers: dict[str, Callable[..., Answer]] = {
        "ours": ours, "the book": the_book, "transformers": transformers, "llama.cpp": llama_cpp,
        "llama.cpp by xllamacpp": xllamacpp,
    }  # fmt: skip
    prompts, n_new = work_prompts(work, model, data), NEW_TOKENS[work]
    if name == "the book":
        prompts, n_new = prompts[:: max(1, len(prompts) // BOOK_PROMPTS)][:BOOK_PROMPTS], BOOK_NEW_TOKENS[work]
    answer = makers[kind](model, precision, ends=work == "answers")
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
    n_tokens = sum(map(len, new_ids)) if work == "answers" else n_new * len(prompts)
    step = 0.0
    if work == "one":
        started = time.perf_counter()
        answer(prompts, 1)
        step = (seconds - (time.perf_counter() - started)) / (n_new - 1)
    found = {"rate": n_tokens / seconds, "seconds": seconds, "memory": peak - before, "loaded": before, "step": step}
    print(json.dumps(found | {"tokens": n_tokens, "first": new_ids[0][:20]}))


def reading_rate() -> float:
    """Bytes a second at which all threads read memory: the best of ten sums of half a gigabyte."""
    numbers, seconds = torch.zeros(2**27), []
    for _ in range(10):
        started = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - started)
    return numbers.nbytes / min(seconds)


def main() -> None:
    """Run all contenders in turn for several rounds, and print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Folder of a GPT-2 model.")
    parser.add_argument("data", type=Path, help="Instruction file.")
    parser.add_argument("--work", nargs="+", choices=list(NEW_TOKENS), default=list(NEW_TOKENS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="+", default=[], help="Contenders to leave out, by the start of their names.")
    parser.add_argument("--only", help="Run only this contender, in this process.")
    options = parser.parse_args()
    if options.only:
        run_one(options.work[0], options.only, options.model, options.data)
        return
    print(f"reading memory: {reading_rate() / 1e9:.1f} GB/s", flush=True)
    for work in options.work:
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for name in CONTENDERS[work]:
                if name.startswith(tuple(options.skip)):
                    continue
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
        name: {
            key: statistics.median(run[key] for run in runs) for key in ("rate", "seconds", "step", "memory", "loaded")
        }
        for name, runs in results.items()
    }
    base = next(iter(medians))
    names = ("tokens/s", "seconds", f"times {base}", "a step, ms", "loaded, MB", "memory above it, MB")
    lines = [f"\n| {work} | {' | '.join(names)} |", "|" + " --- |" * 7]
    lines += [
        f"| {name} | {m['rate']:,.1f} | {m['seconds']:.3f} | {m['rate'] / medians[base]['rate']:.2f} | "
        f"{1e3 * m['step']:.2f} | {m['loaded'] / 1e6:,.0f} | {m['memory'] / 1e6:,.0f} |"
        for name, m in medians.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
