"""Which base? Memory and minutes of fine-tuning 1,000 rows, for every model that `assistant models --known` lists.

    python benchmarks/bases.py                           measure what was not measured yet, and print the table
    python benchmarks/bases.py --again lora              measure LoRA once more
    python benchmarks/bases.py --only gpt2 --again full  measure one model once more
    python benchmarks/bases.py --table                   write the table again

Each measurement is `assistant finetune --plan` in a process of its own, with random weights of the model's shape. They
are written to a temporary folder and deleted afterwards. The vocabulary is GPT-2's, cut or padded to the model's size,
because others can only be had from a network. So a row has as many tokens for one model as for another, except pocket.
What needs more than `--memory` is calculated and gets no minutes; `--memory 0` calculates all that was not measured. If
other programs computed at the same time, the memory is kept and the minutes are not: run the command again. The figures
go to `data/bases.json`, and the table to `docs/which-base.md`.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from assistant.interop.known import KNOWN, MODES, read_costs  # noqa: E402

Cost = dict[str, float | bool | None]

FIGURES, PAGE = ROOT / "data" / "bases.json", ROOT / "docs" / "which-base.md"
N_ROWS = 1000
MERGES, VOCAB = "6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"
"""tiktoken's names for its downloads."""
OPTIONS = {"full": [], "lora": ["--lora", "--learning-rate", "2e-4"]}
STATE_BYTES = {"full": 16, "lora": 2}
"""Bytes a weight: float32 with its gradient and AdamW's two moments, or frozen in bfloat16."""
OTHER_BYTES = 1.5e9
"""What is needed beside that: the runtime, activations, logits. Measured runs with short rows needed 1.4 GB."""
OTHERS_LIMIT = 0.1
"""Share of the processors that other programs may use while minutes are measured."""
HOLD_SECONDS = 60.0
"""How long other jobs wait, apart from the last measurement."""
LOCKED_SECONDS = 290.0
"""Longest measurement while others wait for the lock."""
LEFT_FREE = 1.5e9
"""Bytes of the machine's memory and disk that a measurement leaves to others."""
LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "max_position_embeddings": 8192}
QWEN = LLAMA | {"rms_norm_eps": 1e-6, "vocab_size": 151936, "rope_theta": 1e6}


def gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    """A GPT-2's config."""
    return {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads}


def llama(
    base: dict[str, Any], layers: int, width: int, inner: int, heads: tuple[int, int], **more: Any
) -> dict[str, Any]:
    """The config of a model of the Llama family. `heads` are those of queries, and those of keys and values."""
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": inner}
    return base | shape | {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]} | more


LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SMOL = LLAMA | {"vocab_size": 49152, "rope_theta": 1e5}
SHAPES = {
    "gpt2": gpt2(12, 768, 12),
    "gpt2-medium": gpt2(24, 1024, 16),
    "gpt2-large": gpt2(36, 1280, 20),
    "gpt2-xl": gpt2(48, 1600, 25),
    "smollm2-135m": llama(SMOL, 30, 576, 1536, (9, 3)),
    "smollm2-360m": llama(SMOL, 32, 960, 2560, (15, 5)),
    "smollm2-1.7b": llama(SMOL, 24, 2048, 8192, (32, 32), rope_theta=1.3e5),
    "qwen2.5-0.5b": llama(QWEN, 24, 896, 4864, (14, 2), model_type="qwen2", max_position_embeddings=32768),
    "qwen3-0.6b": llama(QWEN, 28, 1024, 3072, (16, 8), model_type="qwen3", head_dim=128, max_position_embeddings=40960),
    "llama-3.2-1b": llama(
        LLAMA, 16, 2048, 8192, (32, 8), head_dim=64, vocab_size=128256, rope_theta=5e5, rope_scaling=LLAMA3_SCALING,
        max_position_embeddings=131072,
    ),
}  # fmt: skip
"""The published `config.json` of each, as far as it says what is computed."""


# --- one measurement ----------------------------------------------------------------------------------------------


def make(name: str, folder: Path, cache: Path) -> None:
    """Write a model with random weights, in the width in which its weights are published."""
    import torch

    from assistant.model.config import parse_config
    from assistant.model.folder import save_tensors
    from assistant.model.gpt import GPT
    from assistant.model.weights import WEIGHTS_FILE, stored_values

    shape = SHAPES[name]
    config = parse_config(shape)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    write_tokenizer(folder, cache, config.vocab_size, is_gpt2=config.model_type == "gpt2")
    model = GPT(config)
    model.initialise(1)
    dtype = torch.float32 if config.model_type == "gpt2" else torch.bfloat16
    save_tensors(stored_values(model, {}), folder / WEIGHTS_FILE, dtype)


def write_tokenizer(folder: Path, cache: Path, size: int, *, is_gpt2: bool) -> None:
    """Write GPT-2's vocabulary, cut to `size` tokens if that is fewer."""
    from assistant.dataset.tokenizer import EOS_TOKEN
    from assistant.interop.gguf_tokenizer import tokenizer_files

    if is_gpt2:
        shutil.copyfile(cache / MERGES, folder / "merges.txt")
        shutil.copyfile(cache / VOCAB, folder / "vocab.json")
        return
    vocab = json.loads((cache / VOCAB).read_text(encoding="utf-8"))
    merges = (cache / MERGES).read_text(encoding="utf-8").splitlines()[1:]
    size = min(size, len(vocab))
    tokens = [token for token, token_id in sorted(vocab.items(), key=lambda pair: pair[1]) if token_id < size - 1]
    prefix = "tokenizer.ggml."
    metadata = {
        f"{prefix}model": "gpt2",
        f"{prefix}pre": "gpt-2",
        f"{prefix}tokens": [*tokens, EOS_TOKEN],
        f"{prefix}token_type": [1] * len(tokens) + [3],
        f"{prefix}merges": merges[: len(tokens) - 256],
        f"{prefix}eos_token_id": len(tokens),
    }
    for file, text in tokenizer_files(metadata, "GPT-2's vocabulary").items():
        (folder / file).write_text(text, encoding="utf-8")


def write_rows(path: Path) -> None:
    """Write `N_ROWS` rows of the shipped instructions, always the same."""
    import random

    rows = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps(random.Random(1).sample(rows, N_ROWS)), encoding="utf-8")


def measure(name: str, mode: str, work: Path, options: argparse.Namespace) -> Cost:
    """Fine-tune for a few steps, and return what the whole run would cost."""
    model = "pocket"
    if name in SHAPES:
        model = str(work / name)
        check_disk(name, work)
        if not Path(model).exists():
            command = [sys.executable, __file__, "--make", model, "--only", name, "--cache", str(options.cache)]
            subprocess.run(command, check=True)
    rows = work / "rows.json"
    write_rows(rows)
    words = ["finetune", str(rows), "--model", model, "--output", str(work / "run"), "--plan", "--json", *OPTIONS[mode]]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from assistant.cli.app import main; main()"
    before, started = busy_seconds(), time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    watch(process, options.memory * 1e9, LOCKED_SECONDS if options.lock else math.inf)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name}, {mode}: the forecast ended with exit code {process.returncode}")
    planned = json.loads(said)
    others = (busy_seconds() - before) / (time.monotonic() - started) / (os.cpu_count() or 1)
    print(f"{name} {mode}: other programs used {others:.0%} of the processors", file=sys.stderr)
    minutes = round(planned["seconds"] / 60, 1) if others <= OTHERS_LIMIT else None
    return {"gigabytes": round(planned["peak_bytes"] / 1e9, 2), "minutes": minutes, "is_calculated": False}


def busy_seconds() -> float:
    """Processor time that other programs have used since the start: all of the machine's without our children's."""
    user, nice, system = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:4])
    ours = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - ours.ru_utime - ours.ru_stime


def check_disk(name: str, work: Path) -> None:
    """Refuse to fill the disk: with the weights, and with what `--plan` saves to see how long that takes."""
    parameters = next(known.parameters for known in KNOWN if known.name == name)
    free = shutil.disk_usage(work).free
    if free < 8 * parameters + LEFT_FREE:
        raise SystemExit(f"{name}: expected {8 * parameters / 1e9:.1f} GB of disk in {work}, got {free / 1e9:.1f} GB")


def watch(process: subprocess.Popen[str], most: float, seconds: float) -> None:
    """Wait for a process. End it if it takes more than `most` bytes or `seconds`, or leaves too few bytes to others."""
    started = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - started > seconds:
            process.kill()
            raise SystemExit(f"a forecast took more than {seconds:.0f} seconds and was ended.")
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:
            break
        resident = re.search(r"VmRSS:\s+(\d+)", status)
        if resident and (int(resident[1]) * 1024 > most or available_memory() < LEFT_FREE):
            process.kill()
            process.wait()
            raise SystemExit(f"a forecast took {int(resident[1]) / 1e6:.1f} GB and was ended. Lower --memory.")
        time.sleep(0.2)


def available_memory() -> float:
    """Bytes that programs can still get."""
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024.0


def needed(name: str, mode: str) -> float:
    """Bytes of memory by the formula."""
    return STATE_BYTES[mode] * next(known.parameters for known in KNOWN if known.name == name) + OTHER_BYTES


class Lock:
    """A file that other jobs on this machine lock, too. It is held for several measurements, but not for long."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("a")
        self._since = -math.inf

    def take(self) -> None:
        """Wait for the lock, unless it has been held for less than `HOLD_SECONDS`."""
        if self._file is not None and time.monotonic() - self._since > HOLD_SECONDS:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()


# --- the table ----------------------------------------------------------------------------------------------------


def table() -> str:
    """The table of the page, in Markdown."""
    costs = read_costs()
    head = ["`--model`", "weights", "licence", "context", "all weights trained", "with LoRA"]
    lines = [head, ["---"] * len(head)]
    lines += [[f"`{name}`", *cells] for name, *cells in (known.row(costs) for known in KNOWN)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page() -> None:
    """Replace the table in the page."""
    text = PAGE.read_text(encoding="utf-8")
    changed = re.sub(r"^\| `--model` \|.*?(?=\n\n)", lambda _: table(), text, count=1, flags=re.S | re.M)
    PAGE.write_text(changed, encoding="utf-8")


def save(name: str, mode: str, cost: Cost, machine: str | None) -> None:
    """Add a figure to the file."""
    content = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {"costs": {}}
    content["machine"] = machine or content.get("machine", f"{os.cpu_count()} cores")
    content |= {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "rows": N_ROWS}
    content["costs"].setdefault(name, {})[mode] = cost
    order = [known.name for known in KNOWN]
    content["costs"] = dict(sorted(content["costs"].items(), key=lambda pair: order.index(pair[0])))
    FIGURES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[known.name for known in KNOWN], help="names of models")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--again", nargs="*", default=[], choices=MODES, help="measure these again")
    parser.add_argument("--memory", type=float, default=20.0, help="GB that one process may take")
    parser.add_argument("--machine", help="in words; by default that of the figures so far")
    parser.add_argument("--lock", type=Path, help="hold this lock while a measurement runs")
    parser.add_argument("--cache", type=Path, default=ROOT.parent / "shared" / "tiktoken-cache")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.only[0], options.make, options.cache)
        return
    lock = Lock(options.lock)
    for name in options.only if not options.table else []:
        with tempfile.TemporaryDirectory() as work:
            for mode in options.modes:
                known = read_costs()["costs"].get(name, {}) if FIGURES.exists() else {}
                if known.get(mode, {}).get("minutes") is not None and mode not in options.again:
                    continue
                fits = needed(name, mode) <= options.memory * 1e9
                if not fits and not known.get(mode, {}).get("is_calculated", True):
                    continue
                cost: Cost = {"gigabytes": round(needed(name, mode) / 1e9, 1), "minutes": None, "is_calculated": True}
                if fits:
                    lock.take()
                    cost = measure(name, mode, Path(work), options)
                print(f"{name} {mode}: {cost['gigabytes']} GB, {cost['minutes']} minutes", file=sys.stderr, flush=True)
                save(name, mode, cost, options.machine)
    costs = read_costs()["costs"]
    missing = [known.name for known in KNOWN if set(costs.get(known.name, {})) != set(MODES)]
    if missing:
        raise SystemExit(f"no table yet: expected figures of all models, got none of {', '.join(missing)}")
    write_page()
    print(table())


if __name__ == "__main__":
    main()
