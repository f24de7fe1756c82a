"""What stands in the conversation: the welcome, messages, replies and errors."""

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
    "The model learnt single questions: each message is answered on its own."
)


class Welcome(Static):
    """What to type, and what not to expect."""

    def __init__(self) -> None:
        super().__init__(WELCOME, markup=False)


class UserMessage(Vertical):
    """What the user wrote: plain text, never Markdown, with a note while it waits."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self._note = Static(classes="note", markup=False)

    def compose(self) -> ComposeResult:
        yield Static(displayable(self.text), classes="text", markup=False)
        yield self._note

    def note(self, text: str) -> None:
        """Set the line under the message; empty takes it away."""
        self._note.update(text)
        self.set_class(bool(text), "-noted")


class ReplyMessage(Vertical):
    """What the model writes, as it comes, and a line about how it came."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        """All that has come, made displayable."""
        self._markdown = ReplyMarkdown()
        self._note = Static("writing …", classes="note", markup=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield self._markdown
        yield self._note

    async def add_text(self, text: str) -> None:
        """Show more text."""
        text = displayable(text)
        self.text += text
        if self._stream is None:
            # On an empty Markdown: a stream after update() takes a fence at the beginning for paragraphs.
            self._stream = Markdown.get_stream(self._markdown)
        await self._stream.write(text)

    def note(self, text: str) -> None:
        """Set the line under the reply."""
        self._note.update(text)

    async def finish(self, text: str, note: str) -> None:
        """Show the whole reply once more, parsed in one piece, and say how it ended."""
        self.text = displayable(text)
        await self._end_stream()
        await self._markdown.update(self.text)
        self.note(note)

    async def break_off(self) -> None:
        """Keep what has come of a reply that failed."""
        await self.finish(self.text, "not finished")

    async def on_unmount(self) -> None:
        """Leave no task behind when the chat is closed in the middle of a reply."""
        await self._end_stream()

    async def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.stop()


class ErrorCard(Static):
    """Something went wrong: what, and what to do next."""

    def __init__(self, problem: str, advice: str, *, id: str | None = None) -> None:
        # Content.assemble takes its parts as they are; nothing in an exception's text is markup.
        super().__init__(Content.assemble((displayable(problem), "bold"), "\n", advice), id=id)


def describe_end(reply: Reply, settings: GenerationSettings) -> str:
    """The line under a finished reply: tokens, speed, why it ended, and the seed where chance had a part."""
    count = len(reply.token_ids)
    parts = [f"{count} token" if count == 1 else f"{count} tokens"]
    if count and reply.seconds > 0:
        parts.append(f"{count / reply.seconds:.1f} tokens/s")
    if reply.stop_reason == "eos":
        parts.append("finished" if reply.response.strip() else "finished without a word")
    elif reply.stop_reason == "stop":
        parts.append("ended at a stop text")
    elif reply.stop_reason == "cancelled":
        parts.append("stopped by you")
    elif count >= settings.max_new_tokens:
        parts.append(f"reached the limit of {settings.max_new_tokens} new tokens")
    else:
        parts.append("the model's context is full")
    if reply.n_forgotten:
        parts.append(f"{reply.n_forgotten} of the oldest messages no longer fit and were left out")
    if settings.temperature > 0:
        parts.append(f"seed {settings.seed}")
    return " · ".join(parts)
