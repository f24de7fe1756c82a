"""What may be wrong with a whole data set: a question twice, with other answers, or on both sides of a split.

Single rows are validated where they are read (`instructions`); answers that only look wrong are doubts, told apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assistant.dataset.instructions import Example
from assistant.dataset.splits import Splits, normalise, prompt_key

NEAR = 0.8
"""Least similarity (Jaccard index of the word 4-grams of two prompts) of near twins."""
GRAM = 4
SHOWN, SHOWN_CHARACTERS = 10, 60
LONG_ANSWER = 120
"""Characters from which on an answer should end like a sentence."""
MOST_ROUNDS = 10
_TEMPLATE = re.compile(
    r"### (Instruction|Input|Response):|<\|(endoftext|user|assistant|system|im_start|im_end|end)\|>|\[/?INST\]"
)
_DECODED_WRONGLY = re.compile(r"\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")
"""The replacement character, and UTF-8 that was read as Latin-1 or Windows-1252."""
_PLACEHOLDER = re.compile(
    r"^\W*(todo|tbd|n/?a|none|null|nan|xxx+|lorem ipsum\b.*)\W*$|\[(insert|your|name|date)\b[^\]]*\]", re.I | re.S
)
_LOOP = re.compile(r"(\b\w+\b\W+(?:\w+\W+){2,9}?)\1{3,}")
"""Three to ten words, four times in a row."""
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
class OverlongRow:
    """A row that takes more positions than the model has."""

    example: Example
    positions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """A row that looks wrong and may well be right."""

    example: Example
    reason: str


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
    too_long: tuple[OverlongRow, ...]
    doubts: tuple[Doubt, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found; doubts are not counted."""
        return not (self.duplicates or self.conflicts or self.twins or self.too_long)


def check_examples(
    examples: Sequence[Example],
    splits: Splits,
    *,
    positions: Callable[[Example], int] | None = None,
    context_length: int = 0,
) -> Findings:
    """Look for repeated, contradicting, leaking and doubtful rows.

    Twins are looked for from `test` to the other two parts, and from `validation` to `train`. Where `positions` says
    how many positions a row takes, those with more than `context_length` are named.
    """
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        groups[prompt_key(example) + _answers_that_count(example)].append(example)
    repeated = [tuple(group) for group in groups.values() if len(group) > 1]
    conflicts = [group for group in repeated if len({normalise(example.output) for example in group}) > 1]
    return Findings(
        rows=len(examples),
        parts={part: len(splits.part(part)) for part in PARTS},
        duplicates=tuple(group for group in repeated if group not in conflicts),
        conflicts=tuple(conflicts),
        twins=tuple(_find_twins(splits)),
        too_long=tuple(
            OverlongRow(example=example, positions=taken)
            for example in examples
            if positions is not None and (taken := positions(example)) > context_length
        ),
        doubts=tuple(
            Doubt(example=example, reason=reason)
            for example in examples
            if not example.is_text
            for reason in doubts_about(example)
        ),
    )


def _answers_that_count(example: Example) -> tuple[str, ...]:
    """What rows with the same prompt must share besides to be repeated or to contradict each other.

    Texts may well open with the same words, and a prompt may have many pairs of answers; the same pair the other way
    round is a contradiction.
    """
    if example.rejected is not None:
        return tuple(sorted((example.output, example.rejected)))
    return (example.output,) if example.is_text else ()


def doubts_about(example: Example) -> list[str]:
    """What looks wrong about a row's texts, each as the end of a sentence that begins with the row."""
    answer = example.output
    whole = "\n".join([example.instruction, example.input, answer])
    found = {
        "has an answer without a letter or digit": not re.search(r"\w", answer),
        "holds a piece of a prompt template": _TEMPLATE.search(whole),
        "holds characters that were decoded wrongly": _DECODED_WRONGLY.search(whole),
        "has an answer that looks like a placeholder": _PLACEHOLDER.search(answer),
        "has an answer that ends in the middle of a sentence": len(answer) >= LONG_ANSWER
        and re.search(r"[\w,]$", answer.rstrip()),
        "has an answer that says the same over and over": _LOOP.search(answer),
        "has its instruction as its answer": normalise(answer) == normalise(example.instruction) and not example.input,
    }
    return [reason for reason, is_so in found.items() if is_so]


# --- putting it right ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A data set put right as far as a program can, and what was done to it."""

    examples: tuple[Example, ...]
    left_out: tuple[Example, ...]
    """Repeated and contradicting rows but the first of each, and rows that are too long."""
    grouped: int
    """Rows that were given a `group`, so that a split does not part them from their twins."""


def fix_examples(examples: Sequence[Example], found: Findings, split: Callable[[Sequence[Example]], Splits]) -> Fixed:
    """Leave out what `found` names, and group near twins until `split` no longer parts any.

    Of a conversation nothing is left out unless all of it is.
    """
    named = [example for group in (*found.duplicates, *found.conflicts) for example in group[1:]]
    flagged = Counter(_place(example) for example in (*named, *(long.example for long in found.too_long)))
    sizes = Counter(_place(example) for example in examples)
    left_out = {place for place in flagged if flagged[place] >= sizes[place]}
    kept = [example for example in examples if _place(example) not in left_out]
    before = {_place(example): example.group for example in kept}
    for _ in range(MOST_ROUNDS):
        twins = _find_twins(split(kept))
        if not twins:
            break
        kept = _grouped(kept, twins)
    return Fixed(
        examples=tuple(kept),
        left_out=tuple(example for example in examples if _place(example) in left_out),
        grouped=len({_place(e) for e in kept if before[_place(e)] != e.group}),
    )


def _grouped(examples: Sequence[Example], twins: Sequence[Twins]) -> list[Example]:
    """The examples with one `group` for every two twins; what had a group before brings it along."""
    group_of = {_place(example): example.group or f"alike {example.where}" for example in examples}
    into: dict[str, str] = {}

    def root(name: str) -> str:
        while name in into:
            name = into[name]
        return name

    joined = set()
    for twin in twins:
        one, other = (root(group_of[_place(example)]) for example in (twin.learnt, twin.held_out))
        joined |= {one, other}
        if one != other:
            into[other] = one
    ends = {root(name) for name in joined}
    return [
        replace(example, group=root(group_of[_place(example)])) if root(group_of[_place(example)]) in ends else example
        for example in examples
    ]


def _place(example: Example) -> tuple[str, int]:
    return example.source, example.row


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
    if found.too_long:
        lines.append(f"Longer than the model's context: {_count(len(found.too_long), 'row')}.")
        long = [f"- {row.example.where}: {row.positions} positions" for row in found.too_long[:SHOWN]]
        lines += long + _more(len(found.too_long))
    if found.doubts:
        lines.append(f"Worth a look: {_count(len(found.doubts), 'row')}.")
        lines += [
            f"- {row.example.where} {row.reason}: {_shown_text(row.example.output)}" for row in found.doubts[:SHOWN]
        ]
        lines += _more(len(found.doubts))
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
        "too_long": [_row(row.example) | {"positions": row.positions} for row in found.too_long],
        "doubts": [_row(row.example) | {"reason": row.reason} for row in found.doubts],
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
    return _shown_text(f"{example.instruction} {example.input}".strip())


def _shown_text(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _describe(twin: Twins) -> str:
    likeness = "" if twin.exact else f" ({twin.similarity:.2f} alike)"
    return f"{twin.part}, {twin.held_out.where}: {twin.learnt_part}, {twin.learnt.where}{likeness}"


def _more(count: int) -> list[str]:
    return [f"- and {count - SHOWN} more"] if count > SHOWN else []
