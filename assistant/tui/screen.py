"""The chat's screen: turns keys and the widgets' messages into calls of `Chat`."""

from __future__ import annotations

from functools import partialmethod
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widgets import TextArea

from assistant.chat.actions import exact_prompt, switch_base
from assistant.chat.chat import RUN_ROWS
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.conversation_file import ConversationFile
from assistant.chat.prompt_parts import ExactPrompt, PromptLayout
from assistant.errors import AssistantError
from assistant.tui import dialogs, slash
from assistant.tui.clipboard import pieces
from assistant.tui.conversation_screen import RUN, ConversationScreen
from assistant.tui.conversation_view import Item
from assistant.tui.foot import Foot
from assistant.tui.prompt import Prompt
from assistant.tui.turn_view import TurnView
from assistant.tui.welcome import SuggestionLine


class ChatScreen(ConversationScreen):
    """The screen with its keys.

    Actions run in the app's queue, so those that draw enter the screen's own queue with `call_later`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", tooltip="Stop, or take back the message that waits", key_display="esc"),
        Binding("ctrl+t", "deal", "Test row", tooltip="Ask a held-out test row, and compare with its reference"),
        Binding("f5", "run", "Run 20", tooltip="Answer 20 test rows with both models in the background"),
        Binding("ctrl+b", "beside", "Base", tooltip="Let the base model answer beside the tuned one, or not"),
        Binding("ctrl+g", "widen", "Widen", tooltip="Give one of two answers more room"),
        Binding("ctrl+r", "again", "Again", tooltip="Answer again with a new seed"),
        Binding("f7", "blind", "Blind", tooltip="Hide which model wrote which answer, until you choose"),
        Binding("f6", "correct", "Correct", tooltip="Write the right answer; it becomes a row to train on"),
        Binding("f3", "tokens", "Tokens", tooltip="Show how sure the model was of each token"),
        Binding("f4", "prompt", "Prompt", tooltip="Show the exact prompt, with its tokens"),
        Binding("f8", "markdown", "Markdown", tooltip="Show answers as Markdown, or every character as it is"),
        Binding("f9", "growth", "Growth", tooltip="Show how the model learnt, from step to step"),
        Binding("f10", "nearest", "Nearest", tooltip="Show the nearest training row under each answer"),
        Binding("f2", "settings", "Settings", tooltip="Temperature, seed and length"),
        Binding("alt+e", "edit", "Edit", tooltip="Put the selected question into the prompt again; so does enter"),
        Binding("ctrl+y", "copy", "Copy", tooltip="Copy the answer; once more: its code blocks"),
        Binding("ctrl+o", "sessions", "Conversations", tooltip="List, search, rename and go on with conversations"),
        Binding("ctrl+n", "tie", "Neither", tooltip="In a blind choice: neither answer is better"),
        Binding("ctrl+l", "load", "Load again", tooltip="After a failed load: load the model again"),
        Binding("f1", "help", "Keys", tooltip="Show this list", key_display="f1"),
    ]

    # --- the prompt ---------------------------------------------------------------------------------------------------

    @on(Prompt.Submitted)
    async def _submitted(self, message: Prompt.Submitted) -> None:
        await slash.submit(self, message.instruction, message.input)
        await self.draw()
        if (problem := self.setup.inputs.problem) and problem != self._inputs_problem:
            self._inputs_problem = problem
            self.show_notice(problem)

    async def send(self, instruction: str, input: str) -> None:
        """Ask a question. One that is too long for the context stays in the prompt."""
        chat = self.chat
        if chat is not None and chat.state("tuned") == "failed":
            problem: str | None = "There is no model. ctrl+l loads it again."
        else:
            problem = self._too_long(instruction, input)
        if chat is not None and problem is None:
            chat.send(instruction, input)
            return
        self.give_back(instruction, input)
        if problem is not None:
            self.show_notice(problem)

    def prompt_of(self, turn: Turn) -> ExactPrompt | None:
        """Return the prompt of a question that was asked."""
        return None if self.chat is None else exact_prompt(self.chat, turn, self._prompt_layout)

    def _too_long(self, instruction: str, input: str) -> str | None:
        card = None if self.chat is None else self.chat.card("tuned")
        if card is None:
            return None
        layout = self._prompt_layout or PromptLayout(card)
        exact = layout.lay_out(instruction, input=input, max_new_tokens=1)
        if exact.room:
            return None
        return f"{exact.n_tokens} tokens leave no room for an answer in {exact.context_length}. Shorten the text."

    @on(TextArea.Changed)
    def _text_changed(self) -> None:
        self._show_foot()

    @on(Prompt.Flipped)
    async def _flipped(self, message: Prompt.Flipped) -> None:
        await self.flip(message.step)

    @on(Prompt.EnteredEmpty)
    def _entered_empty(self) -> None:
        if self.selected is not None:
            self.action_edit()

    @on(Prompt.TurnSelected)
    async def _turn_selected(self, message: Prompt.TurnSelected) -> None:
        await self._select_next(message.step)

    @on(SuggestionLine.Taken)
    def _suggested(self, message: SuggestionLine.Taken) -> None:
        self._prompt.set(message.instruction, message.input)

    # --- conversations ------------------------------------------------------------------------------------------------

    def conversation_id(self) -> str | None:
        """Return the id of the conversation. None if it is not on the disk."""
        return self.chat.file.id if self.chat is not None and self.chat.file.is_saved else None

    def close_chat(self) -> None:
        """Save what has been written of answers, and end the worker. May be called twice."""
        if self.chat is not None:
            try:
                self.chat.close()
            except AssistantError as error:
                self.close_problem = str(error)

    async def resume(self, id: str) -> None:
        """Go on with another conversation, with the models that are loaded."""
        if self.chat is None or self.chat.is_busy:
            self.show_notice("Wait for the answer, or stop it with esc.")
            return
        if id == self.conversation_id():
            self.show_notice("This conversation is open.")
            return
        try:
            conversation, file = self.setup.store.open(id)
        except AssistantError as error:
            self.show_notice(str(error))
            return
        await self._exchange(conversation, file)

    async def new_conversation(self) -> None:
        """Begin an empty conversation. The one before stays on the disk."""
        if self.chat is None or self.chat.is_busy:
            self.show_notice("Wait for the answer, or stop it with esc.")
            return
        await self._exchange(Conversation(), self.setup.store.create(self.setup.opened_now()))

    async def _exchange(self, conversation: Conversation, file: ConversationFile) -> None:
        assert self.chat is not None
        self.chat.exchange(conversation, file, self.setup.opened_now())
        await self._open_conversation()
        await self.draw()

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: object) -> None:
        """Call a method of the chat in this screen's queue, and draw."""
        self.call_later(self._call_and_draw, name, *arguments)

    async def _call_and_draw(self, name: str, *arguments: object) -> None:
        if self.chat is not None:
            getattr(self.chat, name)(*arguments)
            await self.draw()

    action_stop = partialmethod(_call, "stop")
    action_deal = partialmethod(_call, "deal")
    action_load = partialmethod(_call, "load_again")

    def action_run(self) -> None:
        """Answer 20 test rows in the background."""
        self.call_later(self.run_rows)

    async def run_rows(self, count: int = RUN_ROWS) -> None:
        """Answer test rows in the background, with a card for them."""
        if self.chat is not None:
            before = set(self.chat.runs)
            self.chat.run_rows(count)
            for run in set(self.chat.runs) - before:
                await self._view.add(Item(RUN, run))
            await self.draw()

    def action_again(self) -> None:
        """Answer once more."""
        turn = self.turn()
        if turn is not None:
            self._shown_variants[turn.number] = turn.next_variant
            self._call("again", turn.number)

    def action_tie(self) -> None:
        """Say that neither answer is better."""
        turn = self.turn()
        if turn is not None and turn.is_blind:
            self._call("choose", turn.number, None)

    def action_flip(self, step: int) -> None:
        """Flip variants, or choose."""
        self.call_later(self.flip, step)

    def action_beside(self) -> None:
        """Let the base model answer beside the tuned one, or not."""
        if self.chat is None:
            return
        self.show_notice(switch_base(self.chat, self.setup.no_base))

    def action_blind(self) -> None:
        """Hide which model wrote which answer, or show it."""
        if self.chat is None:
            return
        if not self.chat.has_base:
            self.action_beside()
            return
        settings = self.chat.settings
        settings.blind = not settings.blind
        words = "Blind: both answer, you choose with ← or →, then see which was which."
        self.show_notice(words if settings.blind else "The names of the models are shown.")

    def action_widen(self) -> None:
        """Give the tuned answer all the room, then the base's, then both the same."""
        order = {None: "tuned", "tuned": "base", "base": None}
        self.call_later(self._widen, order[self._wide])

    def action_markdown(self) -> None:
        """Show answers as Markdown, or every character as it is."""
        self.call_later(self._toggle_markdown)

    async def _toggle_markdown(self) -> None:
        self._is_markdown = not self._is_markdown
        for view in self._view.query(TurnView):
            await view.set_markdown(self._is_markdown)
        self.show_notice("Markdown." if self._is_markdown else "Every character as the model wrote it.")

    def action_nearest(self) -> None:
        """Show the nearest training row under each answer, or not."""
        self.shows_nearest = not self.shows_nearest
        if self.shows_nearest and (self.chat is None or self.chat.nearest is None):
            self.show_notice("The training rows of this model are not known here.")
        self.call_later(self.redraw_turns)

    def action_edit(self) -> None:
        """Put the selected question into the prompt again."""
        turn = self.turn()
        if turn is not None:
            self._prompt.set(turn.question.instruction, turn.question.input)

    def action_copy(self) -> None:
        """Copy the shown answer. Pressed again, copy its code blocks in turn."""
        if self._must_choose():
            return
        key = self.shown_key()
        answer = None if key is None or self.chat is None else self.chat.conversation.find(key)
        if answer is None or key is None:
            return
        choices = pieces(answer.response)
        place = (self._copied[1] + 1) % len(choices) if self._copied is not None and self._copied[0] == key else 0
        self._copied = (key, place)
        self.app.copy_to_clipboard(choices[place].text)
        more = f" ctrl+y once more copies {choices[(place + 1) % len(choices)].name}." if len(choices) > 1 else ""
        self.show_notice(f"Sent {choices[place].name} to your terminal's clipboard.{more}")

    def action_scroll_conversation(self, pages: int) -> None:
        """Scroll the conversation by a page: up for -1, down for 1."""
        self._view.scroll_pages(pages)

    def action_send(self) -> None:
        """Send what is typed."""
        self._prompt.action_submit()

    @on(Foot.Clicked)
    async def _key_clicked(self, message: Foot.Clicked) -> None:
        await self.run_action(message.action)

    # --- screens over this one ----------------------------------------------------------------------------------------

    def action_tokens(self) -> None:
        """Look at the tokens of the shown answer."""
        key = self.shown_key()
        if key is not None and not self._must_choose():
            self._call("inspect", key)

    def _must_choose(self) -> bool:
        """Whether the models' names are hidden, so that what the person wants would tell them."""
        turn = self.turn()
        if turn is None or not turn.is_blind:
            return False
        self.show_notice("Choose first.")
        return True

    action_prompt = dialogs.show_prompt
    action_correct = dialogs.correct
    action_settings = dialogs.change_settings
    action_sessions = dialogs.list_sessions
    action_growth = dialogs.show_growth
    action_help = dialogs.show_help
