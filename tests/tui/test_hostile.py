"""Whatever a model, a person, a file name or an error writes: the screen shows it, the terminal does not obey it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual import events
from textual.app import App
from textual.content import Content

from assistant.chat.events import TokenDetail
from assistant.chat.growth import GrowthRow, GrowthStep
from assistant.chat.prompt_parts import ExactPrompt, PromptPart
from assistant.chat.records import AnswerKey, RowRun
from assistant.chat.scores import Suggestion
from assistant.chat.store import Summary
from assistant.dataset.examples import Example
from assistant.dataset.prompts import PartKind
from assistant.decoding.reply import TokenLogprob
from assistant.errors import PrerequisiteError
from assistant.tui import answer_view, cards, foot, foot_state, growth_view, prompt_view, sessions, title, token_view
from assistant.tui import turn_view as turns
from assistant.tui.correction import CorrectionScreen
from assistant.tui.growth_view import GrowthScreen
from assistant.tui.modal import Modal
from assistant.tui.prompt_view import PromptScreen
from assistant.tui.token_view import TokenScreen
from assistant.tui.turn_state import AnswerState, TurnState
from tests.support.chat_driver import async_test, open_chat
from tests.support.hostile import HOSTILE
from tests.support.scripted_session import ScriptedSession

MARKUP = "see [/etc/x] and [bold and [@click=app.quit]q[/] $primary [link=http://x]"
TERMINAL = "\x1b]52;c;cm0gLXJm\x07\x1b[31m a\u202eb\x00 \x9b2J \x1b]0;title\x1b\\ \u2028 \ufeff\u200b\x7f\t\r\x0b\x85"
EMOJI = "👩\u200d👩\u200d👧 שלום \u0301 é \U000e0041"
TEXTS = [MARKUP, TERMINAL, HOSTILE, EMOJI, "word " * 1000, "x" * 5000, "\n" * 50]
NAMES = ["markup", "escapes", "html", "emoji", "words", "a long word", "line ends"]
pieces = st.one_of(st.sampled_from([MARKUP, TERMINAL, HOSTILE, EMOJI]), st.text(st.characters(exclude_categories=())))
texts = st.lists(pieces, max_size=3).map("".join)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def is_harmless(text: str) -> bool:
    """Whether no character of the text can control a terminal, or hide or reorder its neighbours."""
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return all(unicodedata.category(one) not in hidden or one in "\n\t\u200c\u200d" for one in text)


def answer_of(text: str, marked: tuple[int, int] | None = None) -> AnswerState:
    return AnswerState(
        key=AnswerKey(0, "tuned", 0), label=text, status="ended", text=text, note=text, is_named=True, marked=marked
    )


def turn_of(text: str) -> TurnState:
    return TurnState(
        number=0,
        instruction=text,
        input=text,
        answers=(answer_of(text),),
        reference=text,
        correction=text,
        nearest=text,
        hint="",
    )


def row_of(text: str) -> RowRun:
    return RowRun(at=WHEN, run=0, row="r", instruction=text, input=text, reference=text, tuned=text, base=text)


def token_of(text: str) -> TokenDetail:
    likeliest = (TokenLogprob(token_id=1, text=text, logprob=-0.5),)
    return TokenDetail(
        token_id=1, text=text, probability=0.6, rank=1, entropy=1.0, likeliest=likeliest,
        base_probability=0.1, base_rank=3,
    )  # fmt: skip


def prompt_of(text: str) -> ExactPrompt:
    kinds: tuple[PartKind, ...] = ("preamble", "instruction", "input", "history")
    parts = tuple(PromptPart(kind=kind, text=text, token_ids=(1,)) for kind in kinds)
    return ExactPrompt(parts=parts, context_length=64, n_forgotten=1)


def growth_of(text: str) -> GrowthRow:
    step = GrowthStep(step=1, validation_loss=1.0, response=text, is_match=False)
    return GrowthRow(instruction=text, input=text, reference=text, steps=(step,))


def title_of(text: str) -> title.TitleParts:
    return title.TitleParts(model=text, base=text, size=text, template=text, score=text)


DRAWN: dict[str, Callable[[str], Content]] = {
    "an answer": lambda text: answer_view.whole_content(answer_of(text), is_folded=False),
    "a folded answer": lambda text: answer_view.whole_content(answer_of(text), is_folded=True),
    "a marked answer": lambda text: answer_view.whole_content(answer_of(text, (1, 3)), is_folded=False),
    "a question": lambda text: turns.question_content(turn_of(text)),
    "the foot of a turn": lambda text: turns.foot_content(turn_of(text)),
    "a run": lambda text: cards.run_content([row_of(text)], 2),
    "the title": lambda text: title.title_content(title_of(text), 80),
    "the state": lambda text: foot_state.state(None, text, prompt_tokens=None),
    "the foot": lambda text: foot.foot_content([], foot_state.state(None, text, prompt_tokens=None), 80)[0],
    "tokens": lambda text: token_view.answer_content([token_of(text)], 0),
    "a token": lambda text: token_view.detail_content([token_of(text)], 0, 0, can_continue=True),
    "the exact prompt": lambda text: prompt_view.prompt_content(prompt_of(text)),
    "a row of the training": lambda text: growth_view.row_content(growth_of(text), 0, 1),
    "the steps of the training": lambda text: growth_view.steps_content(growth_of(text)),
    "a conversation": lambda text: sessions.describe(
        Summary(id="i", changed=WHEN, title=text, model=text, n_turns=1), None
    ),
    "a damaged conversation": lambda text: sessions.describe(Summary(id="i", changed=WHEN, problem=text), None),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_part_escapes_what_others_write(name: str) -> None:
    @settings(max_examples=40)
    @given(texts)
    def draw(text: str) -> None:
        assert is_harmless(DRAWN[name](text).plain)

    draw()


@pytest.mark.parametrize("name", ["an answer", "a question", "the exact prompt", "a row of the training"])
def test_brackets_are_shown_as_they_are(name: str) -> None:
    assert MARKUP in DRAWN[name](MARKUP).plain


def assert_harmless(app: App[None]) -> None:
    """No character that reaches the terminal controls it, and each row is as wide as the screen."""
    strips = app.screen._compositor.render_strips()
    for strip in strips:
        text = "".join(segment.text for segment in strip)
        assert is_harmless(text)
        assert "\t" not in text
        assert "\n" not in text


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_the_conversation_shows_every_text(text: str, tmp_path: Path) -> None:
    rows = [Example(instruction=f"{text} {n}", input=text, output=text) for n in range(2)]
    tuned, base = (ScriptedSession(text, name=text, context_length=100_000) for _ in range(2))

    @async_test
    async def talk() -> None:
        suggestions = [Suggestion(text, text)]
        async with open_chat(
            tuned, base, rows=rows, train=rows, beside=True, suggestions=suggestions, model_name=text, folder=tmp_path
        ) as chat:
            assert_harmless(chat.app)
            chat.app.post_message(events.Paste(text))
            await chat.until(lambda: chat.prompt.instruction)
            assert_harmless(chat.app)
            await chat.press("tab")
            chat.app.post_message(events.Paste(text))
            await chat.press("enter", "ctrl+t", "f5", "f10")
            await chat.until(lambda: (chat.chat.runs and chat.idle) or not text.strip())
            assert_harmless(chat.app)
            await chat.press("f8")
            assert_harmless(chat.app)
            chat.screen.show_notice(text)
            await chat.settle()
            assert_harmless(chat.app)
            tuned.error = RuntimeError(text)
            await chat.send("fail")
            await chat.until(lambda: chat.texts("ProblemCard"))
            assert_harmless(chat.app)
            await chat.press("ctrl+o")
            await chat.settle()
            assert_harmless(chat.app)

    talk()


@pytest.mark.parametrize("text", TEXTS, ids=NAMES)
def test_every_screen_over_the_conversation_shows_every_text(text: str) -> None:
    screens: list[Modal[object]] = [
        TokenScreen([token_of(text)], title=text, can_continue=True),  # type: ignore[list-item]
        PromptScreen(prompt_of(text)),  # type: ignore[list-item]
        GrowthScreen([growth_of(text)]),  # type: ignore[list-item]
        CorrectionScreen(text, text, note=""),  # type: ignore[list-item]
    ]

    @async_test
    async def show() -> None:
        async with open_chat() as chat:
            for screen in screens:
                await chat.app.push_screen(screen)
                await chat.settle()
                assert_harmless(chat.app)
                await chat.app.pop_screen()

    show()


@pytest.mark.parametrize("text", TEXTS[:3], ids=NAMES[:3])
def test_a_model_that_cannot_be_loaded_may_be_called_anything(text: str) -> None:
    def load() -> ScriptedSession:
        raise PrerequisiteError(text)

    @async_test
    async def fail() -> None:
        async with open_chat(load, model_name=text, waits=False) as chat:
            await chat.until(lambda: chat.texts("ProblemCard"))
            assert_harmless(chat.app)

    fail()
