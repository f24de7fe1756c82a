"""Makes more rows for fine-tuning: of the categories with one right answer, and of everyday talk.

    python -m data.authoring.practice --output data/practice.json

Without the first kind, talk and conversations are half of what the model learns from, and it gets worse at the rest. No
row is about what a test or validation row of `instructions.json` asks for: a subject has the same group in both files,
and subjects of those parts are left out.

The second kind asks the questions of the pretraining corpus, so that the model learns to answer what it has read. No
row has the prompt of a row of the other files, or the answer of one of their test and validation rows.

Some rows of both kinds have an earlier turn about something else.

Their categories are `practice` and `practice_talk`, so they are counted apart.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assistant.dataset.instructions import read_examples
from assistant.dataset.splits import normalise, split_examples
from assistant.shipped import COUNTED_APART, shipped
from data.authoring.instructions import SEED as INSTRUCTIONS_SEED
from data.authoring.instructions import SUBJECT_PATTERNS, Phrasings, Rows, groups_of, rows_with_keys, write_rows
from data.authoring.questions import CATEGORIES, bare, make_question
from data.lexicon.corpus import questions, slots_of
from data.lexicon.draw import Draw
from data.lexicon.english import expand

SEED = 19
CATEGORY = "practice"
TALK_CATEGORY = "practice_talk"
GROUP = "practice"
"""One group for all rows about other subjects than those of the instruction set. It is too large for a test part, so
all rows are trained. The other files test what they teach."""
OTHERS = ("instructions.json", "talk.json", "conversations.json")
"""Files whose prompts are not asked again."""
ROWS = 290
"""Rows for each category with one right answer."""
JOINED_SHARE = 0.2
"""Share of the rows that become the first turn of another row's conversation."""
TALK = ("talk", "chat", "beyond", "messages")
"""Relations of the corpus whose questions are asked again."""
WORDINGS = {"messages": 2}
"""Rows for each question of a relation, if there are more than one."""
TRIES = 2_000
"""Questions to draw for a row, at most."""


@dataclass(frozen=True)
class Known:
    """What the rows so far ask, in lower case."""

    prompts: set[tuple[str, str]]
    held_out: set[str]
    """Subjects and answers of the test and validation rows of the instruction set."""
    group_of: dict[str, str]
    """The group of each subject and answer."""


def make_rows(seed: int = SEED) -> Rows:
    """Return all rows of practice, in a random order."""
    draw, instructions_draw = Draw(seed), Draw(INSTRUCTIONS_SEED)
    instructions, keys = rows_with_keys(instructions_draw)
    known = Known(
        prompts={_prompt(row.instruction, row.input) for row in read_examples(*map(shipped, OTHERS))},
        held_out=_held_out(instructions, keys),
        group_of={
            key.lower(): group for subjects, group in zip(keys, groups_of(keys), strict=True) for key in subjects
        },
    )
    categories = (name for name in CATEGORIES if name not in COUNTED_APART)
    rows = [row for name in categories for row in itertools.islice(_rows_of(name, draw, known), ROWS)]
    rows += _talk(draw, known)
    draw.rng.shuffle(rows)
    return _joined(rows)


def _joined(rows: Rows) -> Rows:
    """Make conversations of two turns about different things: some rows become the first turns of others.

    Without them, all conversations that the model learns from have a second turn that leans on the first one.
    """
    can_open = [row for row in rows if row["group"] == GROUP and not row["input"]]
    openers = can_open[: int(JOINED_SHARE * len(rows))]
    opening = {id(row) for row in openers}
    others = [row for row in rows if id(row) not in opening]
    later = [
        row | {"history": [[opener["instruction"], opener["output"]]]}
        for opener, row in zip(openers, others, strict=False)
    ]
    return later + others[len(openers) :]


def _rows_of(category: str, draw: Draw, known: Known) -> Iterator[dict[str, str]]:
    """Yield new rows of a category, and add their prompts and subjects to what is known.

    Raises:
        RuntimeError: none of `TRIES` questions in a row was new.
    """
    phrasings, tries = Phrasings(draw, ("phrasings", "casual")), 0
    while tries < TRIES:
        tries += 1
        question = make_question(category, draw)
        subjects = [key.lower() for key in (*question.keys, question.answer)]
        groups = {known.group_of[key] for key in subjects if key in known.group_of}
        is_answered = question.slots.get("sentence") == question.answer
        if is_answered or len(groups) > 1 or not known.held_out.isdisjoint(subjects):
            continue
        row = phrasings.row(question) | {"output": question.answer, "category": CATEGORY}
        prompt = _prompt(row["instruction"], row["input"])
        if prompt in known.prompts:
            continue
        row["group"] = groups.pop() if groups else GROUP
        known.prompts.add(prompt)
        tries = 0
        yield row
    raise RuntimeError(f"practice of {category}: expected more rows. Add phrasings or facts.")


def _talk(draw: Draw, known: Known) -> Iterator[dict[str, str]]:
    """Yield a row for each question of talk in the corpus. No two prompts have the same words."""
    splits = split_examples(read_examples(*map(shipped, OTHERS)))
    held_out = known.held_out | {normalise(row.output) for row in (*splits.test, *splits.validation)}
    taken = {_words(f"{instruction} {text}") for instruction, text in known.prompts}
    asked_for = [
        (relation, question)
        for relation in TALK
        for question in questions()[relation]
        for _ in range(WORDINGS.get(relation, 1))
    ]
    for relation, question in asked_for:
        slots = slots_of(relation, draw)
        asked, answer = (expand(question[column], slots, draw.rng) for column in ("question", "answer"))
        words, says = _words(asked), {normalise(answer), *_subjects(answer)}
        if words and words not in taken and says.isdisjoint(held_out):
            taken.add(words)
            yield {
                "instruction": asked, "input": "", "output": answer,
                "category": TALK_CATEGORY, "group": GROUP,
            }  # fmt: skip


def _prompt(instruction: str, text: str) -> tuple[str, str]:
    return normalise(instruction), normalise(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _subjects(answer: str) -> set[str]:
    """What an answer is about, if it has the form of a category with one right answer."""
    matches = (re.fullmatch(pattern, answer) for pattern in SUBJECT_PATTERNS.values())
    return {bare(word).lower() for match in matches if match for word in match.groupdict().values()}


def _held_out(instructions: Rows, keys: list[tuple[str, ...]]) -> set[str]:
    """Return the subjects and the answers of the test and validation rows of the instruction set, in lower case."""
    splits = split_examples(read_examples(shipped("instructions.json")))
    held_out = {(row.instruction, row.input) for row in (*splits.test, *splits.validation)}
    return {
        key.lower()
        for row, subjects in zip(instructions, keys, strict=True)
        if (row["instruction"], row["input"]) in held_out
        for key in (*subjects, row["output"])
    }


def main() -> None:
    """Write the rows to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    write_rows(parser.parse_args().output, make_rows())


if __name__ == "__main__":
    main()
