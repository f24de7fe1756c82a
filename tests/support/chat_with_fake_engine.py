"""The chat on a scripted model, for tests that need a real terminal: `-m tests.support.chat_with_fake_engine`.

An argument says how it loads: `block` takes a second and lets no other thread run meanwhile, as an import may;
`torch PATH` makes the file once it computes with torch, and never ends.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from assistant.dataset.instructions import Exchange
from assistant.decoding.reply import Reply
from assistant.settings import GenerationSettings
from assistant.tui.app import ChatApp, run_app

TOKEN_SECONDS = 0.03
NUMBERS = 200


class CountingSession:
    """Repeats the instruction and counts to 200."""

    name = "counting"
    summary = "counting · 0.0M parameters · template alpaca · context 1024"

    def reply(
        self,
        instruction: str,
        *,
        input: str = "",
        history: Sequence[Exchange] = (),
        settings: GenerationSettings,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Reply:
        """Answer one instruction."""
        assert not input
        assert not history
        assert on_text is not None
        assert should_stop is not None
        pieces = [f"You said: {instruction}.\n\n", *(f"{number} " for number in range(1, NUMBERS + 1))]
        said: list[str] = []
        start = time.monotonic()
        while len(said) < min(len(pieces), settings.max_new_tokens) and not should_stop():
            said.append(pieces[len(said)])
            on_text(said[-1])
            time.sleep(TOKEN_SECONDS)
        return Reply(
            prompt=instruction,
            prompt_token_ids=(1,),
            response="".join(said),
            token_ids=tuple(range(len(said))),
            stop_reason="eos" if len(said) == len(pieces) else "cancelled" if should_stop() else "length",
            seconds=time.monotonic() - start,
        )


def main() -> int:
    """Run the chat in this terminal."""
    how = sys.argv[1:]

    def load() -> CountingSession:
        if how[:1] == ["block"]:
            ctypes.PyDLL(None).sleep(1)  # PyDLL keeps the interpreter's lock
        elif how[:1] == ["torch"]:
            import torch

            Path(how[1]).touch()
            while True:
                torch.randn(200, 200) @ torch.randn(200, 200)
        return CountingSession()

    return run_app(ChatApp(load=load, model_name="counting", settings=GenerationSettings()))


if __name__ == "__main__":
    sys.exit(main())
