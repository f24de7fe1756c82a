"""`Session`: replies, batches of replies, stop strings, long conversations, and one caller at a time."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import torch

from assistant.dataset.instructions import Example, Exchange
from assistant.dataset.tokenizer import Tokenizer
from assistant.decoding.reply import Reply
from assistant.decoding.session import Session
from assistant.device import pick_device
from assistant.errors import ContextError, SettingsError
from assistant.settings import GenerationSettings
from tests.support.generation import SAMPLED
from tests.support.models import tiny_checkpoint


@pytest.fixture
def session(byte_tokenizer: Tokenizer) -> Session:
    return Session(tiny_checkpoint(byte_tokenizer))


def examples_of_lengths(*lengths: int) -> list[Example]:
    return [Example(instruction="x" * length, output="y", source="f", row=length) for length in lengths]


def test_a_reply_is_the_text_of_the_new_tokens(session: Session, byte_tokenizer: Tokenizer) -> None:
    streamed: list[str] = []
    reply = session.reply("Say hi.", input="now", settings=SAMPLED, on_text=streamed.append)
    assert reply.prompt.endswith("### Input:\nnow\n\n### Response:\n")
    assert list(reply.prompt_token_ids) == byte_tokenizer.encode(reply.prompt)
    assert reply.response == byte_tokenizer.decode(reply.token_ids) == "".join(streamed)
    assert reply.seconds > 0


def test_replies_in_batches_equal_single_replies(session: Session) -> None:
    examples = examples_of_lengths(5, 90, 40, 150, 1)
    replies = dict(session.replies(examples, SAMPLED, batch_size=2))
    assert sorted(replies) == [0, 1, 2, 3, 4]
    too_long = replies.pop(3)
    assert isinstance(too_long, ContextError)
    assert str(too_long).startswith("f, row 150: prompt: expected fewer than 256 tokens")
    for index, reply in replies.items():
        single = session.reply(examples[index].instruction, settings=SAMPLED)
        assert isinstance(reply, Reply)
        assert reply.model_copy(update={"seconds": 0}) == single.model_copy(update={"seconds": 0})


def test_the_summary_names_the_model_its_size_template_and_context(session: Session) -> None:
    assert session.summary == "tiny · 0.0M parameters · base model, template alpaca · context 256"


def test_an_unknown_device_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("abacus", "meta", "hpu", ""):
        with pytest.raises(SettingsError, match="device: expected one of auto, cpu"):
            pick_device(name)


# --- one caller at a time -----------------------------------------------------------------------------------------


def test_a_second_caller_is_refused_during_a_reply(session: Session) -> None:
    refused: list[str] = []

    def ask_from_another_thread(_text: str) -> None:
        def ask() -> None:
            with pytest.raises(RuntimeError, match="answering someone else"):
                session.reply("x", settings=SAMPLED)
            refused.append("x")

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)

    reply = session.reply("one", settings=SAMPLED, on_text=ask_from_another_thread)
    assert refused
    assert session.reply("one", settings=SAMPLED).token_ids == reply.token_ids


def test_a_failing_callback_leaves_the_session_usable(session: Session) -> None:
    def fail(_text: str) -> None:
        raise ZeroDivisionError

    before = session.reply("Hi", settings=SAMPLED)
    with pytest.raises(ZeroDivisionError):
        session.reply("Hi", settings=SAMPLED, on_text=fail)
    assert session.reply("Hi", settings=SAMPLED).response == before.response


def test_closing_the_generator_of_replies_frees_the_session(session: Session) -> None:
    replies = session.replies(examples_of_lengths(5, 9), SAMPLED, batch_size=1)
    next(replies)
    with pytest.raises(RuntimeError, match="answering someone else"):
        session.reply("x", settings=SAMPLED)
    replies.close()
    assert session.reply("x", settings=SAMPLED).token_ids


# --- stop strings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stop_string_ends_the_reply_and_is_never_shown(
    session: Session, byte_tokenizer: Tokenizer, length: int
) -> None:
    complete = session.reply("Say hi.", settings=SAMPLED)
    for start in range(len(complete.response) - length + 1):
        stop = complete.response[start : start + length]
        streamed: list[str] = []
        settings = SAMPLED.model_copy(update={"stop": (stop, "not there"), "logprobs": 0})
        reply = session.reply("Say hi.", settings=settings, on_text=streamed.append)
        assert reply.stop_reason == "stop"
        assert reply.response == complete.response.partition(stop)[0] == "".join(streamed)
        assert reply.token_ids == complete.token_ids[: len(reply.token_ids)]
        # Every token is one byte, so a stop string never begins inside a token.
        assert byte_tokenizer.decode(reply.token_ids) == reply.response
        assert reply.logprobs is not None
        assert [token.token_id for token in reply.logprobs] == list(reply.token_ids)


def test_a_stop_string_that_never_comes_changes_nothing(session: Session) -> None:
    complete = session.reply("Say hi.", settings=SAMPLED)
    reply = session.reply("Say hi.", settings=SAMPLED.model_copy(update={"stop": ("not there",)}))
    assert reply.model_copy(update={"seconds": complete.seconds}) == complete


def test_stop_strings_in_a_batch_act_as_in_single_replies(session: Session) -> None:
    examples = examples_of_lengths(5, 90, 40, 1)
    responses = [session.reply(example.instruction, settings=SAMPLED).response for example in examples]
    ((stop, _),) = Counter("".join(responses)).most_common(1)
    settings = SAMPLED.model_copy(update={"stop": (stop,), "logprobs": 2})
    for index, reply in list(session.replies(examples, settings, batch_size=3)):
        assert isinstance(reply, Reply)
        single = session.reply(examples[index].instruction, settings=settings)
        assert (reply.response, reply.token_ids, reply.stop_reason) == (
            single.response, single.token_ids, single.stop_reason,
        )  # fmt: skip
        assert reply.logprobs is not None
        assert all(len(token.likeliest) == 2 and token.text is not None for token in reply.logprobs)


# --- conversations ------------------------------------------------------------------------------------------------


def test_a_long_conversation_loses_its_oldest_exchanges_and_counts_them(byte_tokenizer: Tokenizer) -> None:
    """Whole exchanges go, but never the template, until the reply has a quarter of the context or all it may use."""
    session = Session(tiny_checkpoint(byte_tokenizer, n_positions=640))
    settings = GenerationSettings(max_new_tokens=40)
    history = [Exchange(user=f"question {n}", assistant="an answer " * n) for n in range(9)]
    context = session.context_length
    n_forgotten = []
    for length in range(10):
        reply = session.reply("And now?", history=history[:length], settings=settings)
        recent = history[reply.n_forgotten : length]
        assert reply.prompt == session.template.render("And now?", history=recent)
        assert reply.prompt.startswith(session.template.preamble)
        assert len(reply.prompt_token_ids) + 40 <= context or not recent
        if reply.n_forgotten:  # one more exchange would not have fitted
            longer = session.template.render("And now?", history=history[reply.n_forgotten - 1 : length])
            assert len(byte_tokenizer.encode(longer)) + 40 > context
        n_forgotten.append(reply.n_forgotten)
    assert n_forgotten[0] == 0
    assert 0 < n_forgotten[-1] < 9
    with pytest.raises(ContextError, match="expected fewer than"):
        session.reply("long " * context, history=history, settings=settings)
