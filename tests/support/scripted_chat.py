"""The chat on a scripted session, as a program for a real terminal.

Run it with `python -m tests.support.scripted_chat [block | forever | torch PATH]`. The session repeats the message and
counts to 200. `block` loads for a second and lets no other thread run meanwhile, as an import may. `forever` never
finishes loading. `torch PATH` creates the file PATH, then computes with torch and never finishes loading.
"""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp, run_app
from tests.support.scripted_session import ScriptedSession

TOKEN_SECONDS = 0.03
NUMBERS = 200


def load_counting_session(how: str = "", path: str = "") -> ScriptedSession:
    """Load the session in the way that the command line asks for."""
    if how == "block":
        ctypes.PyDLL(None).sleep(1)  # PyDLL does not release the interpreter's lock
    elif how == "forever":
        time.sleep(1e6)
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
