"""The chat's screen: what it shows and what happens on it."""

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
    Load,
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

RETRY = "Press ctrl+l to try loading again."
BACK_IN_PROMPT = "Your message is back in the prompt."
IN_HISTORY = "Press up in the prompt to get your message back."


class Conversation(VerticalScroll, can_focus=False):
    """The turns, the newest at the bottom. Never focused, so that typing always reaches the prompt."""

    def on_mount(self) -> None:
        """Stay at the bottom until the user scrolls up."""
        self.anchor()

    def scroll_pages(self, pages: int) -> None:
        """Scroll by pages, down where positive. At the bottom it stays there again."""
        target = self.scroll_y + pages * self.scrollable_content_region.height
        if target >= self.max_scroll_y:
            self.anchor()  # scroll_to would let go of the bottom, even where it is there already
        elif self.max_scroll_y > 0:
            self.scroll_to(y=target, animate=False, immediate=True)


@dataclass(eq=False)
class Turn:
    """One message on its way to a reply."""

    user: UserMessage
    reply: ReplyMessage | None = None
    """None while the model is still loading."""
    stop: threading.Event = field(default_factory=threading.Event)
    """One for each turn: a late Esc never reaches the next reply."""


class ChatScreen(Screen[None]):
    """Owns the model and the turn under way. One reply at a time.

    State changes only in this screen's own queue, one message after the other: messages from the prompt and from the
    threads arrive there, and actions, which run in the app's queue, enter it with `call_later`. Enter is refused until
    the thread has said its last word; `_end_turn` is the one place that allows it again.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", tooltip="Stop the reply and keep what there is of it", key_display="esc"),
        Binding("ctrl+l", "load", "Load again", tooltip="After a failure: load the model again"),
        Binding("f1", "help", "Help", tooltip="Show this list", key_display="f1"),
        Binding("ctrl+y", "copy_reply", "Copy", tooltip="Copy the last reply"),
    ]

    model_state: var[Literal["loading", "ready", "failed"]] = var("loading", bindings=True)
    turn: var[Turn | None] = var(None, bindings=True)
    """The turn that waits for the model or for its reply."""
    last_reply: var[ReplyMessage | None] = var(None, bindings=True)
    """The last reply that is complete."""

    _conversation = getters.query_one("#conversation", Conversation)
    _prompt = getters.query_one("#prompt", Prompt)
    _status = getters.query_one("#status", StatusLine)

    def __init__(self, *, load: Load, model_name: str, settings: GenerationSettings) -> None:
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
        """Load the model, but not before the screen has been painted: importing torch takes seconds."""
        self._show_state()
        self.call_after_refresh(self._start_loading)

    # --- the model ------------------------------------------------------------------------------------------------

    def _start_loading(self) -> None:
        self.model_state = "loading"
        self._show_state()
        # Loading cannot be interrupted. Textual's workers are waited for at the end; a daemon is not, so ctrl+q
        # works meanwhile.
        threading.Thread(target=load_model, args=(self._load, self._post_if_open), daemon=True, name="load").start()

    def _post_if_open(self, message: Message) -> None:
        with suppress(RuntimeError):  # the app has ended while the model was loading
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
        """Say at the end of the conversation why nothing answers, once, and put `text` back into the prompt."""
        await self.query("#load-problem").remove()
        advice = f"{RETRY} {self._give_back(text)}" if text else RETRY
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
        if self.model_state == "failed":
            self._end_turn()
            await self._show_load_problem(event.text)
            return
        self.turn = Turn(UserMessage(event.text))
        await self._add(self.turn.user)
        self._conversation.anchor()  # whoever has scrolled up wants to see what comes now
        if self._session is None:
            self.turn.user.note("waiting for the model …")
        else:
            await self._start_reply(self.turn, self._session)
        self._show_state()

    @on(Prompt.Refused)
    def _refuse_message(self) -> None:
        if self.model_state == "loading":
            self.show_notice("Esc takes back the message that waits.")
        else:
            self.show_notice("Esc stops the reply; your text stays.")

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
            # is_cancelled: the app is closing. It waits for this thread.
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
            await self._add(ErrorCard(event.problem, self._give_back(text)))
            self._show_state()

    def _end_turn(self) -> None:
        """Nothing is under way any more, and the prompt sends again."""
        self.turn = None
        self._prompt.locked = False

    def _give_back(self, text: str) -> str:
        """Put an unanswered message back into the prompt, and say where it is."""
        return BACK_IN_PROMPT if self._prompt.give_back(text) else IN_HISTORY

    def action_stop(self) -> None:
        """Stop the reply; or take back the message that waits for the model."""
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
        self.show_notice(self._give_back(user.text))

    def action_copy_reply(self) -> None:
        """Copy the last reply, as it is displayed: without control characters."""
        if self.last_reply is not None:
            self.app.copy_to_clipboard(self.last_reply.text)
            self.show_notice("Sent to your terminal's clipboard.")

    # --- the rest -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Offer only the keys that do something now."""
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
        """Scroll the conversation by a page, up (-1) or down (1)."""
        self._conversation.scroll_pages(pages)

    def action_help(self) -> None:
        """Show the keys."""
        bindings = [*Prompt.BINDINGS, *self.BINDINGS, *self.app.BINDINGS]
        self.app.push_screen(HelpScreen(b for b in bindings if isinstance(b, Binding) and b.tooltip))

    def show_notice(self, text: str) -> None:
        """Say something in passing, in the status line."""
        self._status.show_notice(text)

    async def _add(self, widget: Widget) -> None:
        await self._conversation.mount(widget)

    def _show_state(self) -> None:
        if self.model_state == "loading":
            self._status.show_state(f"loading {one_line(self._model_name)} … you may type")
        elif self.model_state == "failed":
            self._status.show_state("no model · ctrl+l tries again")
        elif self._session is not None:
            self._status.show_state("ready" if self.turn is None else "writing, Esc stops", self._session.summary)


def title(model: str) -> str:
    """The line at the top."""
    return f"assistant · {one_line(model)}"
