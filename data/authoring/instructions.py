"""Makes the instruction set: hand-written rows, and phrasings combined with facts from the lexicon.

    python -m data.authoring.instructions --output data/instructions.json

A row's `group` names its subject. Rows that share a word, a country or a sum share a group, so they always land in the
same split, and no training row contains the answer to a test question.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from assistant.files import write_atomic
from data.authoring.questions import CATEGORIES, Question, bare, make_question, pair_key, sum_key
from data.lexicon.corpus import normalised
from data.lexicon.draw import Draw
from data.lexicon.english import capitalised, expand
from data.lexicon.tables import read_table

HERE = Path(__file__).parent
SEED = 7


@dataclass(frozen=True, kw_only=True)
class Quota:
    """The number of rows that each category gets, and the phrasings of the new rows."""

    rows: int
    """Rows of a category, including the hand-written ones."""
    exceptions: Mapping[str, int]
    """Rows of the categories that differ."""
    tables: tuple[str, ...]
    """Names of the tables of phrasings."""


QUOTAS = (
    Quota(
        rows=112,
        exceptions={"calendar": 40, "synonyms": 90, "rhymes": 80, "definitions": 100},
        tables=("phrasings",),
    ),
    Quota(
        rows=224,
        exceptions={"calendar": 80, "synonyms": 180, "rhymes": 160, "definitions": 200},
        tables=("phrasings", "casual"),
    ),
)
"""They are filled in this order, so that a later quota does not change the rows of an earlier one."""

INSTRUCTIONS_IN_CORPUS = {
    "what is the capital of myanmar",
    "can you tell me the capital of algeria",
    "can you tell me the capital of canada",
    "what is the capital of zambia",
    "50 divided by 5",
}
"""Normalised instructions that the corpus of the shipped model contains by chance. The instruction set must not use
them: the corpus discards documents with an instruction, so it would no longer be the corpus of that model."""


# --- subjects of hand-written rows --------------------------------------------------------------------------------

SUBJECT_PATTERNS = {
    "opposites": r"The opposite of (?P<a>.+) is (?P<b>.+)\.",
    "synonyms": r"A synonym for (?P<a>.+) is (?P<b>.+)\.",
    "plurals": r"The plural of (?P<a>.+) is .+",
    "past_tense": r"The past tense of (?P<a>.+) is .+",
    "capitals": r"The capital of (?P<a>.+) is .+",
    "continents": r"(?P<a>.+) is in .+",
    "animal_young": r"A young (?P<a>.+) is called .+",
    "colours": r"(?P<a>.+) is \w+\.",
    "chemical_symbols": r"The chemical symbol for (?P<a>.+) is .+",
    "spelling": r"The correct spelling is \"(?P<a>.+)\"\.",
    "classification": r"(?P<a>.+) is an? .+",
    "simile": r"As (?P<a>.+) as .+",
    "rhymes": r"A word that rhymes with (?P<a>.+) is (?P<b>.+)\.",
    "definitions": r"(?P<a>.+?) is .+",
}
"""Patterns of the answers of one-word categories. Their named groups are the subjects."""


def keys_of_written(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the subject keys of a hand-written row."""
    category, answer = row["category"], row["output"]
    if match := re.fullmatch(SUBJECT_PATTERNS.get(category, r"(?!)"), answer):
        return tuple(bare(word) for word in match.groupdict().values())
    if match := re.fullmatch(r"(\d+) (plus|minus|times|divided by) (\d+) is \d+\.", answer):
        return (sum_key(*match.groups()),)
    if match := re.fullmatch(r"(.+) equals (.+)\.", answer):
        return (pair_key(*match.groups()),)
    if match := re.fullmatch(r"The (?:day|month) (?:after|before) (.+) is (.+)\.", answer):
        return (pair_key(*match.groups()),)
    if match := re.fullmatch(r"(.+) is \w+(?: \w+)? than (.+)\.", answer):
        return (pair_key(*(bare(thing) for thing in match.groups())),)
    if category in {"about_itself", "greetings", "short_writing"}:
        return (f"{category}: {row['instruction']} {row['input']}",)
    return (answer,)


# --- making the set -----------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def make_rows(seed: int = SEED) -> Rows:
    """Return all rows of the instruction set, in a random order, each with its category and group."""
    draw = Draw(seed)
    rows, keys = rows_with_keys(draw)
    for row, group in zip(rows, groups_of(keys), strict=True):
        row["group"] = group
    draw.rng.shuffle(rows)
    return rows


def rows_with_keys(draw: Draw) -> tuple[Rows, list[tuple[str, ...]]]:
    """Return all rows without their groups, and the keys of each row: its subjects and its answer."""
    written = json.loads((HERE / "written.json").read_text(encoding="utf-8"))
    rows: Rows = [dict(row) for row in written]
    keys = [keys_of_written(row) for row in rows]
    prompts = {prompt_of(row) for row in rows}
    for quota, category in itertools.product(QUOTAS, CATEGORIES):
        existing = [index for index, row in enumerate(rows) if row["category"] == category]
        used_keys = {key for index in existing for key in keys[index]}
        phrasings = Phrasings(draw, quota.tables)
        count = quota.exceptions.get(category, quota.rows) - len(existing)
        for question in _new_questions(draw, category, used_keys, count):
            row = phrasings.row(question) | {"output": question.answer, "category": category}
            if prompt_of(row) in prompts or normalised(row["instruction"]) in INSTRUCTIONS_IN_CORPUS:
                continue
            prompts.add(prompt_of(row))
            rows.append(row)
            keys.append((*question.keys, question.answer))  # A hand-written row may have the same answer.
    return rows, keys


def _new_questions(draw: Draw, category: str, used_keys: set[str], count: int) -> Iterator[Question]:
    """Yield up to `count` questions about subjects that are not used yet, and add their keys to `used_keys`."""
    allow_repeats = category == "calendar"  # It has only nineteen facts.
    for _ in range(200 * max(count, 0)):
        if count <= 0:
            return
        question = make_question(category, draw)
        if question.slots.get("sentence") == question.answer or (not allow_repeats and used_keys & set(question.keys)):
            continue
        used_keys.update(question.keys)
        count -= 1
        yield question


class Phrasings:
    """Deals the phrasings of some tables like cards, so that all of them come up equally often."""

    def __init__(self, draw: Draw, tables: Sequence[str]) -> None:
        self._draw, self._tables = draw, tables

    def row(self, question: Question) -> dict[str, str]:
        """Return the instruction and the input of a question."""
        if question.phrasing == "general_knowledge":  # Its table contains complete questions.
            return {"instruction": question.slots["question"], "input": ""}
        choices = [row for row in table_of_phrasings(*self._tables) if row["category"] == question.phrasing]
        phrasing = self._draw.card(f"{' '.join(self._tables)} {question.phrasing}", choices)
        texts = [expand(phrasing[field], question.slots, self._draw.rng) for field in ("instruction", "input")]
        instruction = texts[0] if phrasing["table"] == "casual" else capitalised(texts[0])
        return {"instruction": instruction, "input": "" if phrasing["input"] == "-" else texts[1]}


@cache
def table_of_phrasings(*names: str) -> Sequence[dict[str, str]]:
    """Return the rows of phrasings.tsv (polite, complete sentences), casual.tsv (typed in a hurry), or both."""
    return tuple(row | {"table": name} for name in names for row in read_table(HERE / f"{name}.tsv"))


def prompt_of(row: Mapping[str, str]) -> tuple[str, str]:
    """Return the instruction and the input, normalised for comparison."""
    return row["instruction"].lower().strip(" .?!"), row["input"].lower().strip(" .?!")


def groups_of(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the group of each row. Rows that share a key, directly or through other rows, are in one group.

    A disjoint-set forest; a group's name is one of its keys.
    """
    parents: dict[str, str] = {}

    def find(key: str) -> str:
        parents.setdefault(key, key)
        while parents[key] != key:
            key = parents[key]
        return key

    for row_keys in keys:
        roots = sorted(find(key.lower()) for key in row_keys)
        for root in roots[1:]:
            parents[root] = roots[0]
    return [find(row_keys[0].lower()) for row_keys in keys]


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows as JSON, with their fields in one order, and say how many they are."""
    order = ("instruction", "input", "output", "history", "category", "group")
    ordered = [{name: row[name] for name in order if name in row} for row in rows]
    write_atomic(path, json.dumps(ordered, ensure_ascii=False, indent=1) + "\n")
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    """Write the instruction set to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    write_rows(parser.parse_args().output, make_rows())


if __name__ == "__main__":
    main()
