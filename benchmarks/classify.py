"""Accuracy of a fine-tuned pocket on the spam set, beside a logistic regression on the words of the same rows.

    python benchmarks/classify.py
    python benchmarks/classify.py --seeds 1 2 3 --options "--epochs 5"

Each seed is a run of `assistant classify train data/spam.json --model pocket` in a process of its own; the split is the
default one. The regression sees which words and pairs of words a message has, and its L2 penalty is the best of seven
on the validation part. Both also label the sixty messages that were written later, and the hard spam, which names
neither a link nor a number and is in no part of the set.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from assistant.classifier.label_files import read_labelled
from assistant.classifier.split import split_labelled
from assistant.dataset.examples import Example
from assistant.shipped import shipped
from assistant.statistics import rate_interval

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SETS = ("spam_later.json", "spam_hard.json")


def hard_examples() -> list[Example]:
    """The hard spam, which has one label only and is therefore not read as a training file."""
    rows = json.loads(shipped("spam_hard.json").read_text(encoding="utf-8"))
    return [Example(instruction=row["text"], output=row["label"]) for row in rows]


# --- the regression -----------------------------------------------------------------------------------------------


def terms(text: str) -> set[str]:
    """The words, marks and pairs of neighbours of a text."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return {*words, *(f"{first} {second}" for first, second in pairwise(words))}


def features(examples: Sequence[Example], index: dict[str, int]) -> NDArray[np.float64]:
    """One row per text: 1 for each known term that it has, in unit length, and a constant."""
    table = np.zeros((len(examples), len(index) + 1))
    for row, example in enumerate(examples):
        for term in terms(example.instruction) & index.keys():
            table[row, index[term]] = 1
    table /= np.maximum(np.sqrt((table**2).sum(axis=1, keepdims=True)), 1)
    table[:, -1] = 1
    return table


def fit(table: NDArray[np.float64], is_spam: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """The weights with the lowest log loss plus half the penalty times their squares."""

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = table @ weights
        gradient = table.T @ (expit(scores) - is_spam)
        gradient[:-1] += penalty * weights[:-1]
        value = np.logaddexp(0, scores).sum() - is_spam @ scores + penalty / 2 * weights[:-1] @ weights[:-1]
        return float(value), gradient

    return np.asarray(minimize(loss, np.zeros(table.shape[1]), jac=True, method="L-BFGS-B").x)


def regression(train: Sequence[Example], validation: Sequence[Example]) -> Callable[[Sequence[Example]], list[bool]]:
    """A function that says for each text whether the regression's label is right."""
    counts = Counter(term for example in train for term in terms(example.instruction))
    index = {term: place for place, term in enumerate(term for term, count in counts.items() if count > 1)}

    def spam(examples: Sequence[Example]) -> NDArray[np.float64]:
        return np.array([example.output == "spam" for example in examples], dtype=float)

    table = features(train, index)
    fits = [fit(table, spam(train), penalty) for penalty in PENALTIES]
    held, right = features(validation, index), spam(validation)
    weights = min(fits, key=lambda found: float(np.logaddexp(0, held @ found).sum() - right @ (held @ found)))
    return lambda examples: [bool(hit) for hit in (features(examples, index) @ weights > 0) == spam(examples)]


# --- pocket -------------------------------------------------------------------------------------------------------


def command(*words: str) -> str:
    """The stdout of `assistant`."""
    done = subprocess.run([sys.executable, "-m", "assistant", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def pocket(seed: int, options: Sequence[str], folder: Path) -> tuple[dict[str, Any], float, dict[str, list[bool]]]:
    """Train and report. Returns the report, the seconds of the whole command, and the hits on the other sets."""
    start = time.perf_counter()
    words = ("classify", "train", str(shipped("spam.json")), "--model", "pocket", "--output", str(folder))
    record = json.loads(command(*words, "--seed", str(seed), "--json", *options))
    seconds = time.perf_counter() - start
    hits = {}
    for name in SETS:
        rows = json.loads(shipped(name).read_text(encoding="utf-8"))
        lines = command("classify", "predict", str(folder), str(shipped(name)), "--json").splitlines()
        hits[name] = [json.loads(line)["label"] == row["label"] for line, row in zip(lines, rows, strict=True)]
    return record["report"], seconds, hits


def shown(hits: Sequence[bool]) -> str:
    """A share with its 95 % interval."""
    interval = rate_interval(sum(hits), len(hits))
    assert interval is not None
    return f"{sum(hits) / len(hits):.1%} ({interval.low:.1%} to {interval.high:.1%})"


def main() -> None:
    """Print one line for each contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--options", default="", help="options for `assistant classify train`")
    given = parser.parse_args()
    examples = read_labelled(shipped("spam.json")).examples
    splits = split_labelled(examples)
    others = {"spam_later.json": read_labelled(shipped("spam_later.json")).examples, "spam_hard.json": hard_examples()}
    print(f"{len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test messages")
    print(f"{'':<22} {'test part':<26} {'sixty later messages':<26} {'hard spam':<26} seconds")
    start = time.perf_counter()
    is_right = regression(splits.train, splits.validation)
    seconds = time.perf_counter() - start
    cells = [shown(is_right(rows)) for rows in (splits.test, *(others[name] for name in SETS))]
    print(f"{'words, regression':<22} {cells[0]:<26} {cells[1]:<26} {cells[2]:<26} {seconds:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in given.seeds:
            report, seconds, hits = pocket(seed, shlex.split(given.options), Path(folder) / str(seed))
            low, high = report["intervals"]["accuracy"]
            cells = [f"{report['accuracy']:.1%} ({low:.1%} to {high:.1%})", *(shown(hits[name]) for name in SETS)]
            print(f"pocket, seed {seed:<9} {cells[0]:<26} {cells[1]:<26} {cells[2]:<26} {seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
