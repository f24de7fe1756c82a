"""Decoding against transformers, batches against single rows, sampling, and stopping."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.checkpoint import load_model
from assistant.config import GenerationSettings
from assistant.errors import ContextError, SettingsError
from assistant.generate import Generated, generate, sample
from assistant.instructions import Example
from assistant.model import GPT
from assistant.session import Session, pick_device
from assistant.tokenizer import Tokenizer

from .models import tiny_checkpoint

GREEDY = GenerationSettings(max_new_tokens=24)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_k=40, top_p=0.95, seed=7)


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(256) for _ in range(generator.randint(1, longest))] for _ in range(count)]


def run(
    model: GPT, given: list[list[int]], settings: GenerationSettings, *, eos_id: int = 256, batch_size: int = 32
) -> list[Generated]:
    found = generate(model, given, settings, eos_id=eos_id, batch_size=batch_size)
    return sorted(found, key=lambda g: g.index)


@pytest.fixture(scope="module")
def model(byte_tokenizer: Tokenizer) -> GPT:
    """Random weights, large enough for the tokens to differ from row to row."""
    model = tiny_checkpoint(byte_tokenizer, n_positions=64).model
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
    return model


def test_greedy_tokens_equal_those_of_transformers(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257, n_positions=64, n_embd=48, n_layer=2, n_head=4, initializer_range=0.15,
        bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    given = prompts(40, 39)
    for generated, prompt in zip(run(ours, given, GREEDY, batch_size=16), given, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=24, do_sample=False, pad_token_id=256,
        )[0, len(prompt) :].tolist()  # fmt: skip
        if 256 in expected:
            expected = expected[: expected.index(256)]
        assert list(generated.token_ids) == expected


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
def test_a_row_says_the_same_alone_and_in_any_company(model: GPT, settings: GenerationSettings) -> None:
    given = prompts(30, 63, seed=2)
    # What the model says often ends a row, so that rows end at many different steps.
    said = Counter(token for g in run(model, given, settings) for token in g.token_ids)
    eos_id = said.most_common(1)[0][0]
    alone = [run(model, [prompt], settings, eos_id=eos_id)[0] for prompt in given]
    for batch_size in (3, 30):
        together = run(model, given, settings, eos_id=eos_id, batch_size=batch_size)
        assert [g.token_ids for g in together] == [g.token_ids for g in alone]
        assert [g.stop_reason for g in together] == [g.stop_reason for g in alone]
    assert {g.stop_reason for g in alone} == {"eos", "length"}


def test_a_reply_ends_with_the_context(model: GPT) -> None:
    (generated,) = run(model, [[65] * 60], GenerationSettings(max_new_tokens=500, temperature=5.0, seed=1))
    assert generated.stop_reason in {"length", "eos"}
    assert len(generated.token_ids) <= 4
    full = [run(model, [[65 + n] * 60], GenerationSettings(max_new_tokens=500))[0] for n in range(20)]
    assert max(len(g.token_ids) for g in full if g.stop_reason == "length") == 4


@pytest.mark.parametrize(
    ("length", "sentence"), [(64, "expected fewer than 64 tokens, got 64"), (0, "at least one token")]
)
def test_prompts_that_leave_no_room(model: GPT, length: int, sentence: str) -> None:
    with pytest.raises(ContextError, match=sentence):
        run(model, [[65], [65] * length], GREEDY)


def test_stopping_keeps_what_there_is_and_leaves_the_engine_usable(model: GPT) -> None:
    seen: list[int] = []
    given = prompts(4, 20, seed=5)
    asked = iter(range(100))
    stopped = list(
        generate(
            model, given, SAMPLED, eos_id=256, on_token=lambda _, token: seen.append(token),
            should_stop=lambda: next(asked) >= 5,
        )
    )  # fmt: skip
    assert sum(len(g.token_ids) for g in stopped) == len(seen)
    assert {g.stop_reason for g in stopped} <= {"cancelled", "eos"}
    assert max(len(g.token_ids) for g in stopped) == 5
    whole = {g.index: g for g in run(model, given, SAMPLED)}
    for g in stopped:
        assert whole[g.index].token_ids[: len(g.token_ids)] == g.token_ids


def test_the_seed_decides(model: GPT) -> None:
    given = prompts(10, 20, seed=3)

    def texts(seed: int) -> list[tuple[int, ...]]:
        settings = GenerationSettings(max_new_tokens=20, temperature=1.0, seed=seed)
        return [g.token_ids for g in run(model, given, settings)]

    torch.manual_seed(0)
    first = texts(1)
    torch.manual_seed(99)  # the global generator has no say
    assert texts(1) == first
    assert texts(2) != first


# --- sampling -----------------------------------------------------------------------------------------------------


def draws(logits: list[float], settings: GenerationSettings, count: int = 400) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return [sample(torch.tensor([logits]), settings, [generator])[0] for _ in range(count)]


def test_sampling_follows_the_probabilities() -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    logits = torch.tensor(probabilities).log().tolist()
    found = draws(logits, GenerationSettings(temperature=1.0), 4000)
    for index, probability in enumerate(probabilities):
        assert abs(found.count(index) / 4000 - probability) < 0.03
    cold = draws(logits, GenerationSettings(temperature=0.25), 1000)
    assert cold.count(0) / 1000 > 0.85
    for temperature in (0.0, 1e-42):
        assert set(draws(logits, GenerationSettings(temperature=temperature))) == {0}


def test_top_k_and_top_p_leave_only_the_likeliest() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log().tolist()
    assert set(draws(logits, GenerationSettings(temperature=1.0, top_k=2))) == {1, 3}
    assert set(draws(logits, GenerationSettings(temperature=1.0, top_p=0.79))) == {1, 3}
    assert set(draws(logits, GenerationSettings(temperature=1.0, top_p=0.81))) == {1, 2, 3}
    assert set(draws(logits, GenerationSettings(temperature=1.0, top_p=0.01))) == {1}
    assert set(draws(logits, GenerationSettings(temperature=1.0, top_k=9))) == {0, 1, 2, 3}


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=30), st.floats(0.1, 3), st.integers(1, 30), st.floats(0.01, 1))
def test_what_is_drawn_is_always_allowed(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    settings = GenerationSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    (token,) = sample(torch.tensor([logits]), settings, [torch.Generator().manual_seed(1)])
    values = torch.tensor(logits)
    assert int((values > values[token]).sum()) < top_k


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def session(byte_tokenizer: Tokenizer) -> Session:
    return Session(tiny_checkpoint(byte_tokenizer))


def test_a_reply_is_the_decoded_new_tokens(session: Session, byte_tokenizer: Tokenizer) -> None:
    pieces: list[str] = []
    reply = session.reply("Say hi.", input="now", settings=SAMPLED, on_text=pieces.append)
    assert reply.prompt.endswith("### Input:\nnow\n\n### Response:\n")
    assert list(reply.prompt_token_ids) == byte_tokenizer.encode(reply.prompt)
    assert reply.response == byte_tokenizer.decode(reply.token_ids) == "".join(pieces)
    assert reply.seconds > 0


def test_many_replies_equal_single_ones(session: Session) -> None:
    rows = [Example(instruction="x" * n, output="y", source="f", row=n) for n in (5, 90, 40, 150, 1)]
    replies = dict(session.replies(rows, SAMPLED, batch_size=2))
    assert sorted(replies) == [0, 1, 2, 3, 4]
    assert isinstance(replies[3], ContextError)
    assert str(replies[3]).startswith("f, row 150: prompt: expected fewer than 256 tokens")
    for index in (0, 1, 2, 4):
        single = session.reply(rows[index].instruction, settings=SAMPLED)
        assert replies[index].model_copy(update={"seconds": 0}) == single.model_copy(update={"seconds": 0})  # type: ignore[union-attr]


def test_two_threads_are_served_in_turn(session: Session) -> None:
    alone = [session.reply(text, settings=SAMPLED).response for text in ("one", "two")]
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        for _ in range(5):
            found[index] = session.reply(("one", "two")[index], settings=SAMPLED).response

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone


def test_a_failure_in_the_listener_leaves_the_session_usable(session: Session) -> None:
    def listener(_text: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.reply("Hi", settings=SAMPLED, on_text=listener)
    assert session.reply("Hi", settings=SAMPLED).token_ids


def test_summary_and_devices(session: Session) -> None:
    assert session.summary == "tiny · 0.0M parameters · base model, template alpaca · context 256"
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta", "hpu", ""):
        with pytest.raises(SettingsError, match="device: expected one of auto, cpu"):
            pick_device(name)
