"""The loss and the log-probabilities of batches, against plain computations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from assistant.dataset.encode import encode_examples, sequences
from assistant.dataset.instructions import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.model.packing import PaddedRows
from assistant.settings import TrainOn
from assistant.training import loss as loss_module
from assistant.training.collate import collate, pad
from assistant.training.loss import UPCAST_LOGITS, log_probabilities, summed_loss
from tests.support.models import requires_loops, tiny_checkpoint
from tests.support.rows import BYTE_EOS, make_row, plain_log_probability, random_ids


@pytest.mark.parametrize("upcast_logits", [UPCAST_LOGITS, 0], ids=["at once", "in parts"])
@pytest.mark.parametrize("train_on", ["response", "all"])
def test_summed_loss_equals_cross_entropy_over_all_positions(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, train_on: TrainOn, upcast_logits: int
) -> None:
    monkeypatch.setattr(loss_module, "UPCAST_LOGITS", upcast_logits)
    model = tiny_checkpoint(byte_tokenizer).model
    rows = []
    for length in (12, 30, 7):
        ids = random_ids(length, seed=length).tolist()
        rows.append(make_row(ids[: length // 2], ids[length // 2 :]))
    loss = summed_loss(model, collate(rows, pad_id=BYTE_EOS, train_on=train_on))
    batch = pad(rows, pad_id=BYTE_EOS, train_on=train_on)
    logits = model.head(model(batch.input_ids))
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="sum")
    assert torch.allclose(loss, expected, rtol=1e-5)
    gradients = [torch.autograd.grad(value, list(model.parameters())) for value in (loss, expected)]
    for gradient, expected_gradient in zip(*gradients, strict=True):
        assert torch.allclose(gradient, expected_gradient, atol=1e-4)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 6)])
@pytest.mark.parametrize("as_tree", [False, pytest.param(True, marks=requires_loops)])
def test_log_probabilities_of_answers_with_the_same_first_words(
    byte_tokenizer: Tokenizer, pairs: list[Example], rows: slice, as_tree: bool
) -> None:
    """The two answers of a single pair share their prompt and their first words, which are computed once."""
    similar = [replace(pair, output=f"Say {pair.output}", rejected=f"Say {pair.rejected}") for pair in pairs]
    checkpoint = tiny_checkpoint(byte_tokenizer)
    encoded = encode_examples(similar[rows], checkpoint.template, byte_tokenizer, max_length=256, as_pairs=True)
    packed = collate(sequences(encoded.rows), pad_id=BYTE_EOS, as_tree=as_tree)
    expected = torch.stack([plain_log_probability(checkpoint.model, row) for row in sequences(encoded.rows)])
    for batch in (packed, pad(sequences(encoded.rows), pad_id=BYTE_EOS)):
        assert torch.allclose(log_probabilities(checkpoint.model, batch), expected, rtol=1e-5)
        assert summed_loss(checkpoint.model, batch).item() == pytest.approx(-expected.sum().item())
    if len(encoded.rows) == 1:
        n_chosen, n_rejected = (len(row.input_ids) - 1 for row in sequences(encoded.rows))
        assert len(packed.input_ids) < n_chosen + n_rejected - encoded.rows[0].prompt_length + 16


def test_log_probabilities_of_a_response_that_starts_inside_another_rows_prompt(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    rows = [make_row(b"Say red. ", b"Red, red."), make_row(b"Say red. Red, ", b"blue.")]
    batch = collate(rows, pad_id=BYTE_EOS)
    assert isinstance(batch.rows, PaddedRows)
    assert batch.rows.n_shared == 14
    expected = torch.stack([plain_log_probability(model, row) for row in rows])
    assert torch.allclose(log_probabilities(model, batch), expected, rtol=1e-5)
