"""Evaluates the pocket model, and prints the tables of its model card.

It scores the answers of the base model, of the base model after the demo's fine-tuning with several seeds, and of
random weights after the same fine-tuning.

    python benchmarks/pocket.py --work build/measured --seeds 123 1 2

Finished runs in `--work` are not repeated. A seed takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.cli.demo import FINETUNE_OPTIONS, closed
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.gpt import GPT
from assistant.shipped import FREE_FORM, ROWS, find_model, shipped

DATA = [str(shipped(name)) for name in ROWS]
BASE_TOKENS = "40"
"""Limit of new tokens for the base model, which has not learnt to stop."""


def main() -> None:
    """Run what has no result yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="The base model: a folder, or pocket.")
    parser.add_argument("--work", type=Path, required=True, help="Folder for the runs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[123, 1, 2])
    options = parser.parse_args()
    base, work = str(find_model(options.model)), options.work
    reports = {"base": evaluate(base, work / "base", "--part", "test", "--max-new-tokens", BASE_TOKENS)}
    for seed in options.seeds:
        reports[f"seed {seed}"] = evaluate(finetune(base, work, seed), work / f"seed-{seed}")
    random = str(make_random_model(base, work / "random-base"))
    reports["random"] = evaluate(finetune(random, work, options.seeds[0], "random"), work / "random")
    for name, report in reports.items():
        totals = closed(report)
        share = 100 * totals["exact_matches"] / totals["n"]
        print(f"{name}: {totals['exact_matches']} of {totals['n']} with one right answer, {share:.1f} %")
    print(f"\n{table(reports)}")


def make_random_model(base: str, folder: Path) -> Path:
    """Save a model with the base's shape and vocabulary and with random weights, and return its folder."""
    if not folder.exists():
        checkpoint = load_checkpoint(base)
        model = GPT(checkpoint.config).eval()
        model.initialise(1)
        save_checkpoint(replace(checkpoint, model=model), folder)
    return folder


def finetune(base: str, work: Path, seed: int, name: str = "seed") -> str:
    """Fine-tune the base as the demo does, and return the folder of the new model."""
    output = work / f"{name}-{seed}-model"
    if not (output / "config.json").exists():
        options = ["--output", str(output), "--seed", str(seed), *FINETUNE_OPTIONS]
        run("assistant", "finetune", *DATA, "--model", base, *options, "--overwrite")
    return str(output)


def evaluate(model: str, folder: Path, *options: str) -> dict[str, Any]:
    """Let a model answer the test rows, and return the report on its answers."""
    if not (folder / "report.json").exists():
        data = [word for path in DATA for word in ("--data", path)]
        run("evaluation", "respond", model, *data, "--run", str(folder), *options)
        run("evaluation", "score", str(folder))
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def run(*command: str) -> None:
    """Run one of the project's commands. Its output goes to stderr."""
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=sys.stderr)


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Return two tables by category: exact matches, the best first, and chrF for the free answers."""
    rows = {name: {c["name"]: c for c in report["categories"]} for name, report in reports.items()}
    seeds = [name for name in rows if name.startswith("seed")]
    names = list(rows["base"])

    def mean(category: str, field: str) -> float:
        return sum(rows[seed][category][field] or 0 for seed in seeds) / len(seeds)

    lines = ["| category | rows | base | random | fine-tuned, by seed |", "| --- | --- | --- | --- | --- |"]
    one_answer = [name for name in names if name not in FREE_FORM]
    for name in sorted(one_answer, key=lambda name: -mean(name, "exact_matches") / rows["base"][name]["rows"]):
        exact = [str(rows[run][name]["exact_matches"]) for run in ("base", "random")]
        by_seed = ", ".join(str(rows[seed][name]["exact_matches"]) for seed in seeds)
        lines.append(f"| {name} | {rows['base'][name]['rows']} | {' | '.join(exact)} | {by_seed} |")
    lines += ["", "| free answers | rows | chrF: base | random | fine-tuned | ended by themselves |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name in (name for name in names if name in FREE_FORM):
        n, ended = rows["base"][name]["rows"], mean(name, "ended")
        chrf = [f"{rows[run][name]['chrf']:.0f}" for run in ("base", "random")]
        lines.append(f"| {name} | {n} | {' | '.join(chrf)} | {mean(name, 'chrf'):.0f} | {ended:.0f} of {n} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
