"""Decoding against transformers, batches against single rows, sampling, and stopping."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from assistant.dataset.instructions import Example, Exchange, read_examples
from assistant.dataset.splits import split_examples
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.decoder import Cache, Decoder, Piece
from assistant.decoding.engine import Engine, Generated, build_engine, generate
from assistant.decoding.session import Session
from assistant.decoding.speculative import useful_draft
from assistant.device import pick_device
from assistant.errors import ContextError, SettingsError
from assistant.model.checkpoint import load_checkpoint, load_model
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from assistant.shipped import find_model, shipped
from tests.support.models import tiny_checkpoint

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
    given = prompts(200, 63)
    for generated, prompt in zip(run(ours, given, GREEDY, eos_id=300, batch_size=16), given, strict=True):
        # By induction: they would have said each of these tokens, were the ones before it theirs.
        with torch.inference_mode():
            logits = theirs(torch.tensor([[*prompt, *generated.token_ids]])).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2, dim=-1)
        for token, (first, second), gap in zip(
            generated.token_ids, best.indices.tolist(), (best.values[:, 0] - best.values[:, 1]).tolist(), strict=True
        ):
            if token != first:
                assert (token, gap < 1e-4) == (second, True)
                break
        assert len(generated.token_ids) == min(24, 64 - len(prompt))
    for prompt in [prompt for prompt in given if len(prompt) < 40][:5]:
        said = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=24, do_sample=False, pad_token_id=256,
        )[0, len(prompt) :].tolist()  # fmt: skip
        expected = said[: said.index(256)] if 256 in said else said
        assert run(ours, [prompt], GREEDY)[0].token_ids == tuple(expected)


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


class CountingDecoder(Decoder):
    """Counts the tokens that are read and the steps that are done."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model, is_chosen=False)
        self.n_read = self.n_steps = 0

    def read(self, pieces: Sequence[Piece], cache: Cache, wanted: Sequence[bool], *, is_every: bool = False) -> Tensor:
        self.n_read += sum(len(piece.input_ids) for piece in pieces)
        return super().read(pieces, cache, wanted, is_every=is_every)

    def step(self, input_ids: Tensor, cache: Cache) -> Tensor:
        self.n_steps += 1
        return super().step(input_ids, cache)


def perturbed(model: GPT, by: float) -> GPT:
    """The same model with other weights nearby: a draft that is often wrong."""
    other = GPT(model.config).eval()
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std(correction=0) * by)
    return other


@pytest.mark.parametrize("wrong_by", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(
    "settings",
    [GREEDY, SAMPLED, SAMPLED.model_copy(update={"repetition_penalty": 1.3, "min_p": 0.02, "logprobs": 3})],
)
def test_a_draft_changes_nothing_but_the_number_of_steps(
    model: GPT, settings: GenerationSettings, wrong_by: float
) -> None:
    said = Counter(token for g in run(model, prompts(10, 40), settings) for token in g.token_ids)
    eos_id = said.most_common(3)[-1][0]
    drafted = CountingDecoder(model)
    engine = Engine(drafted, eos_id=eos_id, draft=Decoder(perturbed(model, wrong_by), is_chosen=False))
    n_tokens = 0
    for prompt in prompts(30, 63, seed=8):
        (alone,) = run(model, [prompt], settings, eos_id=eos_id)
        seen: list[int] = []
        (found,) = engine.generate([prompt], settings, on_token=lambda _, token, seen=seen: seen.append(token))
        assert (found.token_ids, found.stop_reason) == (alone.token_ids, alone.stop_reason)
        assert tuple(seen) == found.token_ids
        for ours, theirs in zip(found.logprobs or (), alone.logprobs or (), strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        n_tokens += len(found.token_ids)
    assert drafted.n_steps == 0
    assert n_tokens > 100
    if not wrong_by:
        assert engine.decoder.n_read < sum(len(prompt) for prompt in prompts(30, 63, seed=8)) + n_tokens + 30


def test_a_draft_stops_at_stop_texts_limits_and_when_told(model: GPT) -> None:
    engine = Engine(Decoder(model, is_chosen=False), eos_id=256, draft=Decoder(model, is_chosen=False))
    (whole,) = engine.generate([[65, 66]], GREEDY)
    for count in range(1, 20):
        (found,) = engine.generate([[65, 66]], GenerationSettings(max_new_tokens=count))
        assert (found.token_ids, found.stop_reason) == (whole.token_ids[:count], "length")
        seen: list[int] = []

        def stop_at(_: int, token: int, seen: list[int] = seen, count: int = count) -> bool:
            seen.append(token)
            return len(seen) == count

        (found,) = engine.generate([[65, 66]], GREEDY, on_token=stop_at)
        assert (found.token_ids, found.stop_reason) == (whole.token_ids[:count], "stop")
        asked: list[int] = []

        def stop_after(asked: list[int] = asked, count: int = count) -> bool:
            asked.append(1)
            return len(asked) > count

        (found,) = engine.generate([[65, 66]], GREEDY, should_stop=stop_after)
        assert found.token_ids == whole.token_ids[: len(found.token_ids)]
        assert found.stop_reason == "cancelled"
        assert len(asked) <= count + 2  # asked once or twice more, and not to the end


def test_what_was_read_is_not_read_again(model: GPT) -> None:
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=256)
    first = prompts(1, 1)[0] + list(range(30))
    (reply,) = engine.generate([first], GREEDY)
    assert decoder.n_read == len(first)
    longer = [*first, *reply.token_ids, 7, 8, 9]  # as the next turn of a chat
    (found,) = engine.generate([longer], GREEDY)
    assert decoder.n_read == len(first) + 4  # the last token of a reply was said and not read
    assert found.token_ids == run(model, [longer], GREEDY)[0].token_ids
    (again,) = engine.generate([first], GREEDY)
    assert decoder.n_read == len(first) + 5  # one is, for the logits behind it
    assert again.token_ids == reply.token_ids
    other = [*first[:10], 200, 201]
    (found,) = engine.generate([other], GREEDY)
    assert decoder.n_read == len(first) + 7
    assert found.token_ids == run(model, [other], GREEDY)[0].token_ids


def test_what_all_prompts_begin_with_is_read_once(model: GPT) -> None:
    opening = list(range(100, 120))
    given = [opening + rest for rest in prompts(9, 20, seed=4)]
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=256)
    found = sorted(engine.generate(given, GREEDY, batch_size=4), key=lambda g: g.index)
    shared = 20
    assert decoder.n_read == shared + sum(len(prompt) - shared for prompt in given)
    assert [g.token_ids for g in found] == [run(model, [prompt], GREEDY)[0].token_ids for prompt in given]
    before = decoder.n_read
    list(engine.generate(given, GREEDY, batch_size=4))
    assert decoder.n_read == before + sum(len(prompt) - shared for prompt in given)


def test_a_waiting_prompt_takes_the_place_of_one_that_ended(model: GPT) -> None:
    """Were they answered batch by batch, each batch would take as long as its longest reply."""
    given = prompts(24, 20, seed=6)
    said = Counter(token for g in run(model, given, GREEDY) for token in g.token_ids)
    eos_id = said.most_common(1)[0][0]
    alone = [run(model, [prompt], GREEDY, eos_id=eos_id)[0] for prompt in given]
    lengths = [len(g.token_ids) + 1 for g in alone]
    assert min(lengths) < max(lengths) == 25
    decoder = CountingDecoder(model)
    list(Engine(decoder, eos_id=eos_id).generate(given, GREEDY, batch_size=4))
    order = sorted(range(24), key=lambda index: -len(given[index]))
    by_batch = sum(max(lengths[index] for index in order[start : start + 4]) for start in range(0, 24, 4))
    assert decoder.n_steps < by_batch - 10


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_long_prompts_are_read_in_chunks(model: GPT, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    given = prompts(12, 60, seed=11)
    expected = [g.token_ids for g in run(model, given, GREEDY)]
    for name in ("CHUNK", "LONE_CHUNK"):
        monkeypatch.setattr(f"assistant.decoding.engine.{name}", chunk)
    decoder = CountingDecoder(model)
    engine = Engine(decoder, eos_id=256)
    found = sorted(engine.generate(given, GREEDY, batch_size=5), key=lambda g: g.index)
    assert [g.token_ids for g in found] == expected
    assert [next(engine.generate([prompt], GREEDY)).token_ids for prompt in given] == expected
    (cancelled,) = engine.generate([[*given[0][:-1], 3]], GREEDY, should_stop=lambda: True)
    assert (cancelled.token_ids, cancelled.stop_reason) == ((), "cancelled")


@pytest.mark.parametrize("drafts", [True, False])
def test_a_failure_leaves_the_engine_usable(model: GPT, drafts: bool) -> None:
    draft = Decoder(model, is_chosen=False) if drafts else None
    engine = Engine(Decoder(model, is_chosen=False), eos_id=256, draft=draft)
    given = prompts(6, 30, seed=12)
    expected = [run(model, [prompt], GREEDY)[0].token_ids for prompt in given]

    def fail(_: int, token: int) -> None:
        if token % 3 == 0:
            raise RuntimeError("the listener broke")

    for prompt, right in zip(given, expected, strict=True):
        with suppress(RuntimeError):
            list(engine.generate([prompt], GREEDY, on_token=fail))
        with suppress(RuntimeError):
            list(engine.generate(given, GREEDY, on_token=fail))
        iterator = engine.generate(given, GREEDY, batch_size=2)
        next(iterator)
        iterator.close()
        assert next(engine.generate([prompt], GREEDY)).token_ids == right


def test_small_models_get_no_draft(model: GPT) -> None:
    assert build_engine(model, eos_id=256).draft is None
    assert build_engine(model, eos_id=256, precision="int8").decoder.storage == "int8"


def test_a_draft_must_pay(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.decoding.speculative.SMALLEST_DRAFTED_FOR", 0)
    decoder = Decoder(model, is_chosen=False)
    for times, expected in (
        ([10.0, 10.0, 1.0, 3.0], "int8"),
        ([10.0, 10.0, 3.0, 1.0], "float16"),
        ([10.0, 55.0, 3.0, 1.0], "float16"),
        ([10.0, 75.0, 3.0, 1.0], None),
    ):
        left = iter(times)
        monkeypatch.setattr("assistant.decoding.speculative._seconds_of", lambda *_, left=left: next(left))
        draft = useful_draft(model, decoder)
        assert (draft and draft.storage) == expected


def test_pocket_says_the_same_in_any_batch_and_by_the_kernels_that_are_chosen() -> None:
    checkpoint = load_checkpoint(find_model("pocket"))
    rows = split_examples(read_examples(shipped("instructions.json"))).test[:48]
    prompts_ = [checkpoint.tokenizer.encode(checkpoint.template.render(row.instruction, row.input)) for row in rows]
    eos_id = checkpoint.tokenizer.eos_id
    plain = Engine(Decoder(checkpoint.model, is_chosen=False), eos_id=eos_id)
    expected = [next(plain.generate([prompt], GREEDY)).token_ids for prompt in prompts_]
    drafted = Engine(Decoder(checkpoint.model), eos_id=eos_id, draft=Decoder(checkpoint.model, storage="int8"))
    assert [next(drafted.generate([prompt], GREEDY)).token_ids for prompt in prompts_] == expected
    for batch_size in (5, 48):
        auto = build_engine(checkpoint.model, eos_id=eos_id)
        found = sorted(auto.generate(prompts_, GREEDY, batch_size=batch_size), key=lambda g: g.index)
        assert [g.token_ids for g in found] == expected


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


# --- log-probabilities --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED.model_copy(update={"repetition_penalty": 1.5, "min_p": 0.01})])
def test_logprobs_are_those_of_the_whole_forward_without_a_cache(model: GPT, settings: GenerationSettings) -> None:
    settings = settings.model_copy(update={"logprobs": 3})
    given = prompts(8, 40, seed=4)
    said = Counter(token for g in run(model, given, settings) for token in g.token_ids)
    eos_id = said.most_common(1)[0][0]
    endings = set()
    for generated, prompt in zip(run(model, given, settings, eos_id=eos_id, batch_size=5), given, strict=True):
        assert generated.logprobs is not None
        new = [*generated.token_ids, *([eos_id] if generated.stop_reason == "eos" else [])]
        assert [token.token_id for token in generated.logprobs] == new
        endings.add(generated.stop_reason)
        with torch.inference_mode():
            hidden = model(torch.tensor([[*prompt, *new[:-1]]]))
            expected = model.head(hidden)[0, len(prompt) - 1 :].double().log_softmax(dim=-1)
        for row, token in zip(expected, generated.logprobs, strict=True):
            assert token.logprob == pytest.approx(row[token.token_id].item(), abs=1e-4)
            values, ids = row.topk(3)
            assert [other.logprob for other in token.likeliest] == pytest.approx(values.tolist(), abs=1e-4)
            if (values.diff() < -1e-3).all():
                assert [other.token_id for other in token.likeliest] == ids.tolist()
    assert endings == {"eos", "length"}
    assert run(model, given[:1], GREEDY)[0].logprobs is None


def test_more_likeliest_tokens_than_there_are(model: GPT) -> None:
    (generated,) = run(model, [[65]], GenerationSettings(max_new_tokens=1, logprobs=1000))
    assert generated.logprobs is not None
    assert sorted(token.token_id for token in generated.logprobs[0].likeliest) == list(range(257))
    assert sum(math.exp(token.logprob) for token in generated.logprobs[0].likeliest) == pytest.approx(1, abs=1e-5)


def test_a_listener_ends_its_row_alone(model: GPT) -> None:
    given = prompts(3, 20, seed=6)
    whole = run(model, given, GREEDY)
    counts: Counter[int] = Counter()

    def listener(index: int, _token_id: int) -> bool:
        counts[index] += 1
        return index == 1 and counts[1] == 4

    ended = sorted(generate(model, given, GREEDY, eos_id=256, on_token=listener), key=lambda g: g.index)
    assert ended[1].stop_reason == "stop"
    assert ended[1].token_ids == whole[1].token_ids[:4]
    assert [ended[n].token_ids for n in (0, 2)] == [whole[n].token_ids for n in (0, 2)]


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


def test_a_second_caller_is_refused_while_a_reply_is_written(session: Session) -> None:
    refused: list[str] = []

    def ask_again(_text: str) -> None:
        def ask() -> None:
            with pytest.raises(RuntimeError, match="answering someone else"):
                session.reply("x", settings=SAMPLED)
            refused.append("x")

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)

    reply = session.reply("one", settings=SAMPLED, on_text=ask_again)
    assert refused
    assert session.reply("one", settings=SAMPLED).token_ids == reply.token_ids


def test_a_failure_in_the_listener_leaves_the_session_usable(session: Session) -> None:
    def listener(_text: str) -> None:
        raise ZeroDivisionError

    before = session.reply("Hi", settings=SAMPLED)
    with pytest.raises(ZeroDivisionError):
        session.reply("Hi", settings=SAMPLED, on_text=listener)
    assert session.reply("Hi", settings=SAMPLED).response == before.response


def test_a_generator_that_is_closed_frees_the_session(session: Session) -> None:
    rows = [Example(instruction="x" * n, output="y", source="f", row=n) for n in (5, 9)]
    replies = session.replies(rows, SAMPLED, batch_size=1)
    next(replies)
    with pytest.raises(RuntimeError, match="answering someone else"):
        session.reply("x", settings=SAMPLED)  # nobody would ever take the next reply
    replies.close()
    assert session.reply("x", settings=SAMPLED).token_ids


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stop_string_cuts_the_reply_and_is_never_shown(
    session: Session, byte_tokenizer: Tokenizer, length: int
) -> None:
    whole = session.reply("Say hi.", settings=SAMPLED)
    for place in range(len(whole.response) - length + 1):
        stop = whole.response[place : place + length]
        pieces: list[str] = []
        settings = SAMPLED.model_copy(update={"stop": (stop, "not there"), "logprobs": 0})
        reply = session.reply("Say hi.", settings=settings, on_text=pieces.append)
        assert reply.stop_reason == "stop"
        assert reply.response == whole.response.partition(stop)[0] == "".join(pieces)
        assert reply.token_ids == whole.token_ids[: len(reply.token_ids)]
        # A byte a token, so a stop string never begins inside one.
        assert byte_tokenizer.decode(reply.token_ids) == reply.response
        assert reply.logprobs is not None
        assert [token.token_id for token in reply.logprobs] == list(reply.token_ids)
    unchanged = session.reply("Say hi.", settings=SAMPLED.model_copy(update={"stop": ("not there",)}))
    assert unchanged.model_copy(update={"seconds": whole.seconds}) == whole


def test_stop_strings_in_a_batch_are_those_of_single_rows(session: Session) -> None:
    rows = [Example(instruction="x" * n, output="y", source="f", row=n) for n in (5, 90, 40, 1)]
    said = Counter("".join(session.reply(row.instruction, settings=SAMPLED).response for row in rows))
    settings = SAMPLED.model_copy(update={"stop": (said.most_common(1)[0][0],), "logprobs": 2})
    for index, reply in list(session.replies(rows, settings, batch_size=3)):
        assert not isinstance(reply, ContextError)
        single = session.reply(rows[index].instruction, settings=settings)
        assert (reply.response, reply.token_ids, reply.stop_reason) == (
            single.response, single.token_ids, single.stop_reason,
        )  # fmt: skip
        assert reply.logprobs is not None
        assert all(len(token.likeliest) == 2 and token.text is not None for token in reply.logprobs)


def test_a_long_conversation_loses_its_oldest_exchanges_and_says_so(byte_tokenizer: Tokenizer) -> None:
    """Whole ones, never the template, until the answer has a quarter of the context or all it may take."""
    session = Session(tiny_checkpoint(byte_tokenizer, n_positions=640))
    settings = GenerationSettings(max_new_tokens=40)
    history = [Exchange(user=f"question {n}", assistant="an answer " * n) for n in range(9)]
    context = session.context_length
    counts = []
    for length in range(10):
        reply = session.reply("And now?", history=history[:length], settings=settings)
        left = history[reply.n_forgotten : length]
        assert reply.prompt == session.template.render("And now?", history=left)
        assert reply.prompt.startswith(session.template.preamble)
        assert len(reply.prompt_token_ids) + 40 <= context or not left
        if reply.n_forgotten:  # one more would not have fitted
            more = history[reply.n_forgotten - 1 : length]
            assert len(byte_tokenizer.encode(session.template.render("And now?", history=more))) + 40 > context
        counts.append(reply.n_forgotten)
    assert counts[0] == 0
    assert 0 < counts[-1] < 9
    with pytest.raises(ContextError, match="expected fewer than"):
        session.reply("long " * context, history=history, settings=settings)


def test_summary_and_devices(session: Session) -> None:
    assert session.summary == "tiny · 0.0M parameters · base model, template alpaca · context 256"
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta", "hpu", ""):
        with pytest.raises(SettingsError, match="device: expected one of auto, cpu"):
            pick_device(name)
