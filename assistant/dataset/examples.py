"""`Example`: one training example, as all code after the reader sees it; and the ids of rows.

Does not know about files, rows or tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from assistant.dataset.checks import Check


class Exchange(NamedTuple):
    """One turn of a conversation: the user's message and the assistant's answer."""

    user: str
    assistant: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training example: an instruction, its optional input and the reference answer, with its origin."""

    instruction: str
    output: str
    """Empty if the row is only for evaluation and has none: it then has a `rubric` or a `check`."""
    input: str = ""
    rejected: str | None = None
    """The rejected answer of a preference; `output` is the chosen one."""
    history: tuple[Exchange, ...] = ()
    category: str | None = None
    group: str | None = None
    """Examples that share a group, for instance all about one fact, always land in the same split."""
    accept: tuple[str, ...] = ()
    """Other right answers, for evaluation."""
    check: Check | None = None
    """What a program can ask of the answer, for evaluation."""
    rubric: tuple[str, ...] = ()
    """Yes/no questions about the answer, for a judge."""
    held_out: bool = False
    """Whether the row is for tests alone: training commands refuse it."""
    is_text: bool = False
    """Plain text. `instruction` holds its opening words, and `output` the rest with its leading white space."""
    source: str = ""
    """Path of the file, as the user gave it."""
    row: int = 0
    """Number of the row in that file, counted from 1. In JSONL it is the line number."""

    @property
    def where(self) -> str:
        """The origin as `file, row N`, for messages."""
        return f"{self.source}, row {self.row}"

    @property
    def is_reference_free(self) -> bool:
        """Whether the row has no answer to learn or to compare with."""
        return not self.output and not self.is_text

    @property
    def turns(self) -> tuple[Exchange, ...]:
        """The conversation up to and including this example."""
        return (*self.history, Exchange(self.instruction, self.output))

    def as_row(self) -> dict[str, Any]:
        """Return the example as a row that `read_examples` can read.

        An example with a history becomes a row with `messages`; with an input or a rejected answer too, one with
        `history`.
        """
        row: dict[str, Any]
        if self.is_text:
            row = {"text": self.instruction + self.output}
        elif self.history and not self.input and self.rejected is None and self.output:
            spoken = [said for turn in self.turns for said in zip(("user", "assistant"), turn, strict=True)]
            row = {"messages": [{"role": role, "content": text} for role, text in spoken]}
        else:
            row = {"instruction": self.instruction, "input": self.input}
            if self.is_reference_free:
                pass
            elif self.rejected is None:
                row |= {"output": self.output}
            else:
                row |= {"chosen": self.output, "rejected": self.rejected}
            if self.history:
                row |= {"history": [list(turn) for turn in self.history]}
        return row | self.labels

    @property
    def labels(self) -> dict[str, Any]:
        """Category, group, mark and what only evaluation uses, where there is something, by the name of their field."""
        labels = {
            "category": self.category,
            "group": self.group,
            "held_out": self.held_out or None,
            "accept": list(self.accept) or None,
            "check": None if self.check is None else self.check.as_row(),
            "rubric": list(self.rubric) or None,
        }
        return {name: value for name, value in labels.items() if value is not None}


def row_ids(examples: Sequence[Example]) -> list[str]:
    """Return an id for every row: 16 hex digits of its contents and of the number of equal rows before it."""
    n_before: Counter[str] = Counter()
    ids = []
    for example in examples:
        contents = [example.instruction, example.input, [list(turn) for turn in example.history], example.output]
        text = json.dumps(contents)
        ids.append(hashlib.sha256(f"{text} {n_before[text]}".encode()).hexdigest()[:16])
        n_before[text] += 1
    return ids


def usual_history(examples: Iterable[Example]) -> int:
    """The most earlier turns of an example, leaving out the longest in each hundred that have some. 0 if none has."""
    lengths = sorted(len(example.history) for example in examples if example.history)
    return lengths[-1 - len(lengths) // 100] if lengths else 0
