"""The whole main job on the embedded default, as the commands a person would type.

Every step is a process of its own that prints its command first: what the demo shows is what the commands do.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from assistant.errors import SettingsError
from assistant.terminal import EXIT_FAILURE, note, print_json, stop_on_interrupt

DEMO_FOLDER = Path("demo")
DEMO_MODEL = DEMO_FOLDER / "model"
MARKER = "MADE_BY_DEMO.txt"
MODEL_SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 256, "n_positions": 256, "vocab_size": 1024}
FINETUNE_OPTIONS = ("--epochs", "8", "--learning-rate", "1e-3")


def shipped_data() -> Path:
    """The instruction file that comes with the project: in the package once installed, else in the checkout."""
    installed = Path(__file__).parent / "data" / "instructions.json"
    return installed if installed.exists() else Path(__file__).parent.parent / "data" / "instructions.json"


def run_demo(output: Path, *, seed: int, as_json: bool) -> int:
    """Make a base model, fine-tune it, answer the test rows, score and report. Returns an exit code.

    Raises:
        SettingsError: `output` holds something that is not from an earlier demo, which would be replaced.
    """
    data, base, model, run = shipped_data(), output / "base", output / "model", output / "run"
    clear_folder(output)
    note(
        f"There is no pretrained model in this demo yet: it trains a small GPT from random weights on the project's\n"
        f"own {data.name}. It learns to answer in form, and hardly any fact. With a real GPT-2 the steps are the same."
    )
    _make_base(data, base, seed)
    steps = [
        ["assistant", "finetune", str(data), "--model", str(base), "--output", str(model), *FINETUNE_OPTIONS],
        ["evaluation", "respond", str(model), "--data", str(data), "--run", str(run)],
        ["evaluation", "score", str(run)],
    ]
    steps[0] += ["--seed", str(seed)]
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        note(f"\n$ {shlex.join(step)}")
        command = [sys.executable, "-P", "-m", *step, *(["--json"] if last and as_json else [])]
        with stop_on_interrupt(""):  # Ctrl-C reaches the step itself, which ends in good order and says so
            done = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if as_json else None, text=True
            )
        if done.returncode != 0:
            note(f"The demo ended early: `{shlex.join(step)}` failed.")
            return done.returncode if done.returncode > 0 else EXIT_FAILURE
    if as_json:
        print_json({"model": str(model), "run": str(run), "report": json.loads(done.stdout)})
    note(
        f"\nNext, type one of these:\n"
        f"  assistant chat {shlex.quote(str(model))}\n"
        f'  assistant ask {shlex.quote(str(model))} "What is the opposite of hot?"\n'
        f"  evaluation score {shlex.quote(str(run))} --judge llama3.1      (with `ollama serve` running)"
    )
    return 0


def clear_folder(output: Path) -> None:
    """Remove what an earlier demo left in `output`, and nothing else."""
    marker = output / MARKER
    if output.exists() and not marker.exists() and any(output.iterdir()):
        raise SettingsError(
            f"{output}: expected an empty folder or an earlier demo's, got other files. Choose another --output."
        )
    for name in ("base", "model", "run"):
        shutil.rmtree(output / name, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    marker.write_text(
        "Made by `assistant demo`, which replaces this folder's contents when it runs again.\n", encoding="utf-8"
    )


def _make_base(data: Path, base: Path, seed: int) -> None:
    from assistant.checkpoint import save_checkpoint
    from assistant.config import ModelConfig
    from assistant.instructions import read_examples
    from assistant.scratch import new_checkpoint
    from assistant.splits import split_examples

    train = split_examples(read_examples(data)).train
    checkpoint = new_checkpoint(train, ModelConfig.model_validate(MODEL_SHAPE), seed=seed, name=base.name)
    save_checkpoint(checkpoint, base)
    millions = checkpoint.model.n_parameters / 1e6
    note(f"Made {base}: {millions:.1f}M random weights, {checkpoint.tokenizer.vocab_size} tokens.")
