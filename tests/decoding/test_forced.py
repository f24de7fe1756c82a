"""Replies that begin with given tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.dataset.examples import Example
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding import engine as engine_module
from assistant.decoding.decoder import Decoder
from assistant.decoding.engine import Engine
from assistant.decoding.reply import Reply
from assistant.decoding.session import Session
from assistant.errors import SettingsError
from assistant.model.gpt import GPT
from assistant.settings import GenerationSettings
from tests.support.generation import GREEDY, SAMPLED
from tests.support.models import save_tiny, tiny_checkpoint


@pytest.fixture
def session(byte_tokenizer: Tokenizer) -> Session:
    return Session(tiny_checkpoint(byte_tokenizer), precision="float32")


def without_times(reply: Reply) -> Reply:
    return reply.model_copy(update={"seconds": 0.0, "logprobs": None})


@pytest.mark.parametrize("chunk_tokens", [3, 96])
@pytest.mark.parametrize(
    "settings",
    [
        GREEDY,
        SAMPLED.model_copy(update={"logprobs": 3}),
        SAMPLED.model_copy(update={"repetition_penalty": 1.5, "temperature": 0.8}),
    ],
)
def test_forcing_the_beginning_of_a_reply_gives_that_reply_again(
    session: Session, settings: GenerationSettings, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy or sampled: each forced token uses up the random number of its place."""
    monkeypatch.setattr(engine_module, "SINGLE_PROMPT_CHUNK", chunk_tokens)
    complete = session.reply("Say hi.", settings=settings)
    for count in range(1, len(complete.token_ids) + 1):
        streamed: list[str] = []
        forced = complete.token_ids[:count]
        reply = session.reply("Say hi.", settings=settings, on_text=streamed.append, forced_ids=forced)
        assert without_times(reply) == without_times(complete)
        assert "".join(streamed) == reply.response
        if settings.logprobs is not None:
            assert reply.logprobs is not None
            assert complete.logprobs is not None
            pairs = zip(reply.logprobs, complete.logprobs, strict=True)
            assert all(one.logprob == pytest.approx(other.logprob, abs=1e-4) for one, other in pairs)


def test_after_another_token_the_model_goes_on_as_after_a_prompt_that_ends_with_it(model: GPT) -> None:
    engine = Engine(Decoder(model, plain=True), eos_id=300)
    for token_id in (5, 70, 200):
        (forced,) = engine.generate([[1, 2, 3]], GREEDY, forced_ids=[token_id, 9])
        longer = GREEDY.model_copy(update={"max_new_tokens": GREEDY.max_new_tokens - 2})
        (plain,) = Engine(Decoder(model, plain=True), eos_id=300).generate([[1, 2, 3, token_id, 9]], longer)
        assert forced.token_ids == (token_id, 9, *plain.token_ids)


def test_a_draft_changes_nothing(model: GPT) -> None:
    plain = Engine(Decoder(model, plain=True), eos_id=300)
    drafting = Engine(Decoder(model, plain=True), eos_id=300, draft=Decoder(model, storage="int8"))
    for forced in ([7], [7, 8, 9]):
        (expected,) = plain.generate([[1, 2, 3]], SAMPLED, forced_ids=forced)
        (found,) = drafting.generate([[1, 2, 3]], SAMPLED, forced_ids=forced)
        assert found.token_ids == expected.token_ids


def test_forced_tokens_count_against_the_limit(session: Session, byte_tokenizer: Tokenizer) -> None:
    settings = GREEDY.model_copy(update={"max_new_tokens": 4})
    for text in ("Yes, ", "Yes.", "No"):
        ids = byte_tokenizer.encode(text)
        reply = session.reply("Say hi.", settings=settings, forced_ids=ids)
        assert (len(reply.token_ids), reply.stop_reason) == (4, "length")
        assert list(reply.token_ids[:4][: len(ids)]) == ids[:4]


def test_a_forced_eos_or_stop_string_ends_the_reply(session: Session, byte_tokenizer: Tokenizer) -> None:
    yes = byte_tokenizer.encode("Yes")
    reply = session.reply("Say hi.", settings=SAMPLED, forced_ids=[*yes, byte_tokenizer.eos_id, 65])
    assert (reply.response, reply.token_ids, reply.stop_reason) == ("Yes", tuple(yes), "eos")
    settings = SAMPLED.model_copy(update={"stop": ("es",)})
    reply = session.reply("Say hi.", settings=settings, forced_ids=yes)
    assert (reply.response, reply.stop_reason) == ("Y", "stop")


def test_half_a_character_is_streamed_when_it_is_complete(session: Session, byte_tokenizer: Tokenizer) -> None:
    streamed: list[str] = []
    ids = byte_tokenizer.encode("é€")
    reply = session.reply("Say hi.", settings=SAMPLED, on_text=streamed.append, forced_ids=ids)
    assert streamed[:2] == ["é", "€"]
    assert reply.response.startswith("é€")


def test_a_stop_between_chunks_of_forced_tokens_keeps_the_text(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "SINGLE_PROMPT_CHUNK", 5)
    streamed: list[str] = []
    reply = session.reply(
        "Hi", settings=GREEDY, on_text=streamed.append, should_stop=lambda: bool(streamed), forced_ids=[65] * 12
    )
    assert (reply.stop_reason, reply.response) == ("cancelled", "A")
    assert streamed == ["A"]


@pytest.mark.parametrize("token_id", [-1, 257])
def test_an_unknown_id_is_an_error(session: Session, token_id: int) -> None:
    with pytest.raises(SettingsError, match=rf"forced_ids: expected ids from 0 to 256, got {token_id}\."):
        session.reply("Hi", settings=GREEDY, forced_ids=[65, token_id])
    assert session.reply("Hi", settings=GREEDY, forced_ids=[65]).response.startswith("A")


def test_a_batch_can_be_stopped(session: Session) -> None:
    """Replies that have ended stay as they are; the others keep the beginning of their text."""
    examples = [Example(instruction="x" * length, output="y") for length in (5, 9, 40)]
    complete = dict(session.replies(examples, SAMPLED, batch_size=2))
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 10

    stopped = dict(session.replies(examples, SAMPLED, batch_size=2, should_stop=should_stop))
    assert sorted(stopped) == [0, 1, 2]
    lengths = []
    for index, reply in stopped.items():
        whole = complete[index]
        assert isinstance(reply, Reply)
        assert isinstance(whole, Reply)
        assert reply.stop_reason == "cancelled"
        assert reply.token_ids == whole.token_ids[: len(reply.token_ids)]
        lengths.append(len(reply.token_ids))
    assert sorted(lengths) == [0, 10, 10]


def test_the_session_says_where_its_model_is(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = save_tiny(tmp_path / "mine", byte_tokenizer)
    session = Session.load(folder)
    assert (session.folder, session.name) == (folder, "mine")
    assert session.tokenizer.encode("a") == byte_tokenizer.encode("a")
    assert Session(tiny_checkpoint(byte_tokenizer)).folder is None
