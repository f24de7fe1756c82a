"""The chat's threads: loading, replying, and posting text in batches."""

from __future__ import annotations

import pytest
from textual.message import Message

from assistant.errors import ContextError
from assistant.settings import GenerationSettings
from assistant.tui.engine import ModelFailed, ModelReady, ReplyFailed, ReplyFinished, TextArrived, answer, load_model
from assistant.tui.turns import ReplyMessage
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_fast_text_arrives_in_few_batches() -> None:
    async with open_chat(ScriptedSession(*(f"{n} " for n in range(2000)))) as chat:
        n_batches = 0
        add_text = ReplyMessage.add_text

        async def count_batch(self: ReplyMessage, text: str) -> None:
            nonlocal n_batches
            n_batches += 1
            await add_text(self, text)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReplyMessage, "add_text", count_batch)
            await chat.send("count")
            await chat.until_idle()
        assert 1 <= n_batches < 40
        assert chat.screen.query_one(ReplyMessage).text.split() == [str(n) for n in range(2000)]


@pytest.mark.parametrize("error", [None, ContextError("too long"), SystemExit(3)])
def test_a_reply_posts_all_text_before_its_one_outcome(error: BaseException | None) -> None:
    session = ScriptedSession("one ", "two ", "three", error=error)
    posted: list[Message] = []
    answer(session, "count", GenerationSettings(), should_stop=lambda: False, post=posted.append)
    *texts, outcome = posted
    assert "".join(message.text for message in texts if isinstance(message, TextArrived)) == "one two three"
    assert all(isinstance(message, TextArrived) for message in texts)
    if error is None:
        assert isinstance(outcome, ReplyFinished)
        assert outcome.reply.response == "one two three"
    else:
        assert isinstance(outcome, ReplyFailed)
        assert outcome.problem == ("too long" if isinstance(error, ContextError) else "SystemExit: 3")


def test_loading_posts_one_outcome() -> None:
    session = ScriptedSession()
    posted: list[Message] = []
    load_model(lambda: session, posted.append)

    def fail() -> ScriptedSession:
        raise SystemExit

    load_model(fail, posted.append)
    ready, failed = posted
    assert isinstance(ready, ModelReady)
    assert ready.session is session
    assert isinstance(failed, ModelFailed)
    assert failed.problem == "SystemExit"
