"""`classify_review` gives the book's answers, for the book's model and for ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import tiktoken
import torch

from assistant.classifier import classify_review
from assistant.classifier.model_folder import as_classifier
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.checkpoint import Checkpoint
from assistant.model.heads import make_classifier
from tests.conftest import REPOSITORY
from tests.support.models import tiny_checkpoint
from tests.training.test_book import book_model_with_weights_of

TEXTS = [
    "You are a winner you have been specially selected to receive $1000 cash or a $2000 award.",
    "Hey, just wanted to check if we're still on for dinner tonight? Let me know!",
    *("a", "bb" * 40, "Call 0800 now", "ok", "Free entry", "?", "see you", "PRIZE!!!", "Sorry, I'll call later"),
]


def book_classifier(checkpoint: Checkpoint, seed: int) -> torch.nn.Module:
    """The book's classifier with the weights of a language model, and a head with the weights of `seed`."""
    model = book_model_with_weights_of(checkpoint.model)
    torch.manual_seed(seed)
    model.out_head = torch.nn.Linear(checkpoint.config.n_embd, 2)
    return model


@pytest.mark.parametrize("max_length", [12, 64])
def test_the_books_model_gets_the_books_answers(byte_tokenizer: Tokenizer, max_length: int) -> None:
    ch06 = pytest.importorskip("llms_from_scratch.ch06", reason="the book's package is not installed")
    encoding = tiktoken.Encoding(
        "bytes",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([n]): n for n in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    answers = set()
    for seed in range(6):
        model = book_classifier(tiny_checkpoint(byte_tokenizer, seed=seed, n_positions=64), seed)
        for text in TEXTS:
            expected = ch06.classify_review(text, model, encoding, "cpu", max_length=max_length, pad_token_id=256)
            assert classify_review(text, model, encoding, "cpu", max_length=max_length) == expected
            answers.add(expected)
    assert answers == {"spam", "not spam"}


def test_our_classifiers_read_as_in_their_training(byte_tokenizer: Tokenizer) -> None:
    answers = set()
    for seed in range(6):
        checkpoint = make_classifier(tiny_checkpoint(byte_tokenizer, seed=seed), ("not spam", "spam"), seed=seed)
        assert checkpoint.classifier is not None
        for padded in (False, True):
            changes = {"reading": "padded", "max_length": 100} if padded else {}
            record = checkpoint.classifier.model_copy(update=changes)
            classifier = as_classifier(replace(checkpoint, classifier=record))
            for text in TEXTS:
                ids = byte_tokenizer.encode(text)
                ids += [byte_tokenizer.pad_id] * (100 - len(ids)) if padded else []
                with torch.inference_mode():
                    label = int(classifier.model.head(classifier.model(torch.tensor([ids]))[0, -1]).argmax())
                expected = ("not spam", "spam")[label]
                for model in (classifier, classifier.model):
                    assert classify_review(text, model, classifier.tokenizer, "cpu") == expected
                assert classify_review(text, classifier.model, classifier.tokenizer, "cpu", max_length=100) == expected
                answers.add(expected)
    assert answers == {"spam", "not spam"}


def test_an_empty_text_is_an_error_where_nothing_pads_it(untrained: Checkpoint) -> None:
    with pytest.raises(ValueError, match="expected a text with at least one character"):
        classify_review("", untrained.model, untrained.tokenizer, "cpu")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, assistant.classifier; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
