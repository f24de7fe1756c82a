"""Make the pictures of the README from the real programs: the chat, and the loss plot of the demo's run.

    python docs/pictures.py demo/model

`make pictures` calls this, and runs the demo first if there is no model yet.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
from pathlib import Path

from assistant.decoding.session import Session
from assistant.model.config import GenerationSettings
from assistant.tui.app import ChatApp
from assistant.tui.prompt import Prompt
from assistant.tui.screen import ChatScreen

QUESTIONS = ("What is the opposite of brave?", 'Please put "The boy kicks the ball" into the passive.')
SIZE = (80, 24)
PATIENCE_SECONDS = 60.0


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


def main() -> None:
    """Write `chat.svg` and copy `loss.png` into the output folder."""
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
    print(f"Written to {options.output}: chat.svg, loss.png.")


if __name__ == "__main__":
    main()
