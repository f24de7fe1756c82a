"""Metrics: worked examples, properties, and agreement with GPT-4's published scores of 100 answers."""

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

from assistant.exact_match import is_exact
from evaluation.answers.metrics import Metrics, chrf, lcs_length, measure, rouge_l, token_f1
from tests.conftest import shared_file


@cache
def read_shared(name: str) -> Any:
    return json.loads(shared_file(f"data/{name}").read_text(encoding="utf-8"))


def test_exact_ignores_white_space_only_at_the_ends() -> None:
    assert is_exact("\nParis. ", "Paris.")
    assert not is_exact("paris.", "Paris.")
    assert not is_exact("New  York", "New York")


def test_normalised_exact_ignores_case_spacing_and_final_punctuation() -> None:
    assert measure("new  york", "New York.").normalised_exact
    assert not measure("new york", "New York.").exact
    assert not measure("York New", "New York.").normalised_exact


@pytest.mark.parametrize("response", ["", " ", "\n\t"])
@pytest.mark.parametrize("reference", ["Paris.", ".", "the"])
def test_empty_response_gets_0_in_all_metrics(response: str, reference: str) -> None:
    assert measure(response, reference) == Metrics(exact=False, normalised_exact=False, f1=0, rouge_l=0, chrf=0)


@pytest.mark.parametrize("text", ["Paris.", "A", "the", "?!", "x = 1", "東京", "\U0001f600", "12"])
def test_perfect_response_gets_100_in_all_metrics(text: str) -> None:
    metrics = measure(f"\n{text}", text)
    assert metrics.exact
    assert metrics.normalised_exact
    assert metrics.f1 == metrics.rouge_l == 100
    assert metrics.chrf == pytest.approx(100)


def test_token_f1_of_worked_examples() -> None:
    # "cat sat" and "cat sat down", without articles and punctuation: 2 words in common, of 2 and 3.
    assert token_f1("The cat sat.", "A cat sat down!") == pytest.approx(100 * 2 * 2 / 5)
    assert token_f1("cat cat", "cat") == pytest.approx(100 * 2 * 1 / 3)
    assert token_f1("dog", "cat") == 0


def test_article_that_is_the_whole_answer_is_a_word() -> None:
    assert token_f1("A.", "A") == 100
    assert token_f1("B", "A") == 0


def test_texts_without_words_get_0_or_100() -> None:
    assert token_f1("?", "!") == 0
    assert rouge_l("?", "!") == 0
    assert rouge_l("?", "?") == 100


def test_rouge_l_of_worked_examples() -> None:
    # "police kill the gunman" and "police killed the gunman": 3 of 4 words in order (Lin 2004).
    assert rouge_l("police kill the gunman", "Police killed the gunman.") == pytest.approx(75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(50)


def textbook_lcs(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


words = st.lists(st.sampled_from("abcd"), max_size=12)


@given(words, words)
def test_lcs_length_equals_the_textbook_algorithm(first: list[str], second: list[str]) -> None:
    assert lcs_length(first, second) == textbook_lcs(first, second)


@given(st.text(max_size=40), st.text(max_size=40).filter(str.strip))
def test_metrics_stay_within_0_and_100(response: str, reference: str) -> None:
    metrics = measure(response, reference)
    for value in (metrics.f1, metrics.rouge_l, metrics.chrf):
        assert 0 <= value <= 100 + 1e-9
    if metrics.exact:
        assert metrics.f1 == metrics.rouge_l == 100


def test_book_responses_have_17_exact_matches_of_110() -> None:
    rows = read_shared("book-responses.json")
    assert len(rows) == 110
    assert sum(measure(row["model_response"], row["output"]).exact for row in rows) == 17


# --- agreement with GPT-4 on 100 answers (rasbt/LLMs-from-scratch, ch07/03_model-evaluation, model 1) ---------------


def judged_answers() -> tuple[list[tuple[str, str]], list[int], list[int]]:
    """Return pairs of response and reference, GPT-4's scores, and Llama-3-8B's scores."""
    rows = read_shared("judged/eval-example-data.json")
    pairs = [(row["model 1 response"], row["output"]) for row in rows]
    gpt4_scores = read_shared("judged/gpt4-model-1-response.json")
    llama_scores = read_shared("judged/llama3-8b-model-1-response.json")
    return pairs, gpt4_scores, llama_scores


def rank_correlation(values: list[float], gpt4_scores: list[int]) -> float:
    return float(spearmanr(values, gpt4_scores).statistic)


def test_gpt4_gives_100_to_all_exact_matches() -> None:
    pairs, gpt4_scores, _ = judged_answers()
    exact = [is_exact(*pair) for pair in pairs]
    assert sum(exact) == 58
    assert {score for score, match in zip(gpt4_scores, exact, strict=True) if match} == {100}


@pytest.mark.parametrize(
    ("metric", "published"),
    [
        (lambda response, reference: float(is_exact(response, reference)), 0.857),
        (token_f1, 0.797),
        (rouge_l, 0.797),
        # With sacrebleu's defaults. The published .766 counts white space; see the next test.
        (lambda response, reference: chrf(response.strip(), reference.strip()), 0.858),
    ],
    ids=["exact", "f1", "rouge_l", "chrf"],
)
def test_rank_correlation_with_gpt4_is_as_published(metric: Callable[[str, str], float], published: float) -> None:
    pairs, gpt4_scores, _ = judged_answers()
    assert rank_correlation([metric(*pair) for pair in pairs], gpt4_scores) == pytest.approx(published, abs=0.02)


def test_published_chrf_counts_the_line_end_at_the_start_of_responses() -> None:
    pairs, gpt4_scores, _ = judged_answers()
    published_chrf = CHRF(whitespace=True)
    scores = [published_chrf.sentence_score(response, [reference]).score for response, reference in pairs]
    assert rank_correlation(scores, gpt4_scores) == pytest.approx(0.766, abs=0.005)


def test_scoring_exact_matches_100_raises_the_judges_agreement() -> None:
    pairs, gpt4_scores, llama_scores = judged_answers()
    hybrid = [100 if is_exact(*pair) else score for pair, score in zip(pairs, llama_scores, strict=True)]
    assert rank_correlation([float(score) for score in llama_scores], gpt4_scores) == pytest.approx(0.698, abs=0.001)
    assert rank_correlation([float(score) for score in hybrid], gpt4_scores) == pytest.approx(0.904, abs=0.001)
