"""Labelled texts as rows of token ids, for a classifier. A labelled text is an `Example`: the text is its instruction,
the label its output.

Does not know about files, tensors or batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from assistant.dataset.encode import EncodedExample, EncodedRows
from assistant.dataset.examples import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import DataError

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the different labels in the order of a classifier's outputs: sorted, or by value if all are integers."""
    labels = set(names)
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def encode_text(text: str, tokenizer: Tokenizer, *, max_length: int) -> tuple[tuple[int, ...], bool]:
    """Return the ids of a text without a template and without EOS, at most `max_length`, and whether it was cut."""
    ids = tuple(tokenizer.encode(text))
    return ids[:max_length], len(ids) > max_length


def encode_labelled(
    examples: Sequence[Example], labels: Sequence[str], tokenizer: Tokenizer, *, max_length: int
) -> EncodedRows:
    """Encode labelled texts. The end of a text with more than `max_length` tokens is cut; `truncated` has the example.

    Raises:
        DataError: `problems` names every text without a token, and every label that is not among `labels`.
    """
    index_of = {label: index for index, label in enumerate(labels)}
    rows: list[EncodedExample] = []
    truncated: list[Example] = []
    problems: list[str] = []
    for example in examples:
        ids, was_cut = encode_text(example.instruction, tokenizer, max_length=max_length)
        if not ids:
            problems.append(f"{example.where}: expected a text, got an empty one.")
            continue
        if example.output not in index_of:
            known = f"{', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}"
            problems.append(f"{example.where}: expected one of the labels {known}, got {example.output[:60]!r}.")
            continue
        if was_cut:
            truncated.append(example)
        label = index_of[example.output]
        rows.append(EncodedExample(input_ids=ids, prompt_length=len(ids), example=example, label=label))
    if problems:
        raise DataError(problems, advice="Correct these rows, or leave them out.")
    return EncodedRows(rows=tuple(rows), truncated=tuple(truncated), dropped=())
