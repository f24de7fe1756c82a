"""Make the pictures of the guide from the real programs: the chat, the loss plot and the report of the demo's run.

    python docs/pictures.py demo/model --classifier runs/spam

`make pictures` calls this, and runs the demo and trains the classifier first if they do not exist yet. With a judge's
scores in demo/run, the picture of the report shows what its control items say:

    evaluation score demo/run --judge smollm2:135m --limit 120
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import TextArea

from assistant.chat.actions import order_of
from assistant.chat.records import Side
from assistant.chat.setup import set_up
from assistant.chat.state import ChatSettings
from assistant.chat.store import NoStore
from assistant.classifier.report import PICTURE_FILE
from assistant.settings import EngineSettings, GenerationSettings
from assistant.tui.app import ChatApp
from assistant.tui.prompt import Prompt
from assistant.tui.screen import ChatScreen
from evaluation.cli.reports import write_reports

SEED = 13
"""Which test rows the pictures show, and in which order."""
ANSWER_TOKENS = 24
"""The base model writes on and on; the pictures show where that begins."""
NOTICE_SECONDS = 5.5
"""After this time, no notice hides the keys any more."""
PATIENCE_SECONDS = 60.0
REPORT_SIZE = (1100, 1480)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Scene:
    """A chat with the demo's model, before somebody takes its picture."""

    def __init__(self, app: ChatApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, ChatScreen)
        self._screen, self._pilot = app.screen, pilot

    async def begin(self) -> None:
        """Wait for both models and the test rows."""
        while self._screen.chat is None:
            await asyncio.sleep(0)
        self._screen.chat._draw = random.Random(SEED)
        for area in self._screen.query(TextArea):
            area.cursor_blink = False
        await self.idle()

    async def idle(self) -> None:
        """Wait until nothing is loaded or answered.

        Raises:
            TimeoutError: it takes longer than `PATIENCE_SECONDS`.
        """
        chat = self._screen.chat
        assert chat is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                "loading" in (chat.state("tuned"), chat.state("base"))
                or not chat.has_read_data
                or chat.open_answers
                or chat.waiting
                or not all(run.has_ended for run in chat.runs.values())
            ):
                await asyncio.sleep(0.01)
        await self._pilot.pause()
        await self._pilot.pause()

    async def ask(self, instruction: str, input: str = "") -> None:
        """Ask a question, and wait for the answer."""
        prompt = self._screen.query_one(Prompt)
        prompt.set(instruction, input)
        await self.press("enter")

    def answer(self) -> str:
        """The newest answer of the fine-tuned model."""
        assert self._screen.chat is not None
        turn = self._screen.chat.newest()
        answer = None if turn is None else turn.answer("tuned")
        return "" if answer is None else answer.response

    async def choose(self, side: Side) -> None:
        """Choose the answer of this model in a blind choice."""
        assert self._screen.chat is not None
        turn = self._screen.chat.newest()
        assert turn is not None
        await self.press("left" if order_of(turn)[0] == side else "right")

    async def press(self, *keys: str) -> None:
        """Press keys, and wait for what they do."""
        for key in keys:
            await self._pilot.press(key)
            await self.idle()

    async def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        await self._pilot.press(*(KEY_NAMES.get(letter, letter) for letter in text))
        await self.idle()


SUM = ("Please multiply these numbers.", "8 and 12")
"""The demo's model cannot calculate."""
KEY_NAMES = {" ": "space", ".": "full_stop", ",": "comma", "?": "question_mark"}


async def play_chat(scene: Scene) -> None:
    """Both models side by side, and the tally of test rows."""
    await scene.ask("/run 100")
    await scene.press("ctrl+b")
    await scene.ask("What is the opposite of brave?")
    await scene.ask("Put this sentence into the passive.", "The boy kicks the ball.")
    await scene.press("ctrl+t")


async def play_comparing(scene: Scene) -> None:
    """A blind choice that was made, and one that is open."""
    await scene.press("f7")
    await scene.ask("What do you call a young dog?")
    await scene.choose("tuned")
    await scene.ask("Is it experiance or experience?")


async def play_held_out(scene: Scene) -> None:
    """A run of 20 test rows, and one row more."""
    await scene.press("f5", "ctrl+t")


async def play_tokens(scene: Scene) -> None:
    """The tokens of an answer that the model was not sure of."""
    await scene.ask(*SUM)
    await scene.press("f3")


async def play_correction(scene: Scene) -> None:
    """A wrong answer while the right one is being written."""
    await scene.ask(*SUM)
    await scene.press("f6", *["backspace"] * len(scene.answer()))
    await scene.type("8 times 12 is 96.")


SCENES: dict[str, tuple[tuple[int, int], Callable[[Scene], Awaitable[None]]]] = {
    "chat": ((100, 33), play_chat),
    "chat-comparing": ((100, 24), play_comparing),
    "chat-held-out": ((100, 41), play_held_out),
    "chat-tokens": ((80, 24), play_tokens),
    "chat-correction": ((80, 24), play_correction),
}


async def take_picture(model: Path, size: tuple[int, int], play: Callable[[Scene], Awaitable[None]]) -> str:
    """Chat with `model`, and return the screen as SVG."""
    setup = set_up(
        model,
        settings=ChatSettings(generation=GenerationSettings(max_new_tokens=ANSWER_TOKENS)),
        engine=EngineSettings(),
        base=None,
        data=(),
        store=NoStore(),
        resume=None,
    )
    app = ChatApp(setup)
    app.theme = "textual-dark"
    async with app.run_test(size=size) as pilot:
        scene = Scene(app, pilot)
        await scene.begin()
        await play(scene)
        await asyncio.sleep(NOTICE_SECONDS)
        picture = app.export_screenshot(title="assistant chat")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)  # they would be fetched from another server


def take_report_picture(run: Path, picture: Path) -> bool:
    """Photograph the page of a run that a judge scored, with a headless browser. False if one of them is missing."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None or not (run / "judgements.jsonl").exists():
        return False
    write_reports(run)
    with tempfile.TemporaryDirectory() as profile:
        width, height = REPORT_SIZE
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}")
        what = (f"--window-size={width},{height}", f"--screenshot={picture}")
        page = (run / "report.html").absolute().as_uri()
        subprocess.run([browser, *options, *what, page], check=True, capture_output=True, timeout=PATIENCE_SECONDS)
    return True


def main() -> None:
    """Write the chat's pictures and `report.png`, and copy `loss.png` and `confusion.png`, into the output folder."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("model", type=Path, help="Folder of a fine-tuned model, with its loss.png.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures", help="Folder for them.")
    parser.add_argument("--classifier", type=Path, help="Folder of a classifier, with its confusion.png.")
    options = parser.parse_args()
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_COLOR_SYSTEM"):
        os.environ.pop(name, None)  # the picture must not depend on the terminal it is made in
    options.output.mkdir(parents=True, exist_ok=True)
    for name, (size, play) in SCENES.items():
        picture = asyncio.run(take_picture(options.model, size, play))
        (options.output / f"{name}.svg").write_text(picture, encoding="utf-8")
    shutil.copyfile(options.model / "loss.png", options.output / "loss.png")
    if options.classifier is not None:
        shutil.copyfile(options.classifier / PICTURE_FILE, options.output / PICTURE_FILE)
    has_report = take_report_picture(options.model.parent / "run", options.output.absolute() / "report.png")
    names = ", ".join(f"{name}.svg" for name in SCENES)
    print(f"Written to {options.output}: {names}, loss.png{', report.png' if has_report else ''}.")
    if not has_report:
        print("report.png needs Chromium, and the scores of a judge. It stays as it was.")


if __name__ == "__main__":
    main()
