"""Measure what a pretrained model knows: the share of the lexicon's statements that it completes, by relation.

    python benchmarks/facts.py pocket

A statement counts if every token of its ending is the likeliest one. Each table gives at most a hundred statements.
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
"""Name of the relation: its table, the beginning of the statement, and the ending."""
MAX_STATEMENTS = 100
Statement = tuple[str, str]
"""Beginning and ending."""


def statements() -> Mapping[str, Sequence[Statement]]:
    """Return the statements of every relation."""
    by_relation = {}
    for name, (table_name, beginning, ending) in STATEMENTS.items():
        rows = [row for row in table(table_name) if "-" not in row.values()][:MAX_STATEMENTS]
        slots = [row | _derived_slots(row) for row in rows]
        by_relation[name] = [(capitalised(beginning.format(**row)), ending.format(**row)) for row in slots]
    sums = [(a, op, b) for op in ("plus", "times") for a in range(2, 12) for b in range(2, 12, 2)]
    by_relation["sums"] = [(f"{a} {op} {b} is", f" {calculate(a, op, b)}.") for a, op, b in sums]
    return by_relation


def _derived_slots(row: Mapping[str, str]) -> dict[str, str]:
    return {"misspelling": split_cell(row.get("misspellings", ""))[0], "a_young": with_article(row.get("young", ""))}


@torch.inference_mode()
def share_completed(model: GPT, tokenizer: Tokenizer, relation: Sequence[Statement]) -> float:
    """Return the share of statements whose ending the model completes."""
    is_completed = []
    for beginning, ending in relation:
        prompt_ids, expected_ids = tokenizer.encode(beginning), tokenizer.encode(ending)
        logits = model.head(model(torch.tensor([prompt_ids + expected_ids])))[0, len(prompt_ids) - 1 : -1]
        is_completed.append(logits.argmax(-1).tolist() == expected_ids)
    return sum(is_completed) / len(is_completed)


def main(folder: str) -> None:
    """Print the share for every relation."""
    checkpoint = load_checkpoint(find_model(folder))
    for name, relation in statements().items():
        share = share_completed(checkpoint.model, checkpoint.tokenizer, relation)
        print(f"{name:14s}{100 * share:4.0f} % of {len(relation)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/facts.py FOLDER, a model folder or pocket")
    main(sys.argv[1])
