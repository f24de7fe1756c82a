"""The instruction set: rows written by hand, and phrasings combined with facts of the lexicon.

    python -m data.authoring.instructions --output data/instructions.json

A row's `group` names what it is about: rows that share a word, a country or a sum have the same one, so that a split
never parts them and the test asks for what no training row contains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.authoring.questions import CATEGORIES, Question, bare, make_question, pair_key, sum_key
from data.lexicon.corpus import plain
from data.lexicon.draw import Draw
from data.lexicon.english import capitalised, expand

HERE = Path(__file__).parent
SEED = 7


@dataclass(frozen=True, kw_only=True)
class Helping:
    """How many rows of each category there are to be, the hand-written ones among them, and how the new ones ask."""

    rows: int
    otherwise: Mapping[str, int]
    """Of some categories."""
    tables: tuple[str, ...]
    """The phrasings."""


HELPINGS = (
    Helping(
        rows=112,
        otherwise={"calendar": 40, "synonyms": 90, "rhymes": 80, "definitions": 100},
        tables=("phrasings",),
    ),
    Helping(
        rows=224,
        otherwise={"calendar": 80, "synonyms": 180, "rhymes": 160, "definitions": 200},
        tables=("phrasings", "casual"),
    ),
)
"""Dealt one after the other, so that a later one leaves the rows of the earlier ones as they are."""

IN_THE_CORPUS = {
    "what is the capital of myanmar",
    "can you tell me the capital of algeria",
    "can you tell me the capital of canada",
    "what is the capital of zambia",
    "50 divided by 5",
}
"""What the shipped model has read by chance, as `data.lexicon.corpus.plain` spells it. Not asked, so that the corpus,
which leaves out whatever an instruction says, stays the one that model was made from."""


# --- what a row is about ------------------------------------------------------------------------------------------

WORDS_OF = {
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
"""How the answers of the hand-written rows name what they are about."""


def keys_of_written(row: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of a row that was written by hand."""
    category, answer = row["category"], row["output"]
    if found := re.fullmatch(WORDS_OF.get(category, r"(?!)"), answer):
        return tuple(bare(word) for word in found.groupdict().values())
    if found := re.fullmatch(r"(\d+) (plus|minus|times|divided by) (\d+) is \d+\.", answer):
        return (sum_key(*found.groups()),)
    if found := re.fullmatch(r"(.+) equals (.+)\.", answer):
        return (pair_key(*found.groups()),)
    if found := re.fullmatch(r"The (?:day|month) (?:after|before) (.+) is (.+)\.", answer):
        return (pair_key(*found.groups()),)
    if found := re.fullmatch(r"(.+) is \w+(?: \w+)? than (.+)\.", answer):
        return (pair_key(*(bare(thing) for thing in found.groups())),)
    if category in {"about_itself", "greetings", "short_writing"}:
        return (f"{category}: {row['instruction']} {row['input']}",)
    return (answer,)


# --- making the set -----------------------------------------------------------------------------------------------

Rows = list[dict[str, str]]


def make_rows(seed: int = SEED) -> Rows:
    """All rows of the instruction set, in a random order, each with its category and group."""
    draw = Draw(seed)
    written = json.loads((HERE / "written.json").read_text(encoding="utf-8"))
    rows: Rows = [dict(row) for row in written]
    keys = [keys_of_written(row) for row in rows]
    prompts = {prompt_of(row) for row in rows}
    for helping, category in itertools.product(HELPINGS, CATEGORIES):
        have = [index for index, row in enumerate(rows) if row["category"] == category]
        taken = {key for index in have for key in keys[index]}
        phrasings = Phrasings(draw, helping.tables)
        count = helping.otherwise.get(category, helping.rows) - len(have)
        for question in _new_questions(draw, category, taken, count):
            row = phrasings.row(question) | {"output": question.answer, "category": category}
            if prompt_of(row) in prompts or plain(row["instruction"]) in IN_THE_CORPUS:
                continue
            prompts.add(prompt_of(row))
            rows.append(row)
            keys.append((*question.keys, question.answer))  # a hand-written row may have that answer, too
    for row, group in zip(rows, groups_of(keys), strict=True):
        row["group"] = group
    draw.rng.shuffle(rows)
    return rows


def _new_questions(draw: Draw, category: str, taken: set[str], count: int) -> Iterator[Question]:
    """`count` questions about things that are not taken yet, or fewer where there are no more."""
    allow_repeats = category == "calendar"  # there are but nineteen facts
    for _ in range(200 * max(count, 0)):
        if count <= 0:
            return
        question = make_question(category, draw)
        if question.slots.get("sentence") == question.answer or (not allow_repeats and taken & set(question.keys)):
            continue
        taken.update(question.keys)
        count -= 1
        yield question


class Phrasings:
    """Deals the phrasings of some tables like cards."""

    def __init__(self, draw: Draw, tables: Sequence[str]) -> None:
        self._draw, self._tables = draw, tables

    def row(self, question: Question) -> dict[str, str]:
        """Instruction and input of a question."""
        if question.phrasing == "general_knowledge":  # its table holds whole questions
            return {"instruction": question.slots["question"], "input": ""}
        found = [row for row in table_of_phrasings(*self._tables) if row["category"] == question.phrasing]
        phrasing = self._draw.card(f"{' '.join(self._tables)} {question.phrasing}", found)
        texts = [expand(phrasing[field], question.slots, self._draw.rng) for field in ("instruction", "input")]
        instruction = texts[0] if phrasing["table"] == "casual" else capitalised(texts[0])
        return {"instruction": instruction, "input": "" if phrasing["input"] == "-" else texts[1]}


def table_of_phrasings(*names: str) -> Sequence[dict[str, str]]:
    """The rows of phrasings.tsv (polite and whole), or of casual.tsv (as one types in a hurry), or of both."""
    rows: list[dict[str, str]] = []
    for name in names:
        header, *lines = (HERE / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        columns = [*header.split("\t"), "table"]
        rows += [dict(zip(columns, [*line.split("\t"), name], strict=True)) for line in lines]
    return rows


def prompt_of(row: Mapping[str, str]) -> tuple[str, str]:
    """What makes two prompts the same here."""
    return row["instruction"].lower().strip(" .?!"), row["input"].lower().strip(" .?!")


def groups_of(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """One name for each set of rows that hang together by their keys: its first key."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        leader.setdefault(key, key)
        while leader[key] != key:
            key = leader[key]
        return key

    for own in keys:
        roots = sorted(find(key.lower()) for key in own)
        for root in roots[1:]:
            leader[root] = roots[0]
    return [find(own[0].lower()) for own in keys]


def main() -> None:
    """Write the instruction set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    order = ("instruction", "input", "output", "category", "group")
    rows = [{name: row[name] for name in order} for row in make_rows()]
    options.output.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(rows)} rows")


if __name__ == "__main__":
    main()
