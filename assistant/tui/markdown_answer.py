"""An answer drawn as Markdown, also while it arrives. Used when the person asks for it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static

from assistant.escape import displayable
from assistant.tui.answer_view import AnswerClicked, label_content, note_content, set_side_classes
from assistant.tui.markdown import ReplyMarkdown
from assistant.tui.turn_state import AnswerState

REST = 4.0
"""Rest after each drawing, as a multiple of its time. Keys and clocks are then late in a fifth of the time at most."""


class PacedStream:
    """Text on its way to a Markdown widget. What arrives while the widget draws or rests is drawn together."""

    def __init__(self, widget: Markdown) -> None:
        """`widget` must be empty: after `update()`, it would show a fence in the first line as paragraphs."""
        self._widget = widget
        self._pending = ""
        self._has_text = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def write(self, text: str) -> None:
        """Add text at the end."""
        self._pending += text
        self._has_text.set()

    async def stop(self) -> None:
        """Draw what is left, and end the task."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._draw()

    async def _run(self) -> None:
        while await self._has_text.wait():
            started = time.perf_counter()
            await asyncio.shield(self._draw())
            is_drawn = asyncio.Event()
            self._widget.call_after_refresh(is_drawn.set)
            await is_drawn.wait()
            await asyncio.sleep(REST * (time.perf_counter() - started))

    async def _draw(self) -> None:
        text, self._pending = self._pending, ""
        self._has_text.clear()
        if text:
            await self._widget.append(text)


class MarkdownAnswer(Vertical):
    """An answer as Markdown."""

    def __init__(self, state: AnswerState) -> None:
        super().__init__(classes="answer")
        self.state = state
        self._label = Static(classes="label", markup=False)
        self._markdown = ReplyMarkdown()
        self._note = Static(classes="note", markup=False)
        self._stream: PacedStream | None = None
        self._streamed = ""

    def compose(self) -> ComposeResult:
        yield self._label
        yield self._markdown
        yield self._note

    async def on_mount(self) -> None:
        """Draw the state that was given."""
        await self.show(self.state)

    async def show(self, state: AnswerState) -> None:
        """Draw a new state. Text that is still arriving goes on as a stream."""
        self.state = state
        set_side_classes(self, state)
        self._label.update(label_content(state))
        self._label.display = state.is_named
        self._note.update(note_content(state))
        if state.status == "ended" or not state.text.startswith(self._streamed):
            await self._end_stream()
            await self._markdown.update(displayable(state.text))
        else:
            self._write(state.text[len(self._streamed) :])

    async def append(self, text: str) -> None:
        """Add text that arrived."""
        self.state = replace(self.state, text=self.state.text + text)
        self._write(text)

    def _write(self, text: str) -> None:
        if text:
            if self._stream is None:
                self._stream = PacedStream(self._markdown)
            self._streamed += text
            self._stream.write(displayable(text))

    def fold(self, *, is_folded: bool) -> None:
        """Show one line, or everything."""
        self.set_class(is_folded, "-folded")

    async def on_unmount(self) -> None:
        """End the stream's task when the person quits during an answer."""
        await self._end_stream()

    async def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()

    def on_click(self, event: events.Click) -> None:
        """Give the column more room, if its name was clicked."""
        if event.widget is self._label:
            self.post_message(AnswerClicked(self.state))
