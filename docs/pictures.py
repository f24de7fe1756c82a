"""Make the pictures of the guide from the real programs: the chat, the loss plot and the report of the demo's run.

    python docs/pictures.py demo/model

`make pictures` calls this, and runs the demo first if there is no model yet. With a judge's scores in demo/run, the
picture of the report shows what its control items say: evaluation score demo/run --judge smollm2:135m --limit 120
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from assistant.decoding.session import Session
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp
from assistant.tui.prompt import Prompt
from assistant.tui.screen import ChatScreen
from evaluation.cli.reports import write_reports

QUESTIONS = ("What is the opposite of brave?", 'Please put "The boy kicks the ball" into the passive.')
SIZE = (80, 24)
PATIENCE_SECONDS = 60.0
REPORT_SIZE = (1100, 1480)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


async def take_picture(model: Path) -> str:
    """Ask the questions in a chat with `model`. Returns the screen as SVG.

    Raises:
        TimeoutError: the model did not load or answer within `PATIENCE_SECONDS`.
    """
    session = Session.load(model)
    app = ChatApp(load=lambda: session, model_name=session.name, settings=GenerationSettings())
    app.theme = "textual-dark"
    async with app.run_test(size=SIZE) as pilot:
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        prompt = screen.query_one(Prompt)
        prompt.cursor_blink = False
        for question in ("", *QUESTIONS):
            if question:
                prompt.insert(question)
                await pilot.press("enter")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while screen.model_state != "ready" or screen.turn is not None:
                    await asyncio.sleep(0.01)
            await pilot.pause()
        picture = app.export_screenshot(title="assistant chat")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)  # they would be fetched from another server


def take_report_picture(run: Path, picture: Path) -> bool:
    """Photograph the page of a scored run with a headless browser. False if there is no run or no browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None or not (run / "run.json").exists():
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
    """Write `chat.svg` and `report.png` and copy `loss.png` into the output folder."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("model", type=Path, help="Folder of a fine-tuned model, with its loss.png.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures", help="Folder for them.")
    options = parser.parse_args()
    for name in ("NO_COLOR", "TEXTUAL_ANIMATIONS", "TEXTUAL_COLOR_SYSTEM"):
        os.environ.pop(name, None)  # the picture must not depend on the terminal it is made in
    options.output.mkdir(parents=True, exist_ok=True)
    picture = asyncio.run(take_picture(options.model))
    (options.output / "chat.svg").write_text(picture, encoding="utf-8")
    shutil.copyfile(options.model / "loss.png", options.output / "loss.png")
    has_report = take_report_picture(options.model.parent / "run", options.output.absolute() / "report.png")
    print(f"Written to {options.output}: chat.svg, loss.png{', report.png' if has_report else ''}.")
    if not has_report:
        print("report.png needs Chromium and the demo's answers. Install chromium, and run: make demo")


if __name__ == "__main__":
    main()
