"""The chat, driven by keys, on a scripted model. Asserts on widgets, waits for conditions, never for time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from textual import events
from textual.widgets.markdown import MarkdownFence

from assistant.decoding.reply import Reply
from assistant.errors import ContextError, PrerequisiteError
from assistant.settings import GenerationSettings
from assistant.tui import app as app_module
from assistant.tui.app import ChatApp, run_chat
from assistant.tui.prompt import Prompt
from assistant.tui.turns import ErrorCard, ReplyMessage, UserMessage, describe_end
from tests.support.chat_double import ScriptedSession, async_test, chat, text_of

MARKUP = "see [/etc/x] and [bold and [@click=app.quit]q[/] $primary"
HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b[31m a\u202eb\x00 \x9b2J \ud800 &#x202e; <b>tag</b> [name](http://example.org)"


# --- one message --------------------------------------------------------------------------------------------------


@async_test
async def test_a_message_is_answered() -> None:
    session = ScriptedSession("It is ", "**green", "**.\n", "Really.")
    async with chat(session, settings=GenerationSettings(max_new_tokens=9)) as c:
        await c.send("  Which colour\nis grass?  ")
        assert c.prompt.text == ""
        await c.until_idle()
        assert c.texts("UserMessage .text") == ["Which colour\nis grass?"]
        assert c.texts("ReplyMarkdown") == ["It is green.\nReally."]
        assert c.texts("ReplyMessage .note") == ["4 tokens · 20.0 tokens/s · finished"]
        assert not c.screen.query(ErrorCard)
    assert session.instructions == ["Which colour\nis grass?"]
    assert session.settings == [GenerationSettings(max_new_tokens=9)]


@async_test
async def test_text_is_shown_while_it_comes() -> None:
    session = ScriptedSession("```python\n", "x = 1\n", "```\n", "Done.", hold_at=2)
    async with chat(session, every_piece=True) as c:
        await c.send("code")
        await c.until(lambda: c.texts("MarkdownFence") == ["x = 1"])
        # A fence at the beginning falls apart when the stream does not start on an empty widget.
        assert c.screen.query_one(MarkdownFence).code == "x = 1"
        assert c.texts("ReplyMessage .note") == ["writing …"]
        assert c.status.startswith("writing")
        session.gate.set()
        await c.until_idle()
        assert c.screen.query_one(MarkdownFence).code == "x = 1"
        assert c.texts("ReplyMarkdown MarkdownParagraph") == ["Done."]


@async_test
async def test_pieces_are_gathered() -> None:
    async with chat(ScriptedSession(*(f"{n} " for n in range(2000)))) as c:
        writes = 0
        add_text = ReplyMessage.add_text

        async def count(self: ReplyMessage, text: str) -> None:
            nonlocal writes
            writes += 1
            await add_text(self, text)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReplyMessage, "add_text", count)
            await c.send("count")
            await c.until_idle()
        assert 1 <= writes < 40
        assert c.screen.query_one(ReplyMessage).text.split() == [str(n) for n in range(2000)]


@async_test
async def test_an_empty_reply_says_so() -> None:
    async with chat(ScriptedSession()) as c:
        await c.send("hello")
        await c.until_idle()
        assert c.texts("ReplyMessage .note") == ["0 tokens · finished without a word"]


@pytest.mark.parametrize(
    ("reason", "count", "temperature", "words"),
    [
        ("eos", 1, 0.0, "1 token · 2.0 tokens/s · finished"),
        ("stop", 5, 0.0, "5 tokens · 10.0 tokens/s · ended at a stop text"),
        ("cancelled", 3, 0.0, "3 tokens · 6.0 tokens/s · stopped by you"),
        ("length", 5, 0.0, "5 tokens · 10.0 tokens/s · reached the limit of 5 new tokens"),
        ("length", 4, 0.0, "4 tokens · 8.0 tokens/s · the model's context is full"),
        ("eos", 2, 0.8, "2 tokens · 4.0 tokens/s · finished · seed 17"),
    ],
)
def test_the_end_is_told_in_words(reason: str, count: int, temperature: float, words: str) -> None:
    reply = Reply.model_validate(
        {"prompt": "p", "prompt_token_ids": (1,), "response": "r", "token_ids": tuple(range(count))}
        | {"stop_reason": reason, "seconds": 0.5}
    )
    settings = GenerationSettings(max_new_tokens=5, temperature=temperature, seed=17)
    assert describe_end(reply, settings) == words
    if reason == "stop":
        shortened = reply.model_copy(update={"n_forgotten": 2})
        left_out = " · 2 of the oldest messages no longer fit and were left out"
        assert describe_end(shortened, settings) == words + left_out


# --- stopping, and one at a time ----------------------------------------------------------------------------------


@async_test
async def test_escape_stops_and_keeps_the_text() -> None:
    session = ScriptedSession("one ", "two ", "three", hold_at=2)
    async with chat(session, every_piece=True) as c:
        await c.send("count")
        await c.until(lambda: "two" in "".join(c.texts("ReplyMarkdown")))
        await c.press("escape")
        await c.until_idle()
        assert c.texts("ReplyMarkdown") == ["one two"]
        assert c.texts("ReplyMessage .note") == ["2 tokens · 20.0 tokens/s · stopped by you"]
        session.gate.set()
        await c.send("again")  # the old stop does not reach the new reply
        await c.until(lambda: len(c.screen.query(ReplyMessage)) == 2 and c.idle)
        assert c.texts("ReplyMarkdown")[1] == "one two three"


@async_test
async def test_the_prompt_is_free_only_when_the_thread_has_ended() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    session.deaf = True
    async with chat(session) as c:
        await c.send("first")
        await c.until(lambda: session.running)
        await c.press("escape")
        await c.until(lambda: c.texts("ReplyMessage .note") == ["stopping …"])
        await c.send("second")
        assert c.prompt.text == "second"
        assert session.instructions == ["first"]
        session.gate.set()
        await c.until_idle()
        await c.press("enter")
        await c.until(lambda: len(c.screen.query(ReplyMessage)) == 2 and c.idle)
    assert session.instructions == ["first", "second"]
    assert session.most_running == 1


@async_test
async def test_enter_while_a_reply_is_written_loses_nothing() -> None:
    session = ScriptedSession("one ", "two", hold_at=1)
    async with chat(session) as c:
        await c.send("first")
        await c.send("second")
        await c.press("enter", "enter")
        assert c.prompt.text == "second"
        assert c.status == "Esc stops the reply; your text stays."
        assert len(c.screen.query(UserMessage)) == 1
        session.gate.set()
        await c.until_idle()
        assert c.prompt.text == "second"
    assert session.instructions == ["first"]


@async_test
async def test_escape_right_behind_enter_breaks_nothing() -> None:
    """Actions run in the app's queue, messages in the screen's: an Esc may come in the middle of taking a message."""
    session = ScriptedSession("one ", "two", hold_at=0)
    async with chat(session) as c:
        for number in range(5):
            c.prompt.post_message(Prompt.Submitted(f"message {number}"))
            await asyncio.sleep(0.001 * number)
            c.screen.action_stop()
            await c.until_idle()
        assert len(c.screen.query(UserMessage)) == len(c.screen.query(ReplyMessage)) == 5


@pytest.mark.parametrize("hold_at", [0, 1])
def test_quitting_ends_a_reply_at_once(hold_at: int) -> None:
    session = ScriptedSession("one ", "two", hold_at=hold_at)

    async def quit_while_writing() -> None:
        async with chat(session) as c:
            await c.send("first")
            await c.until(lambda: session.running)
            await c.press("ctrl+q")

    start = time.monotonic()
    asyncio.run(quit_while_writing())  # waits for the threads
    assert session.running == 0
    assert time.monotonic() - start < 2


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ContextError("prompt: expected at most 60 tokens, got 90. Shorten it."), "prompt: expected at most 60 tokens"),
        (RuntimeError(f"CUDA out of memory {MARKUP}"), f"RuntimeError: CUDA out of memory {MARKUP}"),
        (MemoryError(), "MemoryError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_leaves_everything_in_place(error: BaseException, shown: str) -> None:
    session = ScriptedSession("half an ", error=error)

    @async_test
    async def scenario() -> None:
        async with chat(session) as c:
            await c.send("first")
            await c.until(lambda: c.screen.query(ErrorCard) and c.idle)
            card = text_of(c.screen.query_one(ErrorCard))
            assert shown in card
            assert "back in the prompt" in card
            assert c.texts("ReplyMarkdown") == ["half an"]
            assert c.texts("ReplyMessage .note") == ["not finished"]
            assert c.texts("UserMessage .text") == ["first"]
            assert c.prompt.text == "first"
            session.error = None
            await c.press("enter")
            await c.until(lambda: len(c.screen.query(ReplyMessage)) == 2 and c.idle)
            assert c.texts("ReplyMessage .note")[1].endswith("finished")

    scenario()


@async_test
async def test_an_error_before_the_first_word_leaves_no_empty_reply() -> None:
    async with chat(ScriptedSession(error=ContextError("prompt: too long"))) as c:
        await c.send("first")
        await c.until(lambda: c.screen.query(ErrorCard) and c.idle)
        assert not c.screen.query(ReplyMessage)
        assert c.prompt.text == "first"


@async_test
async def test_an_error_does_not_touch_what_is_being_typed() -> None:
    session = ScriptedSession("x", hold_at=0, error=RuntimeError("no"))
    async with chat(session) as c:
        await c.send("first")
        c.type("a draft")
        session.gate.set()
        await c.until(lambda: c.screen.query(ErrorCard))
        assert c.prompt.text == "a draft"
        assert "Press up" in text_of(c.screen.query_one(ErrorCard))
        await c.press("up")
        assert c.prompt.text == "first"


@async_test
async def test_markup_is_text_everywhere() -> None:
    session = ScriptedSession(MARKUP, error=RuntimeError(MARKUP))
    session.summary = MARKUP
    session.name = MARKUP
    async with chat(session, model_name=MARKUP, size=(160, 40)) as c:
        assert MARKUP in c.status
        assert text_of(c.screen.query_one("#title")) == f"assistant · {MARKUP}"
        await c.send(MARKUP)
        await c.until(lambda: c.screen.query(ErrorCard) and c.idle)
        for selector in ("UserMessage .text", "ReplyMarkdown", "ErrorCard"):
            assert MARKUP in c.texts(selector)[0]
        # title, message, reply, error, prompt, status
        await c.until(lambda: c.visible().count(MARKUP) == 6)


@async_test
async def test_hostile_text_reaches_the_terminal_as_signs() -> None:
    session = ScriptedSession(*HOSTILE, error=RuntimeError(HOSTILE))
    session.summary = session.name = HOSTILE
    async with chat(session, model_name=HOSTILE, size=(200, 40)) as c:
        c.app.post_message(events.Paste(HOSTILE))
        await c.until(lambda: c.prompt.text)
        await c.press("enter")
        await c.until(lambda: c.screen.query(ErrorCard) and c.idle)
        signs = r"␛]52;c;cm0gLXJm␇␛[31m a\u202eb␀ \u009b2J \ud800 &#x202e; <b>tag</b> [name](http://example.org)"
        await c.until(lambda: c.visible().count(signs) == 6)
        assert c.visible().replace("\n", "").isprintable()
        await c.press("ctrl+y")  # nothing is complete, nothing to copy
        assert c.app.clipboard == ""


# --- loading ------------------------------------------------------------------------------------------------------


@async_test
async def test_the_screen_stands_before_loading_starts() -> None:
    seen: list[object] = []
    gate = threading.Event()

    def load() -> ScriptedSession:
        seen.append((c.screen.focused is c.prompt, c.prompt.size.height, c.screen.query_one("Welcome").size.height > 0))
        gate.wait(10)
        return ScriptedSession("Hello.")

    async with chat(load=load) as c:
        await c.until(lambda: seen)
        assert seen == [(True, 1, True)]
        assert c.status == "loading toy … you may type"
        await c.send("early")
        assert c.texts("UserMessage .text") == ["early"]
        assert c.texts("UserMessage .note") == ["waiting for the model …"]
        await c.send("too much")
        assert c.status == "Esc takes back the message that waits."
        assert c.prompt.text == "too much"
        gate.set()
        await c.until_idle()
        assert c.texts("UserMessage .text") == ["early"]
        assert not c.screen.query_one("UserMessage .note").display
        assert c.texts("ReplyMarkdown") == ["Hello."]
        assert c.prompt.text == "too much"
        assert c.status == f"ready · {ScriptedSession.summary}"


@async_test
async def test_a_waiting_message_can_be_taken_back() -> None:
    gate = threading.Event()
    session = ScriptedSession("Hello.")

    def load() -> ScriptedSession:
        gate.wait(10)
        return session

    async with chat(load=load) as c:
        await c.send("early")
        await c.until(lambda: c.screen.query(UserMessage))
        await c.press("escape")
        await c.until(lambda: not c.screen.query(UserMessage))
        assert c.prompt.text == "early"
        gate.set()
        await c.until_idle()
        assert session.instructions == []
        await c.press("enter")
        await c.until(lambda: c.screen.query(ReplyMessage) and c.idle)


@async_test
async def test_a_model_that_cannot_be_loaded() -> None:
    gate = threading.Event()
    problems = [f"models/x {MARKUP}: expected a model folder, got no such folder.", "still nothing", ""]

    def load() -> ScriptedSession:
        gate.wait(10)
        if problem := problems.pop(0):
            raise PrerequisiteError(problem)
        return ScriptedSession("Hello.")

    async with chat(load=load) as c:
        await c.send("early")
        gate.set()
        await c.until(lambda: c.screen.query(ErrorCard) and c.status.startswith("no model"))
        assert MARKUP in text_of(c.screen.query_one(ErrorCard))
        assert c.prompt.text == "early"
        assert not c.screen.query(UserMessage)
        for _ in range(3):
            await c.press("enter")
            await c.until(lambda: c.prompt.text == "early")
            await c.until(lambda: c.screen.query(ErrorCard))
            assert len(c.screen.query(ErrorCard)) == 1
        await c.press("ctrl+l")
        await c.until(lambda: c.texts("ErrorCard") == ["still nothing\nPress ctrl+l to try loading again."])
        await c.press("ctrl+l")
        await c.until_idle()
        assert not c.screen.query(ErrorCard)
        await c.press("enter")
        await c.until(lambda: c.texts("ReplyMarkdown") == ["Hello."] and c.idle)


def test_importing_the_chat_leaves_torch_out() -> None:
    code = "import sys, assistant.tui; print(*{'torch', 'pandas', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_run_chat_loads_the_model_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[ChatApp] = []
    monkeypatch.setattr(app_module, "run_app", lambda app: apps.append(app) or 7)
    session = SimpleNamespace(Session=SimpleNamespace(load=lambda model, precision: ("loaded", model, precision)))
    monkeypatch.setattr(app_module, "check_terminal", lambda: None)
    assert run_chat("models/mine", GenerationSettings(), precision="int8") == 7
    monkeypatch.setitem(sys.modules, "assistant.decoding.session", session)
    screen = apps[0].get_default_screen()
    assert screen._load() == ("loaded", "models/mine", "int8")
    assert screen._model_name == "mine"


@pytest.mark.parametrize(("stdin", "stderr", "culprit"), [(False, True, "input"), (True, False, "error output")])
def test_without_a_terminal_there_is_another_way(
    monkeypatch: pytest.MonkeyPatch, stdin: bool, stderr: bool, culprit: str
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: stdin))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: stderr))
    with pytest.raises(PrerequisiteError, match=f"standard {culprit} .*assistant ask"):
        run_chat("models/mine", GenerationSettings())
