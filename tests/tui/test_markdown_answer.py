"""Markdown that arrives while a model writes: everything is drawn, in order, and drawing leaves time for the rest."""

from __future__ import annotations

import asyncio
import time

from textual.app import App, ComposeResult

from assistant.tui.markdown import ReplyMarkdown
from assistant.tui.markdown_answer import REST, PacedStream

DRAWING_S = 0.02


class SlowMarkdown(ReplyMarkdown):
    """A widget that holds up the event loop whenever it draws."""

    drawn: list[str]

    async def append(self, markdown: str) -> None:  # type: ignore[override]
        """Note what is drawn."""
        time.sleep(DRAWING_S)  # as for a long document
        self.drawn = [*getattr(self, "drawn", []), markdown]


class OneMarkdown(App[None]):
    """An app with the widget alone."""

    def compose(self) -> ComposeResult:
        yield SlowMarkdown()


def test_all_text_is_drawn_in_order_and_drawing_takes_a_small_share_of_the_time() -> None:
    words = [f"word{number} " for number in range(200)]

    async def stream() -> tuple[list[str], float]:
        app = OneMarkdown()
        async with app.run_test():
            widget = app.query_one(SlowMarkdown)
            paced = PacedStream(widget)
            started = time.perf_counter()
            for word in words:
                paced.write(word)
                await asyncio.sleep(0.002)
            seconds = time.perf_counter() - started
            before_the_end = len(widget.drawn)
            await paced.stop()
            assert len(widget.drawn) <= before_the_end + 1
            return widget.drawn, seconds

    drawn, seconds = asyncio.run(stream())
    assert "".join(drawn) == "".join(words)
    assert 2 < len(drawn) <= 2 + seconds / (DRAWING_S * (1 + REST))
