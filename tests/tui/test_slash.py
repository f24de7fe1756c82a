"""Commands of the prompt whose text decides what they do."""

from __future__ import annotations

from pathlib import Path

from textual.widgets import Input

from assistant.tui.sessions import SessionsScreen
from tests.support.chat_driver import async_test, open_chat
from tests.support.scripted_session import ScriptedSession


@async_test
async def test_a_choice_between_named_answers_and_what_is_none() -> None:
    async with open_chat(ScriptedSession("fish"), ScriptedSession("fowl"), beside=True) as chat:
        await chat.send("Hi")
        await chat.until_idle()
        await chat.send("/choose up")
        await chat.until(lambda: "/choose: expected left, right or neither, got up." in chat.notice)
        turn = chat.chat.conversation.turns[0]
        assert chat.chat.conversation.turns[0].choice is None
        await chat.send("/choose right")
        await chat.until(lambda: "You preferred the fine-tuned model." in chat.notice)
        assert turn.choice is not None
        await chat.send("/keep 7")
        await chat.until(lambda: "/keep: expected the number of an answer" in chat.notice)
        assert turn.kept_variant == 0
        await chat.send("/correct Hello.")
        await chat.until(lambda: "/save-rows" in chat.notice)
        assert turn.correction == "Hello."


@async_test
async def test_the_list_of_conversations_begins_with_a_search(tmp_path: Path) -> None:
    async with open_chat(folder=tmp_path) as chat:
        await chat.send("Of cats")
        await chat.until_idle()
        await chat.send("/list dogs")
        await chat.until(lambda: isinstance(chat.app.screen, SessionsScreen))
        assert chat.app.screen.query_one(Input).value == "dogs"
