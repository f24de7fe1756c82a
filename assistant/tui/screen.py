"""The chat's screen: reacts to keys, to sent messages and to the threads. Leaves drawing to the widgets."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from textual import getters, on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.reactive import var
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from assistant.decoding.reply import SessionLike
from assistant.escape import one_line
from assistant.settings import GenerationSettings
from assistant.tui.engine import (
    LoadModel,
    ModelFailed,
    ModelReady,
    ReplyFailed,
    ReplyFinished,
    TextArrived,
    answer,
    load_model,
)
from assistant.tui.help import HelpScreen
from assistant.tui.prompt import Prompt
from assistant.tui.status import StatusLine
from assistant.tui.turns import ErrorCard, ReplyMessage, UserMessage, Welcome, describe_end

RETRY = "Press ctrl+l to load the model again."
BACK_IN_PROMPT = "Your message is back in the prompt."
IN_HISTORY = "Press up in the prompt to get your message back."


class Conversation(VerticalScroll, can_focus=False):
    """The turns, newest last. Cannot take the focus, so typing always reaches the prompt."""

    def on_mount(self) -> None:
        """Stay at the bottom until the user scrolls up."""
        self.anchor()

    def scroll_pages(self, pages: int) -> None:
        """Scroll down by `pages`, or up if negative. At the bottom, follow new text again."""
        target = self.scroll_y + pages * self.scrollable_content_region.height
        if target >= self.max_scroll_y:
            self.anchor()  # scroll_to would stop following new text, even at the bottom
        elif self.max_scroll_y > 0:
            self.scroll_to(y=target, animate=False, immediate=True)


@dataclass(eq=False)
class Turn:
    """A message and its reply, until the reply ends."""

    user: UserMessage
    reply: ReplyMessage | None = None
    """None while the model is still loading."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to stop the reply. Each turn has its own event, so a late Esc never stops the next reply."""


class ChatScreen(Screen[None]):
    """Owns the model and the current turn. Writes one reply at a time.

    State changes only in this screen's own queue, one message after another. Messages from the prompt and from the
    threads arrive there. Actions run in the app's queue, so they enter this queue with `call_later`. A message
    is refused until the reply's thread has posted its last message; only `_end_turn` ends the turn.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", tooltip="Stop the reply and keep its text so far", key_display="esc"),
        Binding("ctrl+l", "load", "Load again", tooltip="After a failed load: load the model again"),
        Binding("f1", "help", "Help", tooltip="Show this list", key_display="f1"),
        Binding("ctrl+y", "copy_reply", "Copy", tooltip="Copy the last reply"),
    ]

    model_state: var[Literal["loading", "ready", "failed"]] = var("loading", bindings=True)
    turn: var[Turn | None] = var(None, bindings=True)
    """The current turn, which waits for the model or for its reply. None between turns."""
    last_reply: var[ReplyMessage | None] = var(None, bindings=True)
    """The last complete reply. A reply that the user stopped counts as complete."""

    _conversation = getters.query_one("#conversation", Conversation)
    _prompt = getters.query_one("#prompt", Prompt)
    _status = getters.query_one("#status", StatusLine)

    def __init__(self, *, load: LoadModel, model_name: str, settings: GenerationSettings) -> None:
        super().__init__()
        self._load = load
        self._model_name = model_name
        self._settings = settings
        self._session: SessionLike | None = None
        self._load_problem = ""

    def compose(self) -> ComposeResult:
        yield Static(title(self._model_name), id="title", markup=False)
        with Conversation(id="conversation"):
            yield Welcome()
        yield Prompt(id="prompt")
        yield StatusLine(id="status")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Load the model after the first screen is painted, because importing torch takes seconds."""
        self._show_state()
        self.call_after_refresh(self._start_loading)

    # --- the model ------------------------------------------------------------------------------------------------

    def _start_loading(self) -> None:
        self.model_state = "loading"
        self._show_state()
        # Nothing can interrupt loading. Textual waits for its own workers when it ends, but not for a daemon thread.
        # So ctrl+q works while the model loads.
        threading.Thread(target=load_model, args=(self._load, self._post_if_open), daemon=True, name="load").start()

    def _post_if_open(self, message: Message) -> None:
        with suppress(RuntimeError):  # the user quit while the model was loading
            self.post_message(message)

    @on(ModelReady)
    async def _model_ready(self, event: ModelReady) -> None:
        self._session = event.session
        self.model_state = "ready"
        self.query_one("#title", Static).update(title(event.session.name))
        if self.turn is not None:
            self.turn.user.note("")
            await self._start_reply(self.turn, event.session)
        self._show_state()

    @on(ModelFailed)
    async def _model_failed(self, event: ModelFailed) -> None:
        self.model_state = "failed"
        self._load_problem = event.problem
        text = ""
        if self.turn is not None:
            text = self.turn.user.text
            await self.turn.user.remove()
            self._end_turn()
        await self._show_load_problem(text)
        self._show_state()

    async def _show_load_problem(self, text: str) -> None:
        """Show the load error once, at the end of the conversation, and put `text` back into the prompt."""
        await self.query("#load-problem").remove()
        advice = f"{RETRY} {self._restore_message(text)}" if text else RETRY
        await self._add(ErrorCard(self._load_problem, advice, id="load-problem"))

    def action_load(self) -> None:
        """Try to load the model again."""
        self.call_later(self._load_again)

    async def _load_again(self) -> None:
        if self.model_state != "failed":
            return
        await self.query("#load-problem").remove()
        self._start_loading()

    # --- a turn ---------------------------------------------------------------------------------------------------

    @on(Prompt.Submitted)
    async def _take_message(self, event: Prompt.Submitted) -> None:
        if self.turn is not None:
            self._prompt.restore(event.instruction, event.input)
            self._refuse_message()
            return
        if self.model_state == "failed":
            await self._show_load_problem(event.instruction)
            return
        self.turn = Turn(UserMessage(event.instruction))
        await self._add(self.turn.user)
        self._conversation.anchor()  # a user who has scrolled up sees the new message and its reply
        if self._session is None:
            self.turn.user.note("waiting for the model …")
        else:
            await self._start_reply(self.turn, self._session)
        self._show_state()

    def _refuse_message(self) -> None:
        if self.model_state == "loading":
            self.show_notice("Esc takes the waiting message back.")
        else:
            self.show_notice("Esc stops the reply. Your text stays here.")

    async def _start_reply(self, turn: Turn, session: SessionLike) -> None:
        turn.reply = ReplyMessage()
        await self._add(turn.reply)
        self._generate(turn, session)

    @work(thread=True, group="reply", exit_on_error=False)
    def _generate(self, turn: Turn, session: SessionLike) -> None:
        worker = get_current_worker()
        answer(
            session,
            turn.user.text,
            self._settings,
            # is_cancelled means that the app is closing. It waits for this thread.
            should_stop=lambda: turn.stop.is_set() or worker.is_cancelled,
            post=self.post_message,
        )

    @on(TextArrived)
    async def _show_text(self, event: TextArrived) -> None:
        if self.turn is not None and self.turn.reply is not None:
            await self.turn.reply.add_text(event.text)

    @on(ReplyFinished)
    async def _reply_finished(self, event: ReplyFinished) -> None:
        if self.turn is not None and self.turn.reply is not None:
            reply, self.last_reply = event.reply, self.turn.reply
            self._end_turn()
            await self.last_reply.finish(reply.response, describe_end(reply, self._settings))
            self._show_state()

    @on(ReplyFailed)
    async def _reply_failed(self, event: ReplyFailed) -> None:
        if self.turn is not None and self.turn.reply is not None:
            reply, text = self.turn.reply, self.turn.user.text
            self._end_turn()
            await (reply.break_off() if reply.text else reply.remove())
            await self._add(ErrorCard(event.problem, self._restore_message(text)))
            self._show_state()

    def _end_turn(self) -> None:
        """Forget the current turn."""
        self.turn = None

    def _restore_message(self, text: str) -> str:
        """Put an unanswered message back into the prompt if it is empty. Return a sentence that says where it is."""
        return BACK_IN_PROMPT if self._prompt.restore(text) else IN_HISTORY

    def action_stop(self) -> None:
        """Stop the reply, or take back the message that waits for the model."""
        self.call_later(self._stop)

    async def _stop(self) -> None:
        if self.turn is None:
            return
        if self.turn.reply is not None:
            self.turn.stop.set()
            self.turn.reply.note("stopping …")
            return
        user = self.turn.user
        self._end_turn()
        await user.remove()
        self.show_notice(self._restore_message(user.text))

    def action_copy_reply(self) -> None:
        """Copy the last reply with its Markdown source, but without control characters."""
        if self.last_reply is not None:
            self.app.copy_to_clipboard(self.last_reply.text)
            self.show_notice("Sent the reply to your terminal's clipboard.")

    # --- keys and status ----------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer only the keys that work now."""
        match action:
            case "stop":
                return self.turn is not None
            case "copy_reply":
                return self.last_reply is not None
            case "load":
                return self.model_state == "failed"
            case _:
                return True

    def action_scroll_conversation(self, pages: int) -> None:
        """Scroll the conversation by a page: up for -1, down for 1."""
        self._conversation.scroll_pages(pages)

    def action_help(self) -> None:
        """Show the list of keys."""
        bindings = [*Prompt.BINDINGS, *self.BINDINGS, *self.app.BINDINGS]
        self.app.push_screen(HelpScreen(b for b in bindings if isinstance(b, Binding) and b.tooltip))

    def show_notice(self, text: str) -> None:
        """Show a short notice in the status line."""
        self._status.show_notice(text)

    async def _add(self, widget: Widget) -> None:
        await self._conversation.mount(widget)

    def _show_state(self) -> None:
        if self.model_state == "loading":
            self._status.show_state(f"loading {one_line(self._model_name)} … you can type already")
        elif self.model_state == "failed":
            self._status.show_state("no model · ctrl+l tries again")
        elif self._session is not None:
            self._status.show_state("ready" if self.turn is None else "writing · Esc stops", self._session.summary)


def title(model: str) -> str:
    """Return the text of the top line."""
    return f"assistant · {one_line(model)}"
