"""The screen of `evaluation label`, driven by keys. Tests check widgets and wait for conditions, never for a time."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot

from assistant.jsonl import AppendOnly
from evaluation.answers.folder import AnswersFolder
from evaluation.judging.rubric import SCALE
from evaluation.people.label_screen import SHOWN_LENGTH, LabelApp, Material, TagLine, scale
from evaluation.people.labels import LABELS_FILE, Label, LabelSession, draw_rows, read_labels
from tests.conftest import REPOSITORY
from tests.support.chat_driver import TIMEOUT_SECONDS, async_test, text_of
from tests.support.raw_terminal import GIVEN_BACK, read_until
from tests.support.scored_answers import add_judgements, measured_answers, score_fields

HOSTILE = "\x1b]52;c;cm0gLXJm\x07\x1b[31m a\u202eb \x9b2J <b>x</b> [name](http://example.org) [@click=app.quit]q[/] $x"
SYMBOLS = r"␛]52;c;cm0gLXJm␇␛[31m a\u202eb \u009b2J <b>x</b> [name](http://example.org) [@click=app.quit]q[/] $x"


def rows(*responses: str) -> list[tuple[str, ...]]:
    return [(f"Reference {n}.", response, f"kind {n}") for n, response in enumerate(responses)]


@contextmanager
def open_session(answers: AnswersFolder, count: int = 20) -> Iterator[LabelSession]:
    with AppendOnly[Label](answers.folder / LABELS_FILE) as file:
        yield LabelSession(draw_rows(answers.responses), read_labels(answers), file, labeller="ada", count=count)


@dataclass
class LabelDriver:
    """A running screen that a test operates with keys."""

    app: LabelApp
    session: LabelSession
    pilot: Pilot[None]

    @property
    def tag_line(self) -> TagLine:
        """The line that gets all keys."""
        return self.app.screen_stack[0].query_one(TagLine)

    async def press(self, *keys: str) -> None:
        """Press all keys at once, as a terminal sends keys that were typed ahead."""
        for key in keys:
            self.app.post_message(events.Key(key, key if len(key) == 1 else " " if key == "space" else None))
        await self.settle()

    async def settle(self) -> None:
        """Wait until the app, the screens and the tag's line have handled the messages between them."""
        for pump in (self.app, self.tag_line, self.app.screen, self.app.screen_stack[0]) * 3:
            handled = asyncio.Event()
            if pump.call_later(handled.set):
                await handled.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds. Fails after `TIMEOUT_SECONDS`."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"failed for {TIMEOUT_SECONDS} s; the screen shows:\n{self.visible()}"
            await asyncio.sleep(0.005)
        await self.settle()

    async def resize(self, width: int, height: int) -> None:
        """Give the terminal another size."""
        await self.pilot.resize_terminal(width, height)

    def text(self, selector: str) -> str:
        """The text of a widget of the screen with the rows."""
        return text_of(self.app.screen_stack[0].query_one(selector))

    def visible(self) -> str:
        """The text that the terminal shows."""
        return "\n".join("".join(s.text for s in strip) for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def open_labels(
    answers: AnswersFolder, *, count: int = 20, size: tuple[int, int] = (80, 30)
) -> AsyncIterator[LabelDriver]:
    with open_session(answers, count) as session:
        app = LabelApp(session, str(answers.folder.name))
        async with app.run_test(size=size) as pilot:
            driver = LabelDriver(app, session, pilot)
            await driver.until(lambda: app.screen.query_one("#material").region.height > size[1] // 2 - 3)
            yield driver


def stored(answers: AnswersFolder) -> list[tuple[int | None, str | None]]:
    return [(label.score, label.tag) for label in read_labels(answers).values()]


@pytest.fixture
def answers(tmp_path: Path) -> AnswersFolder:
    """Three rows that need a person, and a judge's scores of them."""
    answers = measured_answers(tmp_path, rows("One.", "Two.", "Three."))
    add_judgements(answers, {n: score_fields(4, analysis="THE JUDGE LIKED IT") for n in range(3)})
    return answers


# --- keys ---------------------------------------------------------------------------------------------------------


@async_test
async def test_keys_typed_ahead_arrive_in_order(answers: AnswersFolder) -> None:
    async with open_labels(answers) as labels:
        assert labels.text("#title") == f"label · 1 of 3 · {labels.session.current.category} · run"  # type: ignore[union-attr]
        await labels.press(*"5tq5 s", "enter", *"3s")
        assert labels.text("#title") == "label · 2 of 3 · run"
        assert labels.text("#status") == "skipped rows left: 1 · u goes back · q quits"
    assert stored(answers) == [(100, None), (60, "q5 s")]


@async_test
async def test_escape_discards_a_tag_and_enter_keeps_it(answers: AnswersFolder) -> None:
    async with open_labels(answers) as labels:
        await labels.press(*"tbad", "escape")
        assert labels.tag_line.value == ""
        await labels.press(*"tworse", "enter", "t", "!", "enter", "x", "backspace")
        assert labels.tag_line.value == "worse!"
        assert stored(answers) == [(None, "worse!")]
        assert labels.text("#title").startswith("label · 1 of 3")


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+q", 0), ("ctrl+c", 130)])
def test_quitting_keeps_everything(answers: AnswersFolder, key: str, code: int) -> None:
    @async_test
    async def scenario() -> None:
        async with open_labels(answers) as labels:
            await labels.press("4", key)
            assert labels.app.return_code == code

    scenario()
    assert stored(answers) == [(80, None)]


@async_test
async def test_ctrl_c_keeps_the_tag_that_is_being_written(answers: AnswersFolder) -> None:
    async with open_labels(answers) as labels:
        await labels.press(*"thalf", "ctrl+c")
    assert stored(answers) == [(None, "half")]


@async_test
async def test_ctrl_c_quits_from_the_help(answers: AnswersFolder) -> None:
    async with open_labels(answers, size=(100, 40)) as labels:
        await labels.press("f1")
        await labels.until(lambda: "Keys" in labels.visible())
        shown = " ".join(labels.visible().replace("│", " ").split())
        for sentence in SCALE:
            assert sentence in shown
        await labels.press("ctrl+c")
        await labels.until(lambda: labels.app.return_code == 130)


@async_test
async def test_undo_shows_the_row_before(answers: AnswersFolder) -> None:
    async with open_labels(answers) as labels:
        await labels.press("u")
        await labels.until(lambda: labels.text("#status") == "There is nothing to undo.")
        response = labels.text("#response-text")
        await labels.press("2")
        assert labels.text("#response-text") != response
        await labels.press("u")
        assert labels.text("#response-text") == response
        await labels.until(lambda: labels.text("#status") == "Back to the row before.")
        assert labels.text("#title").startswith("label · 1 of 3")
    assert stored(answers) == [(None, None)]


@async_test
async def test_the_footer_offers_only_keys_that_work(answers: AnswersFolder) -> None:
    async with open_labels(answers, count=1) as labels:

        def offered() -> list[str]:
            bindings = [active.binding for active in labels.app.screen.active_bindings.values() if active.enabled]
            return [binding.description for binding in bindings if binding.show]

        assert offered() == ["Score", "Tag", "Undo", "Skip", "Quit", "Help"]
        await labels.press("t")
        assert offered() == ["Keep tag", "Discard", "Help"]
        await labels.press("escape", "1")
        assert offered() == ["Undo", "Quit", "Help"]
        assert labels.text("#status") == "all rows have a score · u undoes · q quits"


@async_test
async def test_a_full_disk_ends_the_screen_with_the_error(
    answers: AnswersFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: object, _records: object) -> None:
        raise OSError(28, "No space left on device")

    async with open_labels(answers) as labels:
        monkeypatch.setattr(AppendOnly, "append", fail)
        await labels.press("5")
        assert isinstance(labels.app.failure, OSError)
        assert labels.session.done == 0


@async_test
async def test_a_click_does_not_take_the_keys_away(answers: AnswersFolder) -> None:
    with open_session(answers) as session:
        app = LabelApp(session, "run")
        async with app.run_test(size=(80, 30)) as pilot:
            await pilot.click("#response-text")
            await pilot.press("tab", "3")
            assert session.done == 1


# --- what is shown ------------------------------------------------------------------------------------------------


@async_test
async def test_nothing_of_the_judge_is_shown(answers: AnswersFolder) -> None:
    async with open_labels(answers) as labels:
        for _ in range(3):
            assert "JUDGE" not in labels.visible()
            assert "80" not in labels.visible()
            await labels.press("s")


@async_test
async def test_hostile_texts_are_shown_readably_and_never_obeyed(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, [(f"r {HOSTILE}", f"a {HOSTILE}", HOSTILE)])
    async with open_labels(answers, size=(160, 40)) as labels:
        await labels.until(lambda: labels.visible().count(SYMBOLS) == 3)  # category, reference, response
        labels.app.post_message(events.Paste(HOSTILE))  # outside a tag, pasted text does nothing
        await labels.press("t")
        labels.app.post_message(events.Paste(HOSTILE[:40] + "\nsecond line"))
        await labels.settle()
        await labels.press("enter")
        assert labels.visible().replace("\n", "").isprintable()
    ((_, tag),) = stored(answers)
    assert tag is not None
    assert tag.startswith("␛]52;c;cm0gLXJm␇␛[31m a")
    assert tag.isprintable()


@async_test
async def test_a_long_response_scrolls_and_says_so(tmp_path: Path) -> None:
    text = "\n".join(f"line {number}" for number in range(100))
    answers = measured_answers(tmp_path, rows(text, text.upper()))
    async with open_labels(answers, size=(60, 20)) as labels:
        material = labels.app.screen.query_one(Material)
        await labels.until(lambda: labels.text("#status") == "more below ↓ · space scrolls")
        for keys, position in [("j", 1), ("k", 0), ("down", 1), ("space", 1 + material.size.height - 1)]:
            await labels.press(keys)
            assert material.scroll_y == position
        await labels.press("end")
        assert labels.text("#status") == "score the response"
        await labels.until(lambda: "line 99" in labels.visible().lower())
        await labels.press("s")
        assert material.scroll_y == 0


@async_test
async def test_a_huge_response_is_cut_and_counted(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, rows("x" * (SHOWN_LENGTH + 7)))
    async with open_labels(answers) as labels:
        assert labels.text("#response-text").endswith("x\n… and 7 more characters")


@pytest.mark.parametrize("size", [(60, 20), (120, 40)])
def test_the_parts_fill_the_screen(answers: AnswersFolder, size: tuple[int, int]) -> None:
    @async_test
    async def scenario() -> None:
        async with open_labels(answers, size=size) as labels:
            parts = ("#title", "#material", "#scale", "#tag-row", "#status", "Footer")
            regions = [labels.app.screen.query_one(part).region for part in parts]
            assert [region.y for region in regions] == [0, *(region.bottom for region in regions[:-1])]
            assert regions[-1].bottom == size[1]
            assert regions[1].height >= 8
            for level in range(6):
                assert f"{level}  " in labels.visible()

    scenario()


@async_test
async def test_a_resized_screen_shows_what_fits(tmp_path: Path) -> None:
    answers = measured_answers(tmp_path, rows("\n".join(f"line {number}" for number in range(20))))
    async with open_labels(answers, size=(80, 50)) as labels:
        await labels.until(lambda: labels.text("#status") == "score the response")
        await labels.resize(80, 24)
        await labels.until(lambda: labels.text("#status") == "more below ↓ · space scrolls")
        await labels.resize(30, 8)
        await labels.until(lambda: not labels.app.screen.query_one("#scale").display)
        await labels.until(lambda: labels.app.screen.query_one("Footer").region.bottom == 8)
        assert labels.app.screen.query_one("#material").region.height == 4
        await labels.resize(80, 50)
        await labels.until(lambda: labels.text("#status") == "score the response")


def test_the_scale_shows_every_sentence_without_the_words_that_all_share() -> None:
    lines = scale().plain.splitlines()
    assert len(lines) == len(SCALE)
    for level, (line, sentence) in enumerate(zip(lines, SCALE, strict=True)):
        assert line.startswith(f"{level}  ")
        assert sentence.endswith(line[3:])
        assert len(line) > 20


# --- a real terminal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("q", 0),
        pytest.param("\x03", 130, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_the_command_in_a_real_terminal(answers: AnswersFolder, end: Any, code: int) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluation", "label", str(answers.folder), "--labeller", "ada"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY, start_new_session=True,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    try:
        assert "\x1b[?1049h" in read_until(ours, "score the response", process)
        os.write(ours, b"\x1b[200~0\x1b[31m1q\x03\r\x1b[201~")  # a paste scores nothing and quits nothing
        os.write(ours, b"5tlate\r")
        read_until(ours, "late", process)
        os.write(ours, b"2")
        read_until(ours, "3 of 3", process)
        if isinstance(end, str):
            os.write(ours, end.encode())
        else:
            process.send_signal(end)
        rest = read_until(ours, "labelled by ada", process)
        assert process.wait(20) == code
        assert all(sequence in rest for sequence in GIVEN_BACK), rest
        assert "mean 70.0 of 100, on 2 of the 3 rows" in rest
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert stored(answers) == [(100, None), (40, "late")]
