"""The widgets of the conversation: welcome, messages, replies and errors. They know neither threads nor the model."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from assistant.decoding.reply import Reply
from assistant.escape import displayable
from assistant.settings import GenerationSettings
from assistant.tui.markdown import ReplyMarkdown

WELCOME = (
    "Type an instruction, then press Enter:\n"
    "    Name three primary colours.\n"
    "Trained on single questions, the model does not see your earlier messages."
)


class Welcome(Static):
    """Says what to type, and what the model does not do."""

    def __init__(self) -> None:
        super().__init__(WELCOME, markup=False)


class UserMessage(Vertical):
    """The user's message as plain text, never Markdown, with a note while it waits."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self._note = Static(classes="note", markup=False)

    def compose(self) -> ComposeResult:
        yield Static(displayable(self.text), classes="text", markup=False)
        yield self._note

    def note(self, text: str) -> None:
        """Set the line under the message. An empty text removes the line."""
        self._note.update(text)
        self.set_class(bool(text), "-noted")


class ReplyMessage(Vertical):
    """The model's reply as it arrives, with a line about its progress or its end."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        """All text so far, made displayable."""
        self._markdown = ReplyMarkdown()
        self._note = Static("writing …", classes="note", markup=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._markdown
        yield self._note

    async def add_text(self, text: str) -> None:
        """Add text at the end of the reply."""
        text = displayable(text)
        self.text += text
        if self._stream is None:
            # The widget must be empty. If a stream starts after update(), it shows a fence in the first line as
            # paragraphs.
            self._stream = Markdown.get_stream(self._markdown)
        await self._stream.write(text)

    def note(self, text: str) -> None:
        """Set the line under the reply."""
        self._note.update(text)

    async def finish(self, text: str, note: str) -> None:
        """Parse and show the whole reply once more, and set the line under it."""
        self.text = displayable(text)
        await self._end_stream()
        await self._markdown.update(self.text)
        self.note(note)

    async def break_off(self) -> None:
        """Keep the text of a reply that failed, and mark it as not finished."""
        await self.finish(self.text, "not finished")

    async def on_unmount(self) -> None:
        """End the stream's task when the user quits during a reply."""
        await self._end_stream()

    async def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()


class ErrorCard(Static):
    """An error: what went wrong, and what to do next."""

    def __init__(self, problem: str, advice: str, *, id: str | None = None) -> None:
        # Content.assemble does not parse markup, so brackets in an error message stay as they are.
        super().__init__(Content.assemble((displayable(problem), "bold"), "\n", advice), id=id)


def describe_end(reply: Reply, settings: GenerationSettings) -> str:
    """Describe a finished reply in one line: tokens, speed, why it ended, and the seed if tokens were sampled."""
    count = len(reply.token_ids)
    parts = [f"{count} token" if count == 1 else f"{count} tokens"]
    if count and reply.seconds > 0:
        parts.append(f"{count / reply.seconds:.1f} tokens/s")
    if reply.stop_reason == "eos":
        parts.append("finished" if reply.response.strip() else "finished without text")
    elif reply.stop_reason == "stop":
        parts.append("ended at a stop string")
    elif reply.stop_reason == "cancelled":
        parts.append("stopped by you")
    elif count >= settings.max_new_tokens:
        parts.append(f"reached the limit of {settings.max_new_tokens} new tokens")
    else:
        parts.append("the model's context is full")
    if reply.n_forgotten:
        parts.append(f"oldest messages that did not fit: {reply.n_forgotten}")
    if settings.temperature > 0:
        parts.append(f"seed {settings.seed}")
    return " · ".join(parts)
