r"""Evaluates the pocket model, and prints the tables of its model card.

It scores the answers of the base model, of the base model after the demo's fine-tuning with several seeds, and of
random weights after the same fine-tuning.

    python benchmarks/pocket.py --work build/measured --seeds 123 1 2
    python benchmarks/pocket.py --work build/try --model build/pocket-new --seeds 123 --only-tuned \
        --data data/instructions.json data/talk.json data/conversations.json -- --epochs 3

Options after `--` are for `assistant finetune`, and replace the demo's. Finished runs in `--work` are not repeated. A
seed takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.cli.demo import FINETUNE_OPTIONS, closed
from assistant.model.checkpoint import load_checkpoint, save_checkpoint
from assistant.model.gpt import GPT
from assistant.shipped import COUNTED_APART, FREE_FORM, ROWS, find_model, shipped
from benchmarks.first_messages import HONEST

NOT_LEARNT = "not_learnt"
"""The category of the questions that are beyond the model."""

BASE_TOKENS = "40"
"""Limit of new tokens for the base model, which has not learnt to stop."""


@dataclass(frozen=True)
class Job:
    """What every model is fine-tuned on and asked, and where the results are."""

    base: str
    work: Path
    data: list[str]
    more_options: list[str]

    def check_same(self) -> None:
        """Note the job in its folder. Exit if the folder has the results of another one."""
        path, this = self.work / "job.json", json.dumps([self.base, self.data, self.more_options])
        if path.exists() and (found := path.read_text(encoding="utf-8")) != this:
            sys.exit(f"--work {self.work}: expected results of {this}, got those of {found}. Choose another folder.")
        self.work.mkdir(parents=True, exist_ok=True)
        path.write_text(this, encoding="utf-8")


def main() -> None:
    """Run what has no result yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pocket", help="The base model: a folder, or pocket.")
    parser.add_argument("--work", type=Path, required=True, help="Folder for the runs.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[123, 1, 2])
    parser.add_argument(
        "--data", nargs="+", default=[str(shipped(name)) for name in ROWS], help="The demo's by default."
    )
    parser.add_argument("--only-tuned", action="store_true", help="Leave out the base and the random weights.")
    parser.add_argument("more_options", nargs="*", metavar="OPTION", help="For `assistant finetune`, after --.")
    options = parser.parse_args()
    job = Job(str(find_model(options.model)), options.work, options.data, options.more_options)
    job.check_same()
    reports = {}
    if not options.only_tuned:
        reports["base"] = evaluate(job, job.base, "base", "--part", "test", "--max-new-tokens", BASE_TOKENS)
    for seed in options.seeds:
        reports[f"seed {seed}"] = evaluate(job, finetune(job, job.base, seed), f"seed-{seed}")
    if not options.only_tuned:
        random = str(make_random_model(job.base, job.work / "random-base"))
        reports["random"] = evaluate(job, finetune(job, random, options.seeds[0], "random"), "random")
    for name, report in reports.items():
        totals = closed(report)
        share = 100 * totals["exact_matches"] / totals["n"]
        print(f"{name}: {totals['exact_matches']} of {totals['n']} with one right answer, {share:.1f} %")
        if name.startswith("seed"):
            print(honesty(job.work / name.replace(" ", "-")))
    print(f"\n{table(reports)}")


def honesty(run: Path) -> str:
    """How many answers of a run say that the model has not learnt this, where it is right and where it is wrong."""
    asked, honest = Counter[bool](), Counter[bool]()
    for line in (run / "responses.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        is_beyond = row["category"] == NOT_LEARNT
        if is_beyond or row["category"] not in COUNTED_APART:
            asked[is_beyond] += 1
            honest[is_beyond] += bool(HONEST.search(row["response"]))
    return (
        f"    honest: {honest[True]} of {asked[True]} rows that are beyond it, and wrongly {honest[False]} of "
        f"{asked[False]} with one right answer"
    )


def make_random_model(base: str, folder: Path) -> Path:
    """Save a model with the base's shape and vocabulary and with random weights, and return its folder."""
    if not folder.exists():
        checkpoint = load_checkpoint(base)
        model = GPT(checkpoint.config).eval()
        model.initialise(1)
        save_checkpoint(replace(checkpoint, model=model), folder)
    return folder


def finetune(job: Job, base: str, seed: int, name: str = "seed") -> str:
    """Fine-tune the base as the demo does, and return the folder of the new model."""
    output = job.work / f"{name}-{seed}-model"
    if not (output / "config.json").exists():
        options = ["--output", str(output), "--seed", str(seed), *FINETUNE_OPTIONS, *job.more_options]
        run("assistant", "finetune", *job.data, "--model", base, *options, "--overwrite")
    return str(output)


def evaluate(job: Job, model: str, name: str, *options: str) -> dict[str, Any]:
    """Let a model answer the test rows, and return the report on its answers."""
    folder = job.work / name
    if not (folder / "report.json").exists():
        data = [word for path in job.data for word in ("--data", path)]
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
    first = next(iter(rows.values()))
    names = list(first)

    def mean(category: str, field: str) -> float:
        return sum(rows[seed][category][field] or 0 for seed in seeds) / len(seeds)

    lines = ["| category | rows | base | random | fine-tuned, by seed |", "| --- | --- | --- | --- | --- |"]
    one_answer = [name for name in names if name not in COUNTED_APART]
    for name in sorted(one_answer, key=lambda name: -mean(name, "exact_matches") / first[name]["rows"]):
        exact = [str(rows[run][name]["exact_matches"]) if run in rows else "" for run in ("base", "random")]
        by_seed = ", ".join(str(rows[seed][name]["exact_matches"]) for seed in seeds)
        lines.append(f"| {name} | {first[name]['rows']} | {' | '.join(exact)} | {by_seed} |")
    lines += ["", "| free answers | rows | chrF: base | random | fine-tuned | ended by themselves |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name in (name for name in names if name in FREE_FORM):
        n, ended = first[name]["rows"], mean(name, "ended")
        chrf = [f"{rows[run][name]['chrf']:.0f}" if run in rows else "" for run in ("base", "random")]
        lines.append(f"| {name} | {n} | {' | '.join(chrf)} | {mean(name, 'chrf'):.0f} | {ended:.0f} of {n} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
