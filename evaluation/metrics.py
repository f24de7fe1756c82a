"""Deterministic metrics: one response against its reference. All from 0 to 100; an empty response gets 0 everywhere."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from assistant.dataset.splits import normalise
from assistant.settings import Frozen

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"[^\W_]+")


class Metrics(Frozen):
    """How near one response comes to its reference."""

    exact: bool
    """The same text, white space at both ends apart."""
    normalised_exact: bool
    """The same but for case, spacing, Unicode forms and end punctuation."""
    f1: float
    """Words in common, as SQuAD counts them."""
    rouge_l: float
    """F1 of the longest common subsequence of words."""
    chrf: float
    """chrF2 of sacrebleu: character n-grams up to six."""


def measure(response: str, reference: str) -> Metrics:
    """All metrics of one response."""
    response, reference = response.strip(), reference.strip()
    if not response:
        return Metrics(exact=False, normalised_exact=False, f1=0.0, rouge_l=0.0, chrf=0.0)
    return Metrics(
        exact=is_exact(response, reference),
        normalised_exact=normalise(response) == normalise(reference),
        f1=token_f1(response, reference),
        rouge_l=rouge_l(response, reference),
        chrf=chrf(response, reference),
    )


def is_exact(response: str, reference: str) -> bool:
    """Whether the two are the same text, white space at both ends apart. Models begin with a line end."""
    return response.strip() == reference.strip()


def token_f1(response: str, reference: str) -> float:
    """SQuAD's F1 over words without punctuation and articles (rajpurkar/SQuAD-explorer, evaluate-v2.0)."""
    ours, theirs = _squad_words(response), _squad_words(reference)
    if not ours or not theirs:  # "." or "?!" has no words to compare
        return 100.0 * is_exact(response, reference)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 200.0 * common / (len(ours) + len(theirs))


def rouge_l(response: str, reference: str) -> float:
    """ROUGE-L's F1 on one sequence of lower-case words; google-research/rouge_score without its stemmer."""
    ours, theirs = _WORD.findall(response.lower()), _WORD.findall(reference.lower())
    if not ours or not theirs:
        return 100.0 * is_exact(response, reference)
    return 200.0 * lcs_length(ours, theirs) / (len(ours) + len(theirs))


def chrf(response: str, reference: str) -> float:
    """chrF2 as sacrebleu computes it by default (white space does not count)."""
    return float(_chrf().sentence_score(response, [reference]).score)


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence; one row of the usual table is one integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everywhere
    return len(first) - row.bit_count()


def _squad_words(text: str) -> list[str]:
    words = text.lower().translate(_PUNCTUATION).split()
    # Where the whole answer is an article, as in multiple choice ("A"), it is a word after all.
    return [word for word in words if word not in _ARTICLES] or words


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
