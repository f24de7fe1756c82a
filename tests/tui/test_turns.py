"""The widgets of the conversation: a reply during and after writing, and the line under it."""

from __future__ import annotations

import pytest
from textual.widgets.markdown import MarkdownFence

from assistant.decoding.reply import Reply
from assistant.settings import GenerationSettings
from assistant.tui.turns import describe_end
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_text_appears_while_the_model_writes() -> None:
    session = ScriptedSession("```python\n", "x = 1\n", "```\n", "Done.", hold_at=2)
    async with open_chat(session, every_piece=True) as chat:
        await chat.send("code")
        await chat.until(lambda: chat.texts("MarkdownFence") == ["x = 1"])
        # Without an empty widget at the start of the stream, a fence in the first line becomes paragraphs.
        assert chat.screen.query_one(MarkdownFence).code == "x = 1"
        assert chat.texts("ReplyMessage .note") == ["writing …"]
        assert chat.status.startswith("writing")
        session.gate.set()
        await chat.until_idle()
        assert chat.screen.query_one(MarkdownFence).code == "x = 1"
        assert chat.texts("ReplyMarkdown MarkdownParagraph") == ["Done."]


@async_test
async def test_the_note_says_that_a_reply_has_no_text() -> None:
    async with open_chat(ScriptedSession()) as chat:
        await chat.send("hello")
        await chat.until_idle()
        assert chat.texts("ReplyMessage .note") == ["0 tokens · finished without text"]


@pytest.mark.parametrize(
    ("stop_reason", "n_tokens", "temperature", "expected"),
    [
        ("eos", 1, 0.0, "1 token · 2.0 tokens/s · finished"),
        ("stop", 5, 0.0, "5 tokens · 10.0 tokens/s · ended at a stop string"),
        ("cancelled", 3, 0.0, "3 tokens · 6.0 tokens/s · stopped by you"),
        ("length", 5, 0.0, "5 tokens · 10.0 tokens/s · reached the limit of 5 new tokens"),
        ("length", 4, 0.0, "4 tokens · 8.0 tokens/s · the model's context is full"),
        ("eos", 2, 0.8, "2 tokens · 4.0 tokens/s · finished · seed 17"),
    ],
)
def test_describe_end_gives_the_count_the_speed_and_the_reason(
    stop_reason: str, n_tokens: int, temperature: float, expected: str
) -> None:
    reply = Reply.model_validate(
        {"prompt": "p", "prompt_token_ids": (1,), "response": "r", "token_ids": tuple(range(n_tokens))}
        | {"stop_reason": stop_reason, "seconds": 0.5}
    )
    settings = GenerationSettings(max_new_tokens=5, temperature=temperature, seed=17)
    assert describe_end(reply, settings) == expected
    if stop_reason == "stop":
        shortened = reply.model_copy(update={"n_forgotten": 2})
        assert describe_end(shortened, settings) == f"{expected} · oldest messages that did not fit: 2"
