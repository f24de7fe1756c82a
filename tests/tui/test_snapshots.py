"""What the chat looks like.

If you change its look on purpose, run `pytest tests/tui/test_snapshots.py --snapshot-update`. Then look at every
changed picture in `tests/tui/__snapshots__/`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from textual.pilot import Pilot

from assistant.chat import worker
from assistant.chat.scores import Suggestion
from assistant.chat.state import OpenAnswer
from assistant.dataset.examples import Example
from assistant.errors import CheckpointError
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp
from assistant.tui.token_view import TokenScreen
from tests.support.chat_driver import ChatDriver
from tests.support.chat_rows import info_of
from tests.support.chat_setup import SessionSource, make_setup
from tests.support.scripted_session import ScriptedSession, TokenSession

Compare = Callable[..., bool]
Step = Callable[[ChatDriver], Any]

PAIRS = {
    "What is the plural of mouse?": ("The plural of mouse is mice.", "The plural of vertex is vertices."),
    "Name the opposite of early.": ("The opposite of early is late.", "The opposite of early is late."),
    "What is a young bison called?": ("A young bison is called a calf.", "The response came on Monday."),
}
ROWS = [Example(instruction=question, input="", output=answers[0]) for question, answers in PAIRS.items()]
QUESTION = "What is the plural of mouse?"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the developer's terminal, and chance, out of the pictures."""
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_COLOR_SYSTEM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(random, "SystemRandom", lambda: random.Random(18))


def models() -> tuple[TokenSession, TokenSession]:
    """A tuned model that answers every row right, and its base."""
    tuned, base = TokenSession("I do not know."), TokenSession("The response came on Monday.")
    tuned.answers = {question: answers[0] for question, answers in PAIRS.items()}
    base.answers = {question: answers[1] for question, answers in PAIRS.items()}
    tuned.info = info_of("fingerprint")
    return tuned, base


def make_app(tuned: SessionSource, base: SessionSource | None = None, **setup: Any) -> ChatApp:
    """Make a chat on scripted sessions."""
    generation = GenerationSettings(max_new_tokens=64)
    app = ChatApp(make_setup(tuned, base, rows=ROWS, generation=generation, model_name="runs/mine", **setup))
    app.theme = "textual-dark"
    return app


def steps(*todo: Step | str | Sequence[str]) -> Callable[[Pilot[None]], Any]:
    """Return a function that waits for the models, then sends texts, presses keys in lists, and takes steps."""

    async def run(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, ChatApp)
        chat = ChatDriver(pilot.app, pilot)
        chat.prompt.instruction_field.cursor_blink = False
        await chat.until(lambda: chat.idle or chat.state == "no model")
        for step in todo:
            if isinstance(step, str):
                await chat.send(step)
                await chat.until_idle()
            elif callable(step):
                await step(chat)
            else:
                await chat.press(*step)
                await chat.until_idle()
        chat.screen.query_one("#foot").end_notice()  # type: ignore[attr-defined]
        await chat.settle()

    return run


def test_empty(snap_compare: Compare) -> None:
    suggestions = [Suggestion(QUESTION), Suggestion("Find the odd one out.", "cashew, acorn, cheesecake")]
    assert snap_compare(make_app(*models(), suggestions=suggestions), run_before=steps())


def test_one_turn(snap_compare: Compare) -> None:
    assert snap_compare(make_app(*models()), run_before=steps(QUESTION))


def test_streaming(snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(OpenAnswer, "tokens_per_second", 20.0)
    session = ScriptedSession("First, ", "boil ", "the water.", hold_at=2)

    async def begin(chat: ChatDriver) -> None:
        await chat.send("How do I make tea?\nBriefly, please.")
        await chat.until(lambda: "boil" in chat.visible())
        await chat.send("And coffee?")
        await chat.until(lambda: "1 waiting" in chat.state)

    assert snap_compare(make_app(session), run_before=steps(begin))


def test_beside(snap_compare: Compare) -> None:
    app = make_app(*models(), beside=True)
    assert snap_compare(app, terminal_size=(120, 24), run_before=steps(QUESTION, "Name the opposite of early."))


def test_stacked(snap_compare: Compare) -> None:
    assert snap_compare(make_app(*models(), beside=True), run_before=steps(QUESTION, ["ctrl+up"]))


def test_held_out_rows(snap_compare: Compare) -> None:
    app = make_app(*models())
    assert snap_compare(app, terminal_size=(100, 24), run_before=steps(["ctrl+t"], ["f5"]))


def test_blind(snap_compare: Compare) -> None:
    assert snap_compare(make_app(*models(), blind=True), terminal_size=(100, 24), run_before=steps(QUESTION))


def test_tokens(snap_compare: Compare) -> None:
    async def look(chat: ChatDriver) -> None:
        await chat.press("f3")
        await chat.until(lambda: isinstance(chat.app.screen, TokenScreen))
        await chat.press("right", "down")

    assert snap_compare(make_app(*models()), run_before=steps(QUESTION, look))


def test_exact_prompt(snap_compare: Compare) -> None:
    async def ask(chat: ChatDriver) -> None:
        await chat.press(*"Sum it up.", "tab", *"1 and 2")
        await chat.press("f4")

    assert snap_compare(make_app(*models()), terminal_size=(80, 30), run_before=steps(ask))


def test_answer_failed(snap_compare: Compare) -> None:
    session = ScriptedSession("First, ", "boil ", error=RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert snap_compare(make_app(session), run_before=steps("How do I make tea?"))


def test_load_failed(snap_compare: Compare) -> None:
    def load() -> ScriptedSession:
        raise CheckpointError("models/mine: expected a model folder, got no such folder. Check the path.")

    assert snap_compare(make_app(load), run_before=steps())


def test_narrow(snap_compare: Compare) -> None:
    session = ScriptedSession("Green, ", "red ", "and ", "blue.")

    async def write(chat: ChatDriver) -> None:
        await chat.press(*"and 2")
        view = chat.screen.query_one("#conversation")
        await chat.until(lambda: "49/256 tokens" in chat.visible() and view.is_vertical_scroll_end)
        await chat.until(lambda: "ended by itself" in chat.visible())

    assert snap_compare(make_app(session), terminal_size=(40, 12), run_before=steps("Name three colours.", write))


def test_light(snap_compare: Compare) -> None:
    app = make_app(*models(), beside=True)
    app.theme = "textual-light"
    assert snap_compare(app, terminal_size=(100, 24), run_before=steps(["ctrl+t"], ["ctrl+t"]))


def test_help(snap_compare: Compare) -> None:
    assert snap_compare(make_app(*models()), terminal_size=(80, 40), run_before=steps(["f1"]))
