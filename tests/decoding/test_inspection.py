"""The look at an answer's tokens, against transformers, scipy, and the log-probabilities of generation."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding import inspection
from assistant.decoding.session import Session
from assistant.errors import ContextError, SettingsError
from assistant.settings import GenerationSettings
from tests.support.generation import GREEDY, SAMPLED
from tests.support.models import save_tiny, tiny_checkpoint


@pytest.fixture
def session(byte_tokenizer: Tokenizer) -> Session:
    return Session(tiny_checkpoint(byte_tokenizer), precision="float32")


@pytest.mark.parametrize(("chunk_tokens", "prompt_length"), [(1, 40), (7, 130), (96, 1), (96, 130)])
def test_every_number_equals_that_of_transformers(
    tmp_path: Path,
    byte_tokenizer: Tokenizer,
    chunk_tokens: int,
    prompt_length: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(inspection, "CHUNK_TOKENS", chunk_tokens)
    folder = save_tiny(tmp_path / "model", byte_tokenizer, seed=5)
    draw = random.Random(prompt_length)
    prompt = [draw.randrange(256) for _ in range(prompt_length)]
    answer = [draw.randrange(256) for _ in range(30)]
    reference = GPT2LMHeadModel.from_pretrained(folder).eval()
    targets = [*answer, byte_tokenizer.eos_id]
    with torch.inference_mode():
        logits = reference(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :]
    logprobs = logits.double().log_softmax(dim=-1).numpy()
    session = Session.load(folder, precision="float32")
    session.reply("Fills the prefix cache.", settings=GREEDY)
    for _ in range(2):  # the second time, the prompt is in the cache
        found = session.inspect(prompt, answer, count=4, with_eos=True)
        assert [token.token_id for token in found] == targets
        for token, expected in zip(found, logprobs, strict=True):
            assert token.text == byte_tokenizer.decode([token.token_id])
            assert token.logprob == pytest.approx(expected[token.token_id], abs=1e-4)
            assert token.entropy == pytest.approx(entropy(np.exp(expected), base=2), abs=1e-4)
            order = np.argsort(-expected, kind="stable")
            assert token.rank == 1 + order.tolist().index(token.token_id)
            assert [top.token_id for top in token.likeliest] == order[:4].tolist()
            for top in token.likeliest:
                assert top.logprob == pytest.approx(expected[top.token_id], abs=1e-4)
                assert top.text == byte_tokenizer.decode([top.token_id])
    assert [token.token_id for token in session.inspect(prompt, answer, with_eos=False)] == answer


def test_it_equals_the_logprobs_of_the_reply_itself(session: Session) -> None:
    """Also those of sampling with penalty and filters: both are the model's own probabilities."""
    settings = SAMPLED.model_copy(update={"logprobs": 5, "repetition_penalty": 1.3, "temperature": 0.7})
    reply = session.reply("Say hi.", settings=settings)
    assert reply.logprobs is not None
    found = session.inspect(reply.prompt_token_ids, reply.token_ids, with_eos=reply.stop_reason == "eos")
    assert len(found) == len(reply.logprobs)
    for token, generated in zip(found, reply.logprobs, strict=True):
        assert (token.token_id, token.text) == (generated.token_id, generated.text)
        assert token.logprob == pytest.approx(generated.logprob, abs=1e-4)
        assert [top.token_id for top in token.likeliest] == [top.token_id for top in generated.likeliest]


def test_the_next_reply_is_as_without_it(byte_tokenizer: Tokenizer) -> None:
    plain, looked = (Session(tiny_checkpoint(byte_tokenizer), precision="float32") for _ in range(2))
    for number in range(4):
        expected = plain.reply(f"Say {number}.", settings=SAMPLED)
        found = looked.reply(f"Say {number}.", settings=SAMPLED)
        assert found.token_ids == expected.token_ids
        looked.inspect(found.prompt_token_ids, found.token_ids, with_eos=True)
        looked.inspect(found.prompt_token_ids[:10], [1, 2, 3], with_eos=False)


def test_equal_probabilities_are_ranked_by_id(byte_tokenizer: Tokenizer) -> None:
    checkpoint = tiny_checkpoint(byte_tokenizer)
    with torch.no_grad():
        for weight in checkpoint.model.parameters():
            weight.zero_()
    session = Session(checkpoint, precision="float32")
    found = session.inspect([1], [0, 3, 256], count=3, with_eos=False)
    assert [token.rank for token in found] == [1, 4, 257]
    for token in found:
        assert [top.token_id for top in token.likeliest] == [0, 1, 2]
        assert token.entropy == pytest.approx(np.log2(257), abs=1e-5)


def test_of_several_tokens_that_end_a_reply_the_likeliest_is_shown(byte_tokenizer: Tokenizer) -> None:
    from dataclasses import replace

    checkpoint = tiny_checkpoint(byte_tokenizer)
    ending = replace(byte_tokenizer, eos_ids=(256, 10, 13))
    session = Session(replace(checkpoint, tokenizer=ending), precision="float32")
    everything = session.inspect([1, 2], [3], count=257, with_eos=True)
    (_, last) = everything
    assert last.token_id == next(top.token_id for top in last.likeliest if top.token_id in ending.eos_ids)


def test_what_does_not_fit_is_an_error(session: Session) -> None:
    assert session.inspect([1], [], with_eos=False) == []
    assert len(session.inspect([1], [], with_eos=True)) == 1
    assert len(session.inspect([1] * 200, [2] * 56, with_eos=True)) == 57
    for prompt, answer in (([1] * 200, [2] * 57), ([], [2])):
        with pytest.raises(ContextError, match="at most 256 tokens together"):
            session.inspect(prompt, answer, with_eos=False)
    with pytest.raises(SettingsError, match="token_ids: expected ids from 0 to 256, got 999"):
        session.inspect([1], [999], with_eos=False)
    assert session.inspect([1], [2], count=0, with_eos=False)[0].likeliest == ()
    assert session.reply("Still here?", settings=GenerationSettings(max_new_tokens=2)).token_ids
