"""Generates the pretraining corpus: plain English from the lexicon. The same seed gives the same corpus.

    python -m data.lexicon.corpus --seed 1 --documents 60000 --output corpus.jsonl

A document is a story, a conversation, an explanation, a short everyday text, or a page of sentences about facts and
words. Some pages are long. A document that contains an instruction of the instruction set is discarded.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from assistant.files import write_atomic
from data.lexicon.clauses import DAYS, Slots
from data.lexicon.draw import Draw
from data.lexicon.english import choose, expand, with_article
from data.lexicon.relations import RELATIONS, scene
from data.lexicon.tables import Row, pieces, table

DATA = Path(__file__).parent.parent
INSTRUCTIONS = ("instructions.json", "talk.json", "conversations.json")
"""Files of the rows that the corpus must not contain."""
DEFAULT_SEED, DEFAULT_DOCUMENTS = 1, 205_000
PAGE_CHARACTERS = {"page": (460, 760), "long page": (1_000, 1_500)}
"""Bounds of the minimum length of a page of sentences. With a vocabulary of 4,096 tokens, a page fits 256 positions and
a long page 512."""
MAX_CHARACTERS = 1_650
HEADINGS = ("Notes", "Words", "Facts", "A page to read", "Response to a letter", "Instruction book", "Input and output")
"""Some pages have Markdown headings."""
QUESTION_SHARE = 0.45
"""Share of the facts that become a question with its answer, if the relation has questions."""
QUESTION_SHARES = {"talk": 0.92, "everyday": 0.6, "chat": 1.0, "beyond": 1.0, "messages": 1.0}
"""The same for the relations that differ."""
ANSWERED = (
    '"{question}" asked {name}. "{reply}" said {name2}.',
    "{question} {answer}",
    "{question}\\n{answer}",
    "{question}\\n\\n{answer}\\n\\n",
    "{name} asked: {question} {name2} answered: {answer}",
    "{name}: {question}\\n{name2}: {answer}\\n",
)
"""Frames for a question and its answer."""
ANSWERED_ABOUT = (
    "{question}\\n{item}\\n{answer}",
    "{question}\\n\\n{item}\\n\\n{answer}\\n\\n",
    "{question} ({item}) {answer}",
    "{item}\\n{question}\\n{answer}",
    "{question} {name} [pointed at|read out|wrote down] this: {item}\\n{answer}",
    "{name}: {question}\\n{name2}: {item}\\n{name}: {answer}\\n",
    "{item}\\n{question} {answer}",
)
"""Frames for a question, the item that it is about, and its answer."""
SHEET = "### Question:\\n{question}\\n\\n### Answer:\\n{answer}"
SHEET_ABOUT = "### Question:\\n{question}\\n\\n### Text:\\n{item}\\n\\n### Answer:\\n{answer}"
"""The same with headings, for a mix with a `sheet_share`."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The proportions of a corpus."""

    kinds: Mapping[str, int]
    """Share of each kind of document, in percent."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Factors for the weights of some relations in `RELATIONS`."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of relations that no other mix contains."""
    question_factor: float = 1.0
    """Factor for the share of the facts that become a question."""
    sheet_share: float = 0.0
    """Share of the questions with headings."""
    named_apart: float | None = None
    """Share of the questions with a separate item. If None, all questions of the table are equally likely."""


FIRST = Mix(
    kinds={
        "page": 68, "long page": 11, "stories": 4, "dialogues": 3, "explanations": 2, "texts": 2, "talks": 7,
        "little_texts": 3,
    },
    times={
        "opposites": 2.5, "synonyms": 3.0, "plurals": 2.0, "past_tense": 1.6, "comparatives": 1.6, "capitals": 1.8,
        "colours": 2.5, "spelling": 1.8, "comparison": 2.5, "tense": 1.6, "definitions": 1.2, "odd_one_out": 1.8,
        "arithmetic": 2.2, "sorting": 1.6, "numbers": 1.5, "facts": 2.0, "grammar": 2.0, "punctuation": 1.8,
        "question": 1.5, "animal_young": 1.4, "simile": 1.3, "jobs": 1.6, "calendar": 2.0, "units": 1.6,
        "narrative": 0.3, "animals": 0.5, "office": 0.5,
    },
    weights={"chat": 70.0, "beyond": 24.0},
    named_apart=0.65,
    question_factor=1.15,
    sheet_share=0.3,
)  # fmt: skip
"""What the model should know, and what people type to an assistant."""
SECOND = Mix(
    kinds={"page": 88, "long page": 8, "talks": 4},
    times={
        "opposites": 4.0, "comparison": 4.0, "spelling": 2.5, "arithmetic": 4.0, "plurals": 3.0, "comparatives": 2.5,
        "capitals": 2.5, "facts": 3.0, "units": 3.0, "tense": 2.0, "question": 2.0, "punctuation": 2.5, "grammar": 3.0,
        "odd_one_out": 3.0, "sorting": 2.5, "past_tense": 2.0, "jobs": 1.8, "synonyms": 3.0, "calendar": 5.0,
        "colours": 2.0, "copying": 1.2, "classification": 1.2, "continents": 1.3, "rhymes": 0.6,
        "definitions": 0.7, "talk": 0.7, "narrative": 0.0, "office": 0.0, "animals": 0.0,
    },
    weights={"chat": 50.0, "beyond": 20.0, "messages": 110.0},
    named_apart=0.6,
    question_factor=1.2,
    sheet_share=0.3,
)  # fmt: skip
"""For a short pass: more of the relations that need computing and of those that are still weak, and more messages to an
assistant."""
THIRD = Mix(
    kinds={"page": 92, "long page": 6, "talks": 2},
    times={
        "opposites": 3.0, "comparison": 4.5, "spelling": 3.0, "arithmetic": 7.0, "plurals": 3.5, "comparatives": 3.5,
        "capitals": 1.5, "continents": 2.5, "facts": 3.0, "units": 3.0, "tense": 3.0, "question": 3.0,
        "punctuation": 5.0, "grammar": 4.0, "odd_one_out": 4.0, "sorting": 5.0, "past_tense": 2.0, "jobs": 3.0,
        "synonyms": 1.5, "calendar": 8.0, "colours": 2.0, "copying": 2.0, "classification": 3.0, "rhymes": 0.5,
        "definitions": 0.5, "talk": 0.3, "everyday": 0.5, "narrative": 0.0, "office": 0.0, "animals": 0.0,
    },
    weights={"chat": 25.0, "beyond": 10.0, "messages": 45.0},
    named_apart=0.6,
    question_factor=1.6,
    sheet_share=0.5,
)  # fmt: skip
"""For a last, short pass at a low rate: more of what needs computing, most of it as questions."""
MIXES = {"first": FIRST, "second": SECOND, "third": THIRD}
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"']?\s+|\n+|\"")


def documents(seed: int, count: int, mix: Mix = FIRST) -> Iterator[str]:
    """Yield `count` different documents."""
    draw, seen, forbidden = Draw(seed), set[str](), instruction_texts()
    kinds, shares = list(mix.kinds), list(mix.kinds.values())
    while len(seen) < count:
        (kind,) = draw.rng.choices(kinds, shares)
        text = page(draw, mix, kind) if kind in PAGE_CHARACTERS else filled_piece(draw, kind)
        if text in seen or len(text) > MAX_CHARACTERS or not forbidden.isdisjoint(sentences(text)):
            continue
        seen.add(text)
        yield text


def filled_piece(draw: Draw, kind: str) -> str:
    """Return a story, dialogue, explanation, talk or short text with its slots filled."""
    return expand(draw.card(kind, pieces(kind)), scene(draw), draw.rng)


def page(draw: Draw, mix: Mix = FIRST, kind: str = "page") -> str:
    """Return a page of sentences about one to four relations, or about any relations, in one or more paragraphs."""
    names = list(RELATIONS)
    weights = [mix.weights.get(name, weight * mix.times.get(name, 1.0)) for name, (weight, _) in RELATIONS.items()]
    page_names = draw.rng.choices(names, weights, k=draw.rng.choice([1, 2, 3, 4]))
    mixed = draw.rng.random() < 0.4
    length = draw.rng.randint(*PAGE_CHARACTERS[kind])
    text = f"### {draw.rng.choice(HEADINGS)}:\n" if draw.rng.random() < 0.15 else ""
    while len(text) < length:
        relation = draw.rng.choices(names, weights)[0] if mixed else draw.rng.choice(page_names)
        addition = fact(draw, relation, mix)
        text += separator(draw, text, addition) + addition
        if addition.startswith(SHEET[:4]):  # Nothing follows an answer on its line.
            text += "\n"
    return text.strip()


def separator(draw: Draw, text: str, addition: str) -> str:
    """Return what separates two facts of a page: a space, a line end, an empty line, or a new heading."""
    chance = draw.rng.random()
    if chance < 0.75 and text.endswith((".", "?", "!", '"')) and "\n" not in addition:
        return " "
    if not text or text.endswith("\n"):
        return ""
    return "\n" if chance < 0.85 else "\n\n" if chance < 0.95 else f"\n\n### {draw.rng.choice(HEADINGS)}:\n"


def fact(draw: Draw, relation: str, mix: Mix = FIRST) -> str:
    """Return one fact of a relation, as a statement or as a question with its answer."""
    share = min(1.0, mix.question_factor * QUESTION_SHARES.get(relation, QUESTION_SHARE))
    if relation in questions() and draw.rng.random() < share:
        frame = question_frame(draw, relation, mix)
    else:
        frame = draw.rng.choices(frames()[relation][0], frames()[relation][1])[0]
    return expand(frame, slots_of(relation, draw), draw.rng)


def slots_of(relation: str, draw: Draw) -> Slots:
    """Return what can fill the slots of a relation's frames and questions: its own words, and people, days, numbers."""
    person, person2, person3 = draw.people(3)
    common = {
        "name": person.name, "he": person.he, "him": person.him, "his": person.his,
        "name2": person2.name, "he2": person2.he, "name3": person3.name,
        "day": draw.rng.choice(DAYS), "number": draw.word("number"), "a_thing": with_article(draw.word("thing")),
    }  # fmt: skip
    return common | RELATIONS[relation][1](draw)


def question_frame(draw: Draw, relation: str, mix: Mix) -> str:
    """Return the frame of a random question of a relation, with its answer."""
    rows = questions()[relation]
    if mix.named_apart is not None:
        is_apart = draw.rng.random() < mix.named_apart
        rows = [row for row in rows if (row["item"] != "-") == is_apart] or rows
    row = draw.rng.choice(rows)
    question = choose(row["question"], draw.rng)
    choices: Sequence[str] = ANSWERED if row["item"] == "-" else ANSWERED_ABOUT
    if not question.endswith((".", "?", "!")):  # As people type: the answer begins a line, or follows a name.
        choices = tuple(choice for choice in choices if "{question} " not in choice)
    if mix.sheet_share and draw.rng.random() < mix.sheet_share:
        choices = (SHEET if row["item"] == "-" else SHEET_ABOUT,)
    frame = draw.rng.choice(choices)
    if "reply" in frame and ('"' in question + row["answer"] or not row["answer"].endswith(".")):
        frame = "{question}\\n{answer}"
    parts = {**row, "question": question, "reply": row["answer"].removesuffix(".") + ","}
    for name in ("question", "item", "answer", "reply"):
        frame = frame.replace(f"{{{name}}}", parts[name])
    return frame


@cache
def questions() -> dict[str, list[Row]]:
    """Return the questions by relation. Their wordings differ from those of the instruction set."""
    questions_of: dict[str, list[Row]] = {}
    for row in table("questions"):
        questions_of.setdefault(row["relation"], []).append(row)
    for relation in ("chat", "beyond", "messages"):
        questions_of[relation] = [{**row, "item": "-"} for row in table(relation)]
    return questions_of


@cache
def frames() -> dict[str, tuple[list[str], list[int]]]:
    """Return the frames of every relation and their weights."""
    frames_of: dict[str, tuple[list[str], list[int]]] = {}
    for row in table("frames"):
        texts, weights = frames_of.setdefault(row["relation"], ([], []))
        texts.append(row["frame"])
        weights.append(int(row["weight"]))
    return frames_of


def sentences(text: str) -> set[str]:
    """Return the normalised sentences and quotations of a text."""
    return {normalised(part) for part in _SENTENCE_END.split(text)}


def instruction_texts() -> frozenset[str]:
    """Return the normalised instructions with at least four words. The corpus must not contain them."""
    rows = [row for name in INSTRUCTIONS for row in json.loads((DATA / name).read_text(encoding="utf-8"))]
    asked = [row["instruction"] for row in rows if "instruction" in row]
    asked += [said["content"] for row in rows for said in row.get("messages", ()) if said["role"] == "user"]
    return frozenset(text for text in map(normalised, asked) if len(text.split()) >= 4)


def normalised(text: str) -> str:
    """Return the text in lower case, without punctuation at both ends."""
    return text.lower().strip(" .?!,:;\"'\n")


def write_corpus(path: Path, *, seed: int, count: int, mix: Mix = FIRST) -> None:
    """Write `count` documents as JSONL, one `{"text": ...}` per line, in one atomic step."""
    texts = documents(seed, count, mix)
    write_atomic(path, "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))


def main() -> None:
    """Write a corpus, as the command line describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--documents", type=int, default=DEFAULT_DOCUMENTS)
    parser.add_argument("--mix", choices=list(MIXES), default="first")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    write_corpus(options.output, seed=options.seed, count=options.documents, mix=MIXES[options.mix])


if __name__ == "__main__":
    main()
