"""Checks a whole data set for duplicates, conflicting answers, leaks across the split, and suspicious rows.

`instructions` validates single rows when it reads them. A suspicious row only looks wrong, so it does not fail a check.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assistant.dataset.instructions import Example
from assistant.dataset.splits import Splits, normalise, prompt_key

MIN_SIMILARITY = 0.8
"""Prompts are nearly the same from this similarity on: the Jaccard index of their word 4-grams."""
GRAM_LENGTH = 4
MAX_SHOWN, MAX_SHOWN_CHARACTERS = 10, 60
LONG_ANSWER = 120
"""An answer with at least this many characters should end like a sentence."""
MAX_ROUNDS = 10
"""Limit of splits that `fix_examples` tries."""
_TEMPLATE_MARKER = re.compile(
    r"### (Instruction|Input|Response):|<\|(endoftext|user|assistant|system|im_start|im_end|end)\|>|\[/?INST\]"
)
_MOJIBAKE = re.compile(r"\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")
"""The replacement character, or UTF-8 that was decoded as Latin-1 or Windows-1252."""
_PLACEHOLDER = re.compile(
    r"^\W*(todo|tbd|n/?a|none|null|nan|xxx+|lorem ipsum\b.*)\W*$|\[(insert|your|name|date)\b[^\]]*\]", re.I | re.S
)
_REPETITION = re.compile(r"(\b\w+\b\W+(?:\w+\W+){2,9}?)\1{3,}")
"""Three to ten words that occur four times in a row."""
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """A held-out row whose prompt is the same, or nearly the same, as the prompt of a row in an earlier part."""

    held_out: Example
    part: str
    """The part of `held_out`, `validation` or `test`."""
    twin: Example
    twin_part: str
    """The part of `twin`, `train` or `validation`."""
    similarity: float
    """At least `MIN_SIMILARITY`, or any value if `exact`."""
    exact: bool
    """Whether the normalised prompts are equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlongRow:
    """A row that needs more positions than the model has."""

    example: Example
    positions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspiciousRow:
    """A row that looks wrong but may be right."""

    example: Example
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The result of a check. Each group holds examples with the same normalised prompt."""

    n_rows: int
    part_sizes: dict[str, int]
    duplicates: tuple[tuple[Example, ...], ...]
    """Groups with the same prompt and the same answer."""
    conflicts: tuple[tuple[Example, ...], ...]
    """Groups with the same prompt and different answers."""
    leaks: tuple[Leak, ...]
    """At most one for each held-out row, with its most similar twin."""
    too_long: tuple[OverlongRow, ...]
    suspicious: tuple[SuspiciousRow, ...]
    plain_text: tuple[Example, ...] = ()
    """Rows of plain text, if the template is for instructions."""
    without_output: tuple[Example, ...] = ()
    """Rows that are for evaluation only. They do not fail the check, but fine-tuning refuses them."""

    @property
    def is_clean(self) -> bool:
        """Whether the check passes. Suspicious rows do not fail it."""
        return not (self.duplicates or self.conflicts or self.leaks or self.too_long or self.plain_text)


def check_examples(
    examples: Sequence[Example],
    splits: Splits,
    *,
    positions: Callable[[Example], int] | None = None,
    context_length: int = 0,
    allow_text: bool = True,
) -> Findings:
    """Find duplicate, conflicting, leaking, overlong and suspicious rows.

    A row leaks from `test` to `train` or `validation`, or from `validation` to `train`. `positions` returns how many
    positions a row needs; without it, no row is too long. A row is too long above `context_length` positions. Without
    `allow_text`, rows of plain text are findings, because fine-tuning refuses them.
    """
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        groups[prompt_key(example) + _answer_key(example)].append(example)
    repeated = [tuple(group) for group in groups.values() if len(group) > 1]
    conflicts = [group for group in repeated if len({normalise(example.output) for example in group}) > 1]
    return Findings(
        n_rows=len(examples),
        part_sizes={part: len(splits.part(part)) for part in PARTS},
        duplicates=tuple(group for group in repeated if group not in conflicts),
        conflicts=tuple(conflicts),
        leaks=tuple(_find_leaks(splits)),
        too_long=tuple(
            OverlongRow(example=example, positions=n_positions)
            for example in examples
            if positions is not None and (n_positions := positions(example)) > context_length
        ),
        suspicious=tuple(
            SuspiciousRow(example=example, reason=reason)
            for example in examples
            if not example.is_text and not example.is_reference_free
            for reason in suspicious_traits(example)
        ),
        plain_text=() if allow_text else tuple(example for example in examples if example.is_text),
        without_output=tuple(example for example in examples if example.is_reference_free),
    )


def _answer_key(example: Example) -> tuple[str, ...]:
    """Return the answers that two rows must share, besides the prompt, to be duplicates or in conflict.

    Different plain texts may start with the same words, and a prompt may have many pairs of answers. Two preferences
    with the same pair in opposite order are in conflict.
    """
    if example.rejected is not None:
        return tuple(sorted((example.output, example.rejected)))
    return (example.output,) if example.is_text else ()


def suspicious_traits(example: Example) -> list[str]:
    """Return what looks wrong in a row. Each trait continues a sentence that starts with the row."""
    answer = example.output
    texts = "\n".join([example.instruction, example.input, answer])
    traits = {
        "has an answer without a letter or digit": not re.search(r"\w", answer),
        "contains a part of a prompt template": _TEMPLATE_MARKER.search(texts),
        "contains wrongly decoded characters": _MOJIBAKE.search(texts),
        "has an answer that looks like a placeholder": _PLACEHOLDER.search(answer),
        "has an answer that ends in the middle of a sentence": len(answer) >= LONG_ANSWER
        and re.search(r"[\w,]$", answer.rstrip()),
        "has an answer that repeats itself": _REPETITION.search(answer),
        "has its instruction as its answer": normalise(answer) == normalise(example.instruction) and not example.input,
    }
    return [trait for trait, present in traits.items() if present]


# --- fixing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A data set without the faults that a program can fix, and the changes to it."""

    examples: tuple[Example, ...]
    left_out: tuple[Example, ...]
    """Duplicate and conflicting rows except for the first of each group, and rows that are too long."""
    grouped: int
    """Number of rows with a new `group`, which keeps them in the same split as their twins."""


def fix_examples(
    examples: Sequence[Example], findings: Findings, split: Callable[[Sequence[Example]], Splits]
) -> Fixed:
    """Remove the rows that `findings` names, then group near-duplicates until `split` leaks none.

    A conversation is removed only if all of its exchanges are at fault.
    """
    extra = [example for group in (*findings.duplicates, *findings.conflicts) for example in group[1:]]
    n_faults = Counter(_origin(example) for example in (*extra, *(row.example for row in findings.too_long)))
    n_exchanges = Counter(_origin(example) for example in examples)
    removed = {origin for origin in n_faults if n_faults[origin] >= n_exchanges[origin]}
    remaining = [example for example in examples if _origin(example) not in removed]
    old_groups = {_origin(example): example.group for example in remaining}
    for _ in range(MAX_ROUNDS):
        leaks = _find_leaks(split(remaining))
        if not leaks:
            break
        remaining = _group_twins(remaining, leaks)
    return Fixed(
        examples=tuple(remaining),
        left_out=tuple(example for example in examples if _origin(example) in removed),
        grouped=len({_origin(example) for example in remaining if old_groups[_origin(example)] != example.group}),
    )


def _group_twins(examples: Sequence[Example], leaks: Sequence[Leak]) -> list[Example]:
    """Give the two rows of every leak the same `group`. Their old groups are merged as a whole."""
    group_of = {_origin(example): example.group or f"alike {example.where}" for example in examples}
    merged_into: dict[str, str] = {}

    def root(group: str) -> str:
        while group in merged_into:
            group = merged_into[group]
        return group

    affected = set()
    for leak in leaks:
        twin_root, held_out_root = (root(group_of[_origin(example)]) for example in (leak.twin, leak.held_out))
        affected |= {twin_root, held_out_root}
        if twin_root != held_out_root:
            merged_into[held_out_root] = twin_root
    affected_roots = {root(group) for group in affected}
    regrouped = []
    for example in examples:
        group = root(group_of[_origin(example)])
        regrouped.append(replace(example, group=group) if group in affected_roots else example)
    return regrouped


def _origin(example: Example) -> tuple[str, int]:
    return example.source, example.row


# --- leaks --------------------------------------------------------------------------------------------------------


def _find_leaks(splits: Splits) -> list[Leak]:
    leaks = []
    for part, earlier_parts in (("validation", ("train",)), ("test", ("train", "validation"))):
        index = _GramIndex([(name, example) for name in earlier_parts for example in splits.part(name)])
        for example in splits.part(part):
            nearest = index.nearest(example)
            if nearest is None:
                continue
            similarity, exact, twin_part, twin = nearest
            if exact or similarity >= MIN_SIMILARITY:
                leaks.append(
                    Leak(
                        held_out=example,
                        part=part,
                        twin=twin,
                        twin_part=twin_part,
                        similarity=round(similarity, 3),
                        exact=exact,
                    )
                )
    return leaks


class _GramIndex:
    """An inverted index from word 4-grams to the examples that contain them."""

    def __init__(self, entries: Sequence[tuple[str, Example]]) -> None:
        self._entries = entries
        self._grams = [prompt_grams(example) for _, example in entries]
        self._postings: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, grams in enumerate(self._grams):
            for gram in grams:
                self._postings[gram].append(number)

    def nearest(self, example: Example) -> tuple[float, bool, str, Example] | None:
        """Return the most similar entry: its similarity, whether the prompts are equal, its part and its example.

        None if no entry shares a 4-gram. If entries are equally similar, an equal prompt wins, then the first entry.
        """
        grams, key = prompt_grams(example), prompt_key(example)
        n_shared = Counter(number for gram in grams for number in self._postings.get(gram, ()))
        if not n_shared:
            return None
        similarity, is_equal, number = max(
            (n / (len(grams) + len(self._grams[number]) - n), prompt_key(self._entries[number][1]) == key, -number)
            for number, n in n_shared.items()
        )
        return similarity, is_equal, *self._entries[-number]


def prompt_grams(example: Example) -> frozenset[tuple[str, ...]]:
    """Return the word 4-grams of a prompt, in lower case without punctuation. A shorter prompt is one gram."""
    texts = [text for turn in example.history for text in turn] + [example.instruction, example.input]
    words = re.findall(r"\w+", " ".join(texts).lower())
    return frozenset(tuple(words[i : i + GRAM_LENGTH]) for i in range(max(1, len(words) - GRAM_LENGTH + 1)))


# --- output -------------------------------------------------------------------------------------------------------


def describe_findings(findings: Findings) -> list[str]:
    """Return the findings as lines of text. They quote the data, so escape them before you print them."""
    parts = ", ".join(f"{part} {size}" for part, size in findings.part_sizes.items())
    lines = [f"{_count(findings.n_rows, 'row')}: {parts}."]
    for answers, groups in (("the same answer", findings.duplicates), ("different answers", findings.conflicts)):
        n_rows = sum(len(group) for group in groups)
        heading = f"The same prompt with {answers}: {_count(len(groups), 'group')}, {n_rows} rows."
        lines += _section(heading, [f"{_describe_rows(group)}: {_excerpt(_prompt(group[0]))}" for group in groups])
    rows = {
        "Leaks across the split, the same prompt": [_describe_leak(leak) for leak in findings.leaks if leak.exact],
        "Leaks across the split, a similar prompt": [_describe_leak(leak) for leak in findings.leaks if not leak.exact],
        "Longer than the model's context": [f"{r.example.where}: {r.positions} positions" for r in findings.too_long],
        "Plain text; check and train it with --template text": [example.where for example in findings.plain_text],
        "Without an output, so for evaluation only": [example.where for example in findings.without_output],
        "Suspicious, please check": [
            f"{row.example.where} {row.reason}: {_excerpt(row.example.output)}" for row in findings.suspicious
        ],
    }
    for heading, items in rows.items():
        lines += _section(f"{heading}: {_count(len(items), 'row')}.", items)
    if findings.is_clean:
        lines.append("No duplicate prompts, no conflicting answers, no leaks across the split.")
    return lines


def _section(heading: str, items: Sequence[str]) -> list[str]:
    """Return a heading and a list of the first `MAX_SHOWN` items. Nothing if there are no items."""
    if not items:
        return []
    more = [f"- and {len(items) - MAX_SHOWN} more"] if len(items) > MAX_SHOWN else []
    return [heading, *(f"- {item}" for item in items[:MAX_SHOWN]), *more]


def findings_as_json(findings: Findings) -> dict[str, Any]:
    """Return the findings for scripts. They name every row by its file and number."""

    def groups(examples: Sequence[Sequence[Example]]) -> list[list[dict[str, Any]]]:
        return [[_origin_as_json(example) for example in group] for group in examples]

    twins = [
        {
            "part": leak.part,
            "row": _origin_as_json(leak.held_out),
            "twin_part": leak.twin_part,
            "twin": _origin_as_json(leak.twin),
            "similarity": leak.similarity,
            "exact": leak.exact,
        }
        for leak in findings.leaks
    ]
    return {
        "rows": findings.n_rows,
        "parts": findings.part_sizes,
        "duplicates": groups(findings.duplicates),
        "conflicts": groups(findings.conflicts),
        "twins": twins,
        "too_long": [_origin_as_json(row.example) | {"positions": row.positions} for row in findings.too_long],
        "plain_text": [_origin_as_json(example) for example in findings.plain_text],
        "without_output": [_origin_as_json(example) for example in findings.without_output],
        "doubts": [_origin_as_json(row.example) | {"reason": row.reason} for row in findings.suspicious],
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _origin_as_json(example: Example) -> dict[str, Any]:
    return {"file": example.source, "row": example.row}


def _describe_rows(group: Sequence[Example]) -> str:
    """Return where a group's rows are, as `file, rows 1, 2`."""
    numbers: dict[str, list[str]] = {}
    for example in group:
        numbers.setdefault(example.source, []).append(str(example.row))
    return "; ".join(f"{source}, rows {', '.join(rows)}" for source, rows in numbers.items())


def _prompt(example: Example) -> str:
    return f"{example.instruction} {example.input}".strip()


def _excerpt(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


def _describe_leak(leak: Leak) -> str:
    similarity = "" if leak.exact else f" (similarity {leak.similarity:.2f})"
    return f"{leak.part}, {leak.held_out.where}: {leak.twin_part}, {leak.twin.where}{similarity}"
