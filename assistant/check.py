"""What may be wrong with a whole data set: a question twice, with other answers, or on both sides of a split.

Single rows are validated where they are read (`instructions`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assistant.instructions import Example
from assistant.splits import Splits, normalise, prompt_key

NEAR = 0.8
"""Least similarity (Jaccard index of the word 4-grams of two prompts) of near twins."""
GRAM = 4
SHOWN, SHOWN_CHARACTERS = 10, 60
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Twins:
    """Two rows of different parts that ask nearly the same; `similarity` 1 with `exact` is the same prompt."""

    held_out: Example
    part: str
    """The part that `held_out` belongs to, `validation` or `test`."""
    learnt: Example
    learnt_part: str
    similarity: float
    exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a check found. Groups hold the examples that share a normalised prompt."""

    rows: int
    parts: dict[str, int]
    duplicates: tuple[tuple[Example, ...], ...]
    """The same prompt with the same answer."""
    conflicts: tuple[tuple[Example, ...], ...]
    """The same prompt with different answers."""
    twins: tuple[Twins, ...]
    """Held-out rows whose twin is in an earlier part, the nearest one each."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.duplicates or self.conflicts or self.twins)


def check_examples(examples: Sequence[Example], splits: Splits) -> Findings:
    """Look for repeated, contradicting and leaking rows.

    Twins are looked for from `test` to the other two parts, and from `validation` to `train`.
    """
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        whole = (example.output,) if example.is_text else ()  # texts may well open with the same words
        groups[prompt_key(example) + whole].append(example)
    repeated = [tuple(group) for group in groups.values() if len(group) > 1]
    conflicts = [group for group in repeated if len({normalise(example.output) for example in group}) > 1]
    return Findings(
        rows=len(examples),
        parts={part: len(splits.part(part)) for part in PARTS},
        duplicates=tuple(group for group in repeated if group not in conflicts),
        conflicts=tuple(conflicts),
        twins=tuple(_find_twins(splits)),
    )


def _find_twins(splits: Splits) -> list[Twins]:
    found = []
    for part, earlier in (("validation", ("train",)), ("test", ("train", "validation"))):
        index = _GramIndex([(name, example) for name in earlier for example in splits.part(name)])
        for example in splits.part(part):
            nearest = index.nearest(example)
            if nearest is None:
                continue
            similarity, learnt_part, learnt = nearest
            exact = prompt_key(learnt) == prompt_key(example)
            if exact or similarity >= NEAR:
                found.append(
                    Twins(
                        held_out=example,
                        part=part,
                        learnt=learnt,
                        learnt_part=learnt_part,
                        similarity=round(similarity, 3),
                        exact=exact,
                    )
                )
    return found


class _GramIndex:
    """Which examples hold which word 4-grams."""

    def __init__(self, entries: Sequence[tuple[str, Example]]) -> None:
        self._entries = entries
        self._grams = [prompt_grams(example) for _, example in entries]
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, grams in enumerate(self._grams):
            for gram in grams:
                self._holders[gram].append(number)

    def nearest(self, example: Example) -> tuple[float, str, Example] | None:
        """The most similar entry, an exact twin first: similarity, part, example. None if nothing is shared."""
        grams = prompt_grams(example)
        shared = Counter(number for gram in grams for number in self._holders.get(gram, ()))
        best: tuple[float, bool, int] | None = None
        for number, common in shared.items():
            similarity = common / (len(grams) + len(self._grams[number]) - common)
            candidate = (similarity, prompt_key(self._entries[number][1]) == prompt_key(example), -number)
            best = candidate if best is None else max(best, candidate)
        if best is None:
            return None
        part, found = self._entries[-best[2]]
        return best[0], part, found


def prompt_grams(example: Example) -> frozenset[tuple[str, ...]]:
    """The word 4-grams of a prompt in lower case, punctuation left out; a shorter prompt is one gram."""
    texts = [text for turn in example.history for text in turn] + [example.instruction, example.input]
    words = re.findall(r"\w+", " ".join(texts).lower())
    return frozenset(tuple(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1)))


# --- telling it ---------------------------------------------------------------------------------------------------


def describe_findings(found: Findings) -> list[str]:
    """What was found, a sentence a line. The texts in it are a user's own."""
    parts = ", ".join(f"{part} {count}" for part, count in found.parts.items())
    lines = [f"{found.rows} rows: {parts}."]
    for name, groups in (("the same answer", found.duplicates), ("different answers", found.conflicts)):
        if groups:
            rows = sum(len(group) for group in groups)
            lines.append(f"The same prompt with {name}: {_count(len(groups), 'group')}, {rows} rows.")
            lines += [f"- {_places(group)}: {_shown(group[0])}" for group in groups[:SHOWN]] + _more(len(groups))
    for exact, name in ((True, "the prompt of a row"), (False, "nearly the prompt of a row")):
        twins = [twin for twin in found.twins if twin.exact is exact]
        if twins:
            lines.append(f"Held out, with {name} that is learnt or chosen by: {_count(len(twins), 'row')}.")
            lines += [f"- {_describe(twin)}" for twin in twins[:SHOWN]] + _more(len(twins))
    return lines + (["No repeated prompt, no contradiction, no twin across the parts."] if found.is_clean else [])


def findings_as_json(found: Findings) -> dict[str, Any]:
    """The findings for scripts: every row by file and number."""

    def groups(examples: Sequence[Sequence[Example]]) -> list[list[dict[str, Any]]]:
        return [[_row(example) for example in group] for group in examples]

    twins = [
        {
            "part": twin.part,
            "row": _row(twin.held_out),
            "twin_part": twin.learnt_part,
            "twin": _row(twin.learnt),
            "similarity": twin.similarity,
            "exact": twin.exact,
        }
        for twin in found.twins
    ]
    return {
        "rows": found.rows,
        "parts": found.parts,
        "duplicates": groups(found.duplicates),
        "conflicts": groups(found.conflicts),
        "twins": twins,
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row(example: Example) -> dict[str, Any]:
    return {"file": example.source, "row": example.row}


def _places(group: Sequence[Example]) -> str:
    rows: dict[str, list[str]] = {}
    for example in group:
        rows.setdefault(example.source, []).append(str(example.row))
    return "; ".join(f"{source}, rows {', '.join(numbers)}" for source, numbers in rows.items())


def _shown(example: Example) -> str:
    text = f"{example.instruction} {example.input}".strip()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _describe(twin: Twins) -> str:
    likeness = "" if twin.exact else f" ({twin.similarity:.2f} alike)"
    return f"{twin.part}, {twin.held_out.where}: {twin.learnt_part}, {twin.learnt.where}{likeness}"


def _more(count: int) -> list[str]:
    return [f"- and {count - SHOWN} more"] if count > SHOWN else []
