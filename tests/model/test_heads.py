"""A new head makes a classifier of a language model."""

from __future__ import annotations

import pytest
import torch

from assistant.dataset.tokenizer import Tokenizer
from assistant.errors import SettingsError
from assistant.model.gpt import GPTClassifier
from assistant.model.heads import make_classifier
from tests.support.models import tiny_checkpoint

LABELS = ("a", "b", "c")


def test_only_the_head_is_new(byte_tokenizer: Tokenizer) -> None:
    base = tiny_checkpoint(byte_tokenizer, n_embd=256)
    made = make_classifier(base, LABELS, seed=1)
    assert isinstance(made.model, GPTClassifier)
    assert made.model.labels == LABELS
    before, after = base.model.state_dict(), made.model.state_dict()
    assert after.keys() == before.keys() - {"lm_head.weight"} | {"score.weight"}
    assert all(torch.equal(before[name], value) for name, value in after.items() if name != "score.weight")
    assert after["score.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert made.template.name == "text"
    again, other = (make_classifier(base, LABELS, seed=seed).model.state_dict()["score.weight"] for seed in (1, 2))
    assert torch.equal(again, after["score.weight"])
    assert not torch.equal(other, again)


def test_a_head_with_these_labels_stays(byte_tokenizer: Tokenizer) -> None:
    made = make_classifier(tiny_checkpoint(byte_tokenizer), LABELS, seed=1)
    assert make_classifier(made, LABELS, seed=2) is made
    assert make_classifier(made, LABELS[::-1], seed=2).model is not made.model


def test_only_the_book_has_a_bias(byte_tokenizer: Tokenizer) -> None:
    for as_in_book in (False, True):
        made = make_classifier(tiny_checkpoint(byte_tokenizer), LABELS, seed=1, as_in_book=as_in_book)
        assert ("score.bias" in made.model.state_dict()) is as_in_book
        assert made.classifier is not None
        assert made.classifier.has_bias is as_in_book


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "a")])
def test_fewer_than_two_different_labels_are_refused(byte_tokenizer: Tokenizer, labels: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="labels: expected two or more different ones"):
        make_classifier(tiny_checkpoint(byte_tokenizer), labels, seed=1)


def test_making_a_head_leaves_the_global_generator_as_it_was(byte_tokenizer: Tokenizer) -> None:
    base = tiny_checkpoint(byte_tokenizer)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_classifier(base, LABELS, seed=1, as_in_book=True)
    assert torch.equal(torch.rand(3), expected)
