"""What a pretrained model knows: the share of the lexicon's statements that it completes rightly, relation by relation.

    python benchmarks/facts.py pocket

A statement counts if every token of its end is the likeliest one. At most a hundred rows of each table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import load_checkpoint
from assistant.model.gpt import GPT
from assistant.shipped import find_model
from data.lexicon.english import capitalised, with_article
from data.lexicon.relations import calculate
from data.lexicon.tables import split_cell, table

STATEMENTS = {
    "opposites": ("opposites", "The opposite of {word} is", " {opposite}."),
    "synonyms": ("synonyms", "A synonym for {word} is", " {synonym}."),
    "plurals": ("nouns", "The plural of {singular} is", " {plural}."),
    "past tenses": ("verbs", "The past tense of {base} is", " {past}."),
    "comparatives": ("adjectives", "The comparative of {adjective} is", " {comparative}."),
    "capitals": ("countries", "The capital of {country} is", " {capital}."),
    "continents": ("countries", "{country} is in", " {continent}."),
    "young animals": ("animals", "A young {animal} is called", " {a_young}."),
    "symbols": ("elements", "The chemical symbol for {element} is", " {symbol}."),
    "colours": ("colours", "{thing} is", " {colour}."),
    "similes": ("similes", "As {adjective} as", " {ending}."),
    "spellings": ("spellings", 'Many people write "{misspelling}". The correct spelling is "', '{correct}".'),
    "jobs": ("jobs", "Somebody who {does} is", " {job_phrase}."),
}
"""Name: table, beginning, end."""
MOST = 100
Pair = tuple[str, str]


def statements() -> Mapping[str, Sequence[Pair]]:
    """The beginnings and ends of the statements of every relation."""
    found = {}
    for name, (source, start, end) in STATEMENTS.items():
        rows = [row for row in table(source) if "-" not in row.values()][:MOST]
        slots = [row | _derived(row) for row in rows]
        found[name] = [(capitalised(start.format(**row)), end.format(**row)) for row in slots]
    sums = [(a, op, b) for op in ("plus", "times") for a in range(2, 12) for b in range(2, 12, 2)]
    found["sums"] = [(f"{a} {op} {b} is", f" {calculate(a, op, b)}.") for a, op, b in sums]
    return found


def _derived(row: Mapping[str, str]) -> Mapping[str, str]:
    return {"misspelling": split_cell(row.get("misspellings", ""))[0], "a_young": with_article(row.get("young", ""))}


@torch.inference_mode()
def share_known(model: GPT, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> float:
    """Which part of the statements the model completes rightly."""
    right = []
    for asked, answer in pairs:
        start, wanted = tokenizer.encode(asked), tokenizer.encode(answer)
        likeliest = model.head(model(torch.tensor([start + wanted])))[0, len(start) - 1 : -1].argmax(-1)
        right.append(likeliest.tolist() == wanted)
    return sum(right) / len(right)


def main(folder: str) -> None:
    """Print the shares."""
    checkpoint = load_checkpoint(find_model(folder))
    for name, pairs in statements().items():
        print(
            f"{name:14s}{100 * share_known(checkpoint.model, checkpoint.tokenizer, pairs):4.0f} % of {len(pairs)}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected: a model folder, or pocket")
    main(sys.argv[1])
