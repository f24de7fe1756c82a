"""The chat on a scripted session, as a program for a real terminal.

Run it with `python -m tests.support.scripted_chat [block | forever | torch PATH | record PATH]`. The session repeats
the message and counts to 200. `block` loads for a second and lets no other thread run meanwhile, as an import may.
`forever` never finishes loading. `torch PATH` creates the file PATH, then computes with torch and never finishes
loading. `record PATH` answers `ok` and appends each instruction to the file PATH, as one line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from assistant.decoding.reply import Reply
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp, run_app
from tests.support.scripted_session import ScriptedSession

TOKEN_SECONDS = 0.03
NUMBERS = 200


class RecordingSession(ScriptedSession):
    """Writes every instruction into a file."""

    def __init__(self, path: str) -> None:
        super().__init__("ok", name="recording")
        self._path = Path(path)

    def reply(
        self,
        instruction: str,
        *,
        settings: GenerationSettings,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Reply:
        """Append the instruction to the file, and answer."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(instruction) + "\n")
        return super().reply(instruction, settings=settings, on_text=on_text, should_stop=should_stop)


def load_counting_session(how: str = "", path: str = "") -> ScriptedSession:
    """Load the session in the way that the command line asks for."""
    if how == "block":
        ctypes.PyDLL(None).sleep(1)  # PyDLL does not release the interpreter's lock
    elif how == "forever":
        time.sleep(1e6)
    elif how == "record":
        return RecordingSession(path)
    elif how == "torch":
        import torch

        Path(path).touch()
        while True:
            torch.randn(200, 200) @ torch.randn(200, 200)
    return ScriptedSession(
        *(f"{number} " for number in range(1, NUMBERS + 1)),
        echo=True,
        piece_seconds=TOKEN_SECONDS,
        name="counting",
        summary="counting · 0.0M parameters · template alpaca · context 1024",
    )


def main() -> int:
    """Run the chat in this terminal and return its exit code."""
    app = ChatApp(
        load=lambda: load_counting_session(*sys.argv[1:]), model_name="counting", settings=GenerationSettings()
    )
    return run_app(app)


if __name__ == "__main__":
    sys.exit(main())
