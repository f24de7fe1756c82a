"""The chat on a scripted session, as a program for a real terminal.

Run it with `python -m tests.support.scripted_chat [HOW [PATH]]`. The session repeats the message and counts to 200.
HOW is one of these:

- `block` loads for a second and lets no other thread run meanwhile, as an import may
- `forever` never finishes loading
- `torch` creates the file PATH, then computes with torch and never finishes loading
- `warm` computes once with torch while it loads
- `record` answers `ok` and appends each instruction to the file PATH, as one line of JSON
- `hostile` answers with escape sequences that the number PATH draws, in an answer and in the model's name
- `fail` cannot load, with such an error
- `stuck` begins to answer, and then neither ends nor stops
- `crash` raises an error in the app, not in a thread
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from assistant.decoding.reply import Reply
from assistant.errors import CheckpointError
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp
from assistant.tui.ends import run_app
from tests.support.chat_setup import make_setup
from tests.support.scripted_session import ScriptedSession

TOKEN_SECONDS = 0.03
NUMBERS = 200
LOADED = "0.1M"
"""The model's size, which the title shows as soon as the model is loaded."""


class RecordingSession(ScriptedSession):
    """Writes every instruction into a file."""

    def __init__(self, path: str) -> None:
        super().__init__("ok", name="recording", context_length=1_000_000)
        self._path = Path(path)

    def reply(self, instruction: str, **rest: Any) -> Reply:
        """Append the instruction to the file, and answer."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(instruction) + "\n")
        return super().reply(instruction, **rest)


class StuckSession(ScriptedSession):
    """Begins to answer, and then neither ends nor stops."""

    def reply(self, instruction: str, **rest: Any) -> Reply:
        """Write a few words, and sleep for days."""
        rest["on_text"]("never ends")
        time.sleep(1e6)
        return super().reply(instruction, **rest)


def crash() -> None:
    """Raise an error."""
    raise RuntimeError("an error of the chat itself")


def load_counting_session(how: str = "", path: str = "") -> ScriptedSession:
    """Load the session in the way that the command line asks for."""
    if how == "block":
        ctypes.PyDLL(None).sleep(1)  # PyDLL does not release the interpreter's lock
    elif how == "forever":
        time.sleep(1e6)
    elif how == "warm":
        import torch

        torch.randn(200, 200) @ torch.randn(200, 200)
    elif how == "record":
        return RecordingSession(path)
    elif how == "torch":
        import torch

        Path(path).touch()
        while True:
            torch.randn(200, 200) @ torch.randn(200, 200)
    elif how == "hostile":
        return ScriptedSession(*hostile_texts(int(path)), echo=True, name="hostile", context_length=65536)
    elif how == "fail":
        raise CheckpointError("".join(hostile_texts(int(path))))
    elif how == "stuck":
        return StuckSession(name="stuck")
    return ScriptedSession(
        *(f"{number} " for number in range(1, NUMBERS + 1)),
        echo=True,
        piece_seconds=TOKEN_SECONDS,
        name="counting",
        context_length=1024,
    )


def hostile_texts(seed: int) -> list[str]:
    """Return texts that try to control the terminal, with the seed in each, in an order that it draws."""
    texts = [
        f"\x1b]2;TITLE{seed}\x07",
        f"\x1b[38;5;{seed};77m",
        f"\x9b{seed};78m",
        f"\x1b]52;c;{seed}\x1b\\",
        f"\x1bP{seed}+q\x1b\\",
        f"[red]{seed}[/red][@click=app.bell]x[/]",
        f"\u202e{seed}\u2066",
        f"{'long' * 1250}{seed}",
        "\r\x08\x0b\x0c\x7f\x00",
        "\U0001f468\u200d\U0001f469 e\u0301\u0301",
    ]
    random.Random(seed).shuffle(texts)
    return texts


def main() -> NoReturn:
    """Run the chat in this terminal until it ends."""
    arguments = sys.argv[1:]

    def load() -> ScriptedSession:
        if arguments == ["crash"]:
            app.call_later(crash)
        return load_counting_session(*arguments)

    name = "".join(hostile_texts(int(arguments[1]))) if arguments[:1] in (["hostile"], ["fail"]) else "counting"
    app = ChatApp(make_setup(load, model_name=name, generation=GenerationSettings()))
    run_app(app, farewell=lambda: "Go on with: scripted_chat")


if __name__ == "__main__":
    main()
