"""Log-probabilities of given texts after prompts, against transformers and against a plain forward pass."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from assistant.dataset.examples import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding import continuations
from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine
from assistant.decoding.session import Session
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from tests.support.generation import GREEDY, by_index, random_prompts
from tests.support.models import save_tiny, tiny_checkpoint


def plain_logprob(model: GPT, prompt: list[int], continuation: list[int]) -> float:
    with torch.inference_mode():
        log_probabilities = model.head(model(torch.tensor([[*prompt, *continuation[:-1]]])))[0].log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(continuation) - 1)
    return sum(log_probabilities[place, id_].item() for place, id_ in zip(places, continuation, strict=True))


@pytest.mark.parametrize("chunk_tokens", [1, 5, 128])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_engine_reports_every_continuation_and_answers_as_without(
    byte_tokenizer: Tokenizer, chunk_tokens: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuations, "CHUNK_TOKENS", chunk_tokens)
    model = tiny_checkpoint(byte_tokenizer).model
    shared = [7, 8, 9, 10]
    prompts = [[*shared, *prompt] for prompt in random_prompts(9, 40)]
    draw = random.Random(3)
    given = [[draw.randrange(256) for _ in range(1 + 7 * place)] for place in range(len(prompts))]
    found: dict[int, float] = {}
    engine = Engine(Decoder(model, plain=True), eos_id=300)
    options = {"batch_size": batch_size, "continuations": given, "on_scored": found.__setitem__}
    generated = by_index(engine.generate(prompts, GREEDY, **options))  # type: ignore[arg-type]
    plain = by_index(Engine(Decoder(model, plain=True), eos_id=300).generate(prompts, GREEDY))
    assert [g.token_ids for g in generated] == [g.token_ids for g in plain]
    assert sorted(found) == list(range(len(prompts)))
    for place, (prompt, continuation) in enumerate(zip(prompts, given, strict=True)):
        assert found[place] == pytest.approx(plain_logprob(model, prompt, continuation), abs=1e-3, rel=1e-5)


def test_a_single_prompt_and_its_prefix_cache(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer).model
    engine = Engine(Decoder(model, plain=True), eos_id=300)
    found: dict[int, float] = {}
    for prompt in ([1, 2, 3, 4, 5], [1, 2, 3, 9]):
        (generated,) = engine.generate([prompt], GREEDY, continuations=[[5, 6, 7]], on_scored=found.__setitem__)
        (plain,) = Engine(Decoder(model, plain=True), eos_id=300).generate([prompt], GREEDY)
        assert generated.token_ids == plain.token_ids
        assert found[0] == pytest.approx(plain_logprob(model, prompt, [5, 6, 7]), abs=1e-4)


def test_a_continuation_that_does_not_fit_is_not_reported(byte_tokenizer: Tokenizer) -> None:
    model = tiny_checkpoint(byte_tokenizer, n_positions=32).model
    found: dict[int, float] = {}
    engine = Engine(Decoder(model, plain=True), eos_id=300)
    prompts, given = [[1] * 20, [2] * 20, [3] * 31], [[5] * 13, [5] * 14, [5]]
    settings = GenerationSettings(max_new_tokens=2)
    list(engine.generate(prompts, settings, continuations=given, on_scored=found.__setitem__))
    assert sorted(found) == [0, 2]
    assert found[0] == pytest.approx(plain_logprob(model, [1] * 20, [5] * 13), abs=1e-4)


def test_the_session_reports_what_transformers_calls_the_loss(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    from transformers import GPT2LMHeadModel

    folder = save_tiny(tmp_path / "model", byte_tokenizer, seed=5)
    session = Session.load(folder, precision="float32", may_draft=False)
    rows = [Example(instruction=f"Say {n}.", output="naïve " * n or "x") for n in range(6)]
    found: dict[int, float] = {}
    list(session.replies(rows, GenerationSettings(max_new_tokens=3), batch_size=4, on_reference=found.__setitem__))
    assert sorted(found) == list(range(6))
    reference = GPT2LMHeadModel.from_pretrained(folder).eval()
    for place, row in enumerate(rows):
        prompt = byte_tokenizer.encode(session.template.render(row.instruction, row.input, row.history))
        answer = [*byte_tokenizer.encode(row.output), byte_tokenizer.eos_id]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.inference_mode():
            loss = reference(input_ids=torch.tensor([[*prompt, *answer]]), labels=labels).loss.item()
        assert -found[place] / len(answer) == pytest.approx(loss, abs=1e-4)
