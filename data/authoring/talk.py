"""Makes the rows of everyday talk and the conversations.

    python -m data.authoring.talk --rows data/talk.json --conversations data/conversations.json

Most rows were written one by one. The others combine a phrasing with a fact of `lexicon/everyday.tsv`, or with
something that the model has not learnt. A conversation about a fact gets the group of the instruction row that asks
for this fact, so that both land in the same part of the split.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import normalise, split_examples
from assistant.files import write_atomic
from assistant.shipped import shipped
from data.authoring.instructions import Rows, prompt_of, write_rows
from data.lexicon.draw import Draw
from data.lexicon.english import capitalised, expand
from data.lexicon.tables import read_table, split_cell, table

HERE = Path(__file__).parent / "talk"
SEED = 11
WRITTEN = ("talk", "everyday", "sentences", "honest")
"""Files of rows that were written one by one."""
KINDS = {
    "how": "how_to",
    "why": "why",
    "what": "explanation",
    "describe": "description",
    "yes_no": "yes_no",
    "list": "short_list",
}
"""For each kind of everyday fact, the category of its questions."""
ROWS_PER_FRAME = 5
"""Rows of each question that the model has not learnt to answer."""
DISTRESS = ("so bad", "nothing wrong", "feel like that")
"""Words of the answers to people in need. Their rows share a group that is too large for a test part, so the model
learns them all."""


def make_rows(seed: int = SEED) -> Rows:
    """Return all rows of everyday talk, in a random order, each with its category and group."""
    draw = Draw(seed)
    rows: Rows = [row for name in WRITTEN for row in json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))]
    for row in rows:
        if row["category"] == "feelings" and any(words in row["output"] for words in DISTRESS):
            row["group"] = "feelings: distress"
    asked_first = [{"instruction": row["messages"][0]["content"], "input": ""} for row in _conversations()]
    instructions = json.loads(shipped("instructions.json").read_text(encoding="utf-8"))
    taken = {prompt_of(row) for row in (*rows, *instructions, *asked_first)}
    for row in (*_everyday(draw), *_not_learnt(draw)):
        if prompt_of(row) not in taken:
            taken.add(prompt_of(row))
            rows.append(row)
    draw.rng.shuffle(rows)
    return rows


def _everyday(draw: Draw) -> Iterator[dict[str, str]]:
    """Yield a question about each everyday fact, and two for each list."""
    phrasings = defaultdict(list)
    for row in read_table(HERE / "phrasings_everyday.tsv"):
        phrasings[row["category"]].append(row["instruction"])
    facts = table("everyday")
    for fact in (*facts, *(fact for fact in facts if fact["kind"] == "list")):
        category = KINDS[fact["kind"]]
        asked = expand(draw.card(category, phrasings[category]), fact, draw.rng)
        group = f"{fact['kind']}: {fact['topic']}"
        answer = _three_of(fact, draw) if fact["kind"] == "list" else fact["answer"]
        yield {"instruction": asked, "input": "", "output": answer, "category": category, "group": group}


def _three_of(fact: Mapping[str, str], draw: Draw) -> str:
    """Return the answer that names three things of a list."""
    first, second, third = draw.rng.sample(split_cell(fact["answer"]), 3)
    return f"Three {fact['topic']} are {first}, {second} and {third}."


def _not_learnt(draw: Draw) -> Iterator[dict[str, str]]:
    """Yield questions that the model has not learnt to answer, with honest answers."""
    values = {row["slot"]: split_cell(row["values"]) for row in read_table(HERE / "not_learnt_slots.tsv")}
    for frame in read_table(HERE / "not_learnt.tsv"):
        for _ in range(ROWS_PER_FRAME):
            slots = {name: draw.card(f"{name} {frame['instruction']}", cards) for name, cards in values.items()}
            asked, answer = (expand(frame[column], slots, draw.rng) for column in ("instruction", "answer"))
            first_slot = min(
                (name for name in slots if f"{{{name}}}" in frame["instruction"]),
                key=lambda name: frame["instruction"].index(f"{{{name}}}"),
            )
            yield {
                "instruction": asked,
                "input": "",
                "output": capitalised(answer),
                "category": "not_learnt",
                "group": f"not_learnt: {slots[first_slot].lower()}",
            }


# --- conversations ------------------------------------------------------------------------------------------------


def make_conversations(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the conversations. `rows` are those of everyday talk, which they can share facts with."""
    group_of = _groups_of_answers(rows)
    conversations = _conversations()
    for conversation in conversations:
        answers = [said["content"] for said in conversation["messages"] if said["role"] == "assistant"]
        groups = [group_of[normalise(answer)] for answer in answers if normalise(answer) in group_of]
        if groups:
            conversation["group"] = min(groups)[1]
    return conversations


def _conversations() -> list[dict[str, Any]]:
    return list(json.loads((HERE / "conversations.json").read_text(encoding="utf-8")))


def _groups_of_answers(rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[int, str]]:
    """Return, for each answer of a row, the row's part of the split as a number, test first, and its group."""
    splits = split_examples(read_examples(shipped("instructions.json")))
    found: dict[str, tuple[int, str]] = {}
    for order, part in enumerate((splits.test, splits.validation, splits.train)):
        for example in part:
            if example.instruction != "What is your name?":  # Every conversation may say its name.
                found.setdefault(normalise(example.output), (order, example.group or ""))
    for row in rows:
        if row["category"] in KINDS.values():
            found.setdefault(normalise(row["output"]), (3, row["group"]))
    return found


def main() -> None:
    """Write the rows and the conversations to the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--conversations", type=Path, required=True)
    options = parser.parse_args()
    rows = make_rows()
    conversations = make_conversations(rows)
    write_rows(options.rows, rows)
    lines = ",\n".join(f" {json.dumps(conversation, ensure_ascii=False)}" for conversation in conversations)
    write_atomic(options.conversations, f"[\n{lines}\n]\n")
    print(f"{options.conversations}: {len(conversations)} conversations")


if __name__ == "__main__":
    main()
