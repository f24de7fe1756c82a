"""The pretraining corpus: plain English made of the lexicon, deterministic from a seed.

    python -m data.lexicon.corpus --seed 1 --documents 60000 --output corpus.jsonl

A document is a story, a conversation, an explanation, a short everyday text, or a page of sentences about facts and
words. No document holds an instruction of the instruction set: one in which such a text stands is left out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from assistant.files import write_atomic
from data.lexicon.draw import Draw
from data.lexicon.english import expand, with_article
from data.lexicon.relations import DAYS, RELATIONS, scene
from data.lexicon.tables import Row, pieces, table

INSTRUCTIONS = Path(__file__).parent.parent / "instructions.json"
DEFAULT_SEED, DEFAULT_DOCUMENTS = 1, 80_000
PAGE_CHARACTERS = (460, 760)
"""Of a page of sentences; with a vocabulary of 4,096 tokens that fits 256 positions."""
LONGEST = 1_000
HEADINGS = ("Notes", "Words", "Facts", "A page to read", "Response to a letter", "Instruction book", "Input and output")
"""Some pages have one, as in Markdown."""
QUESTIONS = 0.45
"""How many of the facts are given as a question and its answer, where the relation has questions."""
ANSWERED = (
    '"{question}" asked {name}. "{reply}" said {name2}.',
    "{question} {answer}",
    "{question}\\n{answer}",
    "{question}\\n\\n{answer}\\n\\n",
    "{name} asked: {question} {name2} answered: {answer}",
    "{name}: {question}\\n{name2}: {answer}\\n",
)
"""Ways to put a question and its answer on a page, and beneath those that name what is asked about by itself."""
ANSWERED_ABOUT = (
    "{question}\\n{item}\\n{answer}",
    "{question}\\n\\n{item}\\n\\n{answer}\\n\\n",
    "{question} ({item}) {answer}",
    "{item}\\n{question}\\n{answer}",
    "{question} {name} [pointed at|read out|wrote down] this: {item}\\n{answer}",
    "{name}: {question}\\n{name2}: {item}\\n{name}: {answer}\\n",
    "{item}\\n{question} {answer}",
)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a corpus is made of."""

    kinds: Mapping[str, int]
    """Shares of the documents, in percent."""
    times: Mapping[str, float] = field(default_factory=dict)
    """How many times more often a relation comes up than `RELATIONS` says."""
    named_apart: float | None = None
    """Share of the questions that name by itself what is asked about; None where it follows from the table."""


FIRST = Mix(kinds={"page": 75, "stories": 12, "dialogues": 6, "explanations": 4, "texts": 3})
SECOND = Mix(
    kinds={"page": 83, "stories": 8, "dialogues": 4, "explanations": 3, "texts": 2},
    times={
        "opposites": 1.8, "synonyms": 1.4, "plurals": 1.2, "past_tense": 1.2, "comparatives": 1.2, "capitals": 1.2,
        "colours": 1.6, "spelling": 1.4, "comparison": 1.6, "tense": 1.5, "definitions": 1.2, "odd_one_out": 1.2,
        "animal_young": 0.8, "simile": 0.8, "elements": 0.8, "continents": 0.8, "narrative": 0.5, "animals": 0.7,
    },
    named_apart=0.65,
)  # fmt: skip
"""For a second reading: more of what the first one taught least (benchmarks/facts.py)."""
THIRD = Mix(
    kinds={"page": 90, "stories": 4, "dialogues": 2, "explanations": 2, "texts": 2},
    times={
        "arithmetic": 2.5, "odd_one_out": 2.0, "sorting": 2.0, "numbers": 1.5, "plurals": 1.6, "spelling": 1.6,
        "facts": 1.5, "units": 1.3, "comparison": 1.3, "tense": 1.4, "punctuation": 1.4, "colours": 1.4, "grammar": 1.3,
        "classification": 1.2, "animal_young": 0.7, "simile": 0.8, "elements": 0.8, "narrative": 0.3, "animals": 0.5,
    },
    named_apart=0.6,
)  # fmt: skip
"""For a last, short one: what takes working out."""
MIXES = {"first": FIRST, "second": SECOND, "third": THIRD}
_BORDER = re.compile(r"(?<=[.?!])[\"']?\s+|\n+|\"")


def documents(seed: int, count: int, mix: Mix = FIRST) -> Iterator[str]:
    """`count` different documents."""
    draw, seen, forbidden = Draw(seed), set[str](), instruction_texts()
    kinds, shares = list(mix.kinds), list(mix.kinds.values())
    while len(seen) < count:
        (kind,) = draw.rng.choices(kinds, shares)
        text = page(draw, mix) if kind == "page" else piece(draw, kind)
        if text in seen or len(text) > LONGEST or not forbidden.isdisjoint(sentences(text)):
            continue
        seen.add(text)
        yield text


def piece(draw: Draw, kind: str) -> str:
    """A story, dialogue, explanation or short text with its slots filled."""
    return expand(draw.card(kind, pieces(kind)), scene(draw), draw.rng)


def page(draw: Draw, mix: Mix = FIRST) -> str:
    """Sentences about one to four relations, or about anything, in one or more paragraphs."""
    names = list(RELATIONS)
    weights = [weight * mix.times.get(name, 1.0) for name, (weight, _) in RELATIONS.items()]
    few = draw.rng.choices(names, weights, k=draw.rng.choice([1, 2, 3, 4]))
    mixed = draw.rng.random() < 0.4
    length = draw.rng.randint(*PAGE_CHARACTERS)
    text = f"### {draw.rng.choice(HEADINGS)}:\n" if draw.rng.random() < 0.15 else ""
    while len(text) < length:
        relation = draw.rng.choices(names, weights)[0] if mixed else draw.rng.choice(few)
        added = fact(draw, relation, mix)
        text += border(draw, text, added) + added
    return text.strip()


def border(draw: Draw, text: str, added: str) -> str:
    """What stands between the facts of a page: a space, a line end, an empty line, or the heading of a new part."""
    chance = draw.rng.random()
    if chance < 0.75 and text.endswith((".", "?", "!", '"')) and "\n" not in added:
        return " "
    if not text or text.endswith("\n"):
        return ""
    return "\n" if chance < 0.85 else "\n\n" if chance < 0.95 else f"\n\n### {draw.rng.choice(HEADINGS)}:\n"


def fact(draw: Draw, relation: str, mix: Mix = FIRST) -> str:
    """One frame of a relation, or a question and its answer, filled with one fact."""
    if relation in questions() and draw.rng.random() < QUESTIONS:
        frame = asked(draw, relation, mix)
    else:
        frame = draw.rng.choices(frames()[relation][0], frames()[relation][1])[0]
    one, two, three = draw.people(3)
    around = {
        "name": one.name, "he": one.he, "him": one.him, "his": one.his,
        "name2": two.name, "he2": two.he, "name3": three.name,
        "day": draw.rng.choice(DAYS), "number": draw.word("number"), "a_thing": with_article(draw.word("thing")),
    }  # fmt: skip
    return expand(frame, around | RELATIONS[relation][1](draw), draw.rng)


def asked(draw: Draw, relation: str, mix: Mix) -> str:
    """The frame of a question with its answer."""
    rows = questions()[relation]
    if mix.named_apart is not None:
        is_apart = draw.rng.random() < mix.named_apart
        rows = [row for row in rows if (row["item"] != "-") == is_apart] or rows
    row = draw.rng.choice(rows)
    way = draw.rng.choice(ANSWERED if row["item"] == "-" else ANSWERED_ABOUT)
    if "reply" in way and ('"' in row["question"] + row["answer"] or not row["answer"].endswith(".")):
        way = ANSWERED[1]
    parts = {**row, "reply": row["answer"].removesuffix(".") + ","}
    for name in ("question", "item", "answer", "reply"):
        way = way.replace(f"{{{name}}}", parts[name])
    return way


@cache
def questions() -> dict[str, list[Row]]:
    """The questions of every relation that has some, in words that the instruction set does not use."""
    found: dict[str, list[Row]] = {}
    for row in table("questions"):
        found.setdefault(row["relation"], []).append(row)
    return found


@cache
def frames() -> dict[str, tuple[list[str], list[int]]]:
    """The frames of every relation with their weights."""
    found: dict[str, tuple[list[str], list[int]]] = {}
    for row in table("frames"):
        texts, weights = found.setdefault(row["relation"], ([], []))
        texts.append(row["frame"])
        weights.append(int(row["weight"]))
    return found


def sentences(text: str) -> set[str]:
    """The sentences of a text and what stands between quotation marks, as `instruction_texts` spells them."""
    return {plain(part) for part in _BORDER.split(text)}


def instruction_texts() -> frozenset[str]:
    """The instructions of the instruction set that have at least four words: none may be in the corpus."""
    rows = json.loads(INSTRUCTIONS.read_text(encoding="utf-8"))
    return frozenset(text for row in rows if len((text := plain(row["instruction"])).split()) >= 4)


def plain(text: str) -> str:
    """Lower case without the punctuation at the ends."""
    return text.lower().strip(" .?!,:;\"'\n")


def write_corpus(path: Path, *, seed: int, count: int, mix: Mix = FIRST) -> None:
    """Write the documents as JSONL, one `{"text": ...}` a line. The file appears whole or not at all."""
    texts = documents(seed, count, mix)
    write_atomic(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--documents", type=int, default=DEFAULT_DOCUMENTS)
    parser.add_argument("--mix", choices=list(MIXES), default="first")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    write_corpus(options.output, seed=options.seed, count=options.documents, mix=MIXES[options.mix])


if __name__ == "__main__":
    main()
