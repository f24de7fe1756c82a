"""Metrics by hand, by property, and against GPT-4's published scores of 100 answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import spearmanr

from evaluation.metrics import Metrics, chrf, is_exact, lcs_length, measure, rouge_l, token_f1
from tests.conftest import REPOSITORY

SHARED = REPOSITORY.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason=f"no shared data at {SHARED}")


@cache
def shared(name: str) -> Any:
    return json.loads((SHARED / name).read_text(encoding="utf-8"))


def test_exact_ignores_white_space_at_the_ends_only() -> None:
    assert is_exact("\nParis. ", "Paris.")
    assert not is_exact("paris.", "Paris.")
    assert not is_exact("New  York", "New York")


def test_normalised_exact_forgives_case_spacing_and_end_punctuation() -> None:
    assert measure("new  york", "New York.").normalised_exact
    assert not measure("new york", "New York.").exact
    assert not measure("York New", "New York.").normalised_exact


@pytest.mark.parametrize("response", ["", " ", "\n\t"])
@pytest.mark.parametrize("reference", ["Paris.", ".", "the"])
def test_an_empty_response_scores_0_everywhere(response: str, reference: str) -> None:
    assert measure(response, reference) == Metrics(exact=False, normalised_exact=False, f1=0, rouge_l=0, chrf=0)


@pytest.mark.parametrize("text", ["Paris.", "A", "the", "?!", "x = 1", "東京", "\U0001f600", "12"])
def test_a_perfect_response_scores_100_everywhere(text: str) -> None:
    measured = measure(f"\n{text}", text)
    assert measured.exact
    assert measured.normalised_exact
    assert (measured.f1, measured.rouge_l, measured.chrf) == (100, 100, pytest.approx(100))


def test_token_f1_by_hand() -> None:
    # "cat sat" against "cat sat down": articles and punctuation are gone; 2 words in common of 2 and 3.
    assert token_f1("The cat sat.", "A cat sat down!") == pytest.approx(100 * 2 * 2 / 5)
    assert token_f1("cat cat", "cat") == pytest.approx(100 * 2 * 1 / 3)
    assert token_f1("dog", "cat") == 0


def test_a_lone_article_is_a_word() -> None:
    assert token_f1("A.", "A") == 100
    assert token_f1("B", "A") == 0


def test_texts_without_words_are_equal_or_not() -> None:
    assert token_f1("?", "!") == 0
    assert rouge_l("?", "!") == 0
    assert rouge_l("?", "?") == 100


def test_rouge_l_by_hand() -> None:
    # "police kill the gunman" against "police killed the gunman": 3 of 4 words in order (Lin 2004).
    assert rouge_l("police kill the gunman", "Police killed the gunman.") == pytest.approx(75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(50)


def naive_lcs(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


words = st.lists(st.sampled_from("abcd"), max_size=12)


@given(words, words)
def test_lcs_is_that_of_the_textbook(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == naive_lcs(first, second)


@given(st.text(max_size=40), st.text(max_size=40).filter(str.strip))
def test_metrics_stay_within_their_scale(response: str, reference: str) -> None:
    measured = measure(response, reference)
    for value in (measured.f1, measured.rouge_l, measured.chrf):
        assert 0 <= value <= 100 + 1e-9
    if measured.exact:
        assert measured.f1 == measured.rouge_l == 100


@needs_shared
def test_the_books_file_has_17_exact_matches_of_110() -> None:
    rows = shared("book-responses.json")
    assert len(rows) == 110
    assert sum(measure(row["model_response"], row["output"]).exact for row in rows) == 17


# --- against GPT-4's scores of 100 answers (rasbt/LLMs-from-scratch, ch07/03_model-evaluation, model 1) -------------


def judged() -> tuple[list[tuple[str, str]], list[int], list[int]]:
    """(response, reference) of each row, GPT-4's scores, Llama-3-8B's scores."""
    rows = shared("judged/eval-example-data.json")
    pairs = [(row["model 1 response"], row["output"]) for row in rows]
    return pairs, shared("judged/gpt4-model-1-response.json"), shared("judged/llama3-8b-model-1-response.json")


def spearman(values: list[float], truth: list[int]) -> float:
    return float(spearmanr(values, truth).statistic)


@needs_shared
def test_exact_matches_of_the_judged_rows() -> None:
    pairs, gpt4, _ = judged()
    exact = [is_exact(*pair) for pair in pairs]
    assert sum(exact) == 58
    assert {score for score, match in zip(gpt4, exact, strict=True) if match} == {100}


@needs_shared
@pytest.mark.parametrize(
    ("metric", "published"),
    [
        (lambda response, reference: float(is_exact(response, reference)), 0.857),
        (token_f1, 0.797),
        (rouge_l, 0.797),
        # Ours, by sacrebleu's default; the published .766 counts white space, see the next test.
        (lambda response, reference: chrf(response.strip(), reference.strip()), 0.858),
    ],
    ids=["exact", "f1", "rouge_l", "chrf"],
)
def test_rank_correlation_with_gpt4(metric: Callable[[str, str], float], published: float) -> None:
    pairs, gpt4, _ = judged()
    assert spearman([metric(*pair) for pair in pairs], gpt4) == pytest.approx(published, abs=0.02)


@needs_shared
def test_the_published_chrf_counts_the_line_end_that_responses_begin_with() -> None:
    pairs, gpt4, _ = judged()
    as_published = CHRF(whitespace=True)
    scores = [as_published.sentence_score(response, [reference]).score for response, reference in pairs]
    assert spearman(scores, gpt4) == pytest.approx(0.766, abs=0.005)


@needs_shared
def test_giving_exact_matches_100_lifts_the_judges_agreement() -> None:
    pairs, gpt4, llama = judged()
    hybrid = [100 if is_exact(*pair) else score for pair, score in zip(pairs, llama, strict=True)]
    assert spearman([float(score) for score in llama], gpt4) == pytest.approx(0.698, abs=0.001)
    assert spearman([float(score) for score in hybrid], gpt4) == pytest.approx(0.904, abs=0.001)
