"""Deterministic metrics that compare one response with its reference.

All metrics go from 0 to 100, and an empty response gets 0 in all of them. Does not know where the texts come from.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from assistant.dataset.splits import normalise
from assistant.exact_match import is_exact
from assistant.settings import Frozen

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"[^\W_]+")


class Metrics(Frozen):
    """How close one response is to its reference."""

    exact: bool
    """Both texts are equal, apart from white space at both ends."""
    normalised_exact: bool
    """Both texts are equal, apart from case, spacing, Unicode forms and final punctuation."""
    f1: float
    """F1 of the words in common, as SQuAD counts them."""
    rouge_l: float
    """F1 of the longest common subsequence of words."""
    chrf: float
    """sacrebleu's chrF2: character n-grams up to six."""


def measure(response: str, reference: str) -> Metrics:
    """Compute all metrics of one response."""
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


def token_f1(response: str, reference: str) -> float:
    """SQuAD's F1 over words without punctuation and articles (rajpurkar/SQuAD-explorer, evaluate-v2.0)."""
    response_words, reference_words = _squad_words(response), _squad_words(reference)
    if not response_words or not reference_words:  # A text such as "?!" has no words to compare.
        return 100.0 * is_exact(response, reference)
    n_common = sum((Counter(response_words) & Counter(reference_words)).values())
    return 200.0 * n_common / (len(response_words) + len(reference_words))


def rouge_l(response: str, reference: str) -> float:
    """ROUGE-L's F1 over lower-case words, as google-research/rouge_score computes it without its stemmer."""
    response_words, reference_words = _WORD.findall(response.lower()), _WORD.findall(reference.lower())
    if not response_words or not reference_words:
        return 100.0 * is_exact(response, reference)
    return 200.0 * lcs_length(response_words, reference_words) / (len(response_words) + len(reference_words))


def chrf(response: str, reference: str) -> float:
    """chrF2 with sacrebleu's defaults, which ignore white space."""
    letters = "".join(response.split())
    if letters and letters == "".join(reference.split()):
        return 100.0  # as sacrebleu says after counting
    return float(_chrf().sentence_score(response, [reference]).score)


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    The bits of one integer hold a row of the dynamic programming table (Hyyrö 2004).
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    all_bits = (1 << len(first)) - 1
    row = all_bits
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & all_bits
    return len(first) - row.bit_count()


def _squad_words(text: str) -> list[str]:
    words = text.lower().translate(_PUNCTUATION).split()
    # If the whole answer is an article, as in multiple choice ("A"), keep it.
    return [word for word in words if word not in _ARTICLES] or words


@cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
