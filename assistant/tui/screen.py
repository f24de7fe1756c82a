"""The chat's screen: turns keys and the widgets' messages into calls of `Chat`, and draws what has changed."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import TextArea

from assistant.chat.actions import exact_prompt, nearest_words, order_of
from assistant.chat.chat import RUN_ROWS, Chat
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.events import Event, TokenDetail
from assistant.chat.front import RecordSink
from assistant.chat.prompt_parts import ExactPrompt, PromptLayout
from assistant.chat.records import AnswerKey, RowRun
from assistant.chat.setup import ChatSetup
from assistant.chat.tally import same_answers_in_a_row, tally
from assistant.errors import AssistantError
from assistant.tui import dialogs, foot_state, slash
from assistant.tui.answer_view import AnswerClicked
from assistant.tui.bridge import Bridge, FromWorker
from assistant.tui.cards import ProblemCard, RunCard
from assistant.tui.clipboard import pieces
from assistant.tui.conversation_view import ConversationView, Item
from assistant.tui.foot import Foot
from assistant.tui.prompt import Prompt
from assistant.tui.tally_bar import TallyBar
from assistant.tui.title import Title, TitleParts
from assistant.tui.turn_state import TurnState, turn_state
from assistant.tui.turn_view import TurnClicked, TurnView
from assistant.tui.welcome import SuggestionLine, Welcome

TURN, RUN, PROBLEM = "turn", "run", "problem"


class ChatScreen(Screen[None]):
    """Owns the chat. State changes only in this screen's own queue, one message after another.

    The worker's events arrive there as `FromWorker`. Actions run in the app's queue, so those that draw enter this
    queue with `call_later`.
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

    _view = getters.query_one("#conversation", ConversationView)
    _prompt = getters.query_one(Prompt)
    _foot = getters.query_one("#foot", Foot)
    _tally = getters.query_one("#tally", TallyBar)
    _welcome = getters.query_one(Welcome)

    def __init__(self, setup: ChatSetup) -> None:
        super().__init__()
        self.setup = setup
        self.chat: Chat | None = None
        self.bridge = Bridge(self)
        self.selected: int | None = None
        """The turn that keys are about. None: the newest one."""
        self.shows_nearest = False
        self._shown_variants: dict[int, int] = {}
        self._is_markdown = False
        self._wide: str | None = None
        self._prompt_layout: PromptLayout | None = None
        self._problems: list[tuple[str, str]] = []
        self.unclear: str | None = None
        """A bare word such as `quit` that was sent just now."""
        self._tallied: tuple[int, int] | None = None
        self._copied: tuple[AnswerKey, int] | None = None
        self.close_problem = ""
        """Why the conversation could not be saved at the end."""

    def compose(self) -> ComposeResult:
        yield Title(TitleParts(model=self.setup.model_name, base=self.setup.base_name), id="title")
        yield ConversationView(
            self._make, Welcome(self.setup.suggestions, has_base=bool(self.setup.base_name)), id="conversation"
        )
        yield TallyBar(id="tally")
        yield Prompt(id="prompt", history=self.setup.inputs)
        yield Foot(id="foot")

    async def on_mount(self) -> None:
        """Load the model after the first screen is painted, because importing torch takes seconds."""
        self._show_state()
        self.call_after_refresh(self.begin)

    async def begin(self) -> None:
        """Start the chat's worker, and show the conversation that is resumed."""
        self.chat = self.setup.begin(self.bridge, self._post)
        await self._open_conversation()
        await self.draw()

    async def _open_conversation(self) -> None:
        assert self.chat is not None
        self.selected, self._shown_variants = None, {}
        conversation = self.chat.conversation
        runs = [Item(RUN, run) for run in dict.fromkeys(row.run for row in conversation.rows)]
        await self._view.open([Item(TURN, turn.number) for turn in conversation.turns] + runs)
        self.bridge.state_changed()

    def _post(self, event: Event) -> None:
        with suppress(RuntimeError):  # the app is closing
            self.post_message(FromWorker(event))

    @on(FromWorker)
    async def _from_worker(self, message: FromWorker) -> None:
        if self.chat is not None:
            self.chat.handle(message.event)
            await self.draw()

    # --- drawing ------------------------------------------------------------------------------------------------------

    async def draw(self) -> None:
        """Draw what the chat reported since the last time."""
        news, chat = self.bridge.take(), self.chat
        if chat is None:
            return
        for number in news.added:
            self.selected = None
            await self._view.add(Item(TURN, number))
            await self._mark_selected()
        for key, text in news.texts:
            view = self._view.widget(Item(TURN, key.turn))
            if isinstance(view, TurnView) and key.turn not in news.changed:
                await view.append(key, text)
        for number in news.changed - set(news.added):
            await self._draw_turn(number)
        for row in news.rows:
            await self._draw_row(row)
        for problem in news.problems:
            self._problems.append(problem)
            await self._view.add(Item(PROBLEM, len(self._problems) - 1))
        if news.added or news.changed or news.rows or news.problems or news.has_state:
            self._show_state()
        elif news.texts:
            self._show_foot()

    def _make(self, item: Item) -> Widget:
        """Make the widget of an item, as it is now."""
        chat = self.chat
        assert chat is not None
        if item.kind == PROBLEM:
            return ProblemCard(*self._problems[item.number])
        if item.kind == RUN:
            rows = [row for row in chat.conversation.rows if row.run == item.number]
            run = chat.runs.get(item.number)
            return RunCard(rows, len(rows) if run is None or run.has_ended else len(run.rows))
        view = TurnView(
            self._state_of(chat.conversation.turns[item.number]), is_markdown=self._is_markdown, wide=self._wide
        )
        view.set_class(item.number == self.selected, "-selected")
        return view

    def _state_of(self, turn: Turn) -> TurnState:
        assert self.chat is not None
        nearest = nearest_words(self.chat, turn) if self.shows_nearest else ""
        return turn_state(self.chat, turn, variant=self._shown_variants.get(turn.number), nearest=nearest)

    async def _draw_turn(self, number: int) -> None:
        assert self.chat is not None
        view = self._view.widget(Item(TURN, number))
        if isinstance(view, TurnView):
            await view.show(self._state_of(self.chat.conversation.turns[number]))

    async def redraw_turns(self) -> None:
        """Draw all turns again that have a widget."""
        for item in self._view.items:
            if item.kind == TURN and self._view.widget(item) is not None:
                await self._draw_turn(item.number)

    async def _draw_row(self, row: RowRun) -> None:
        card = self._view.widget(Item(RUN, row.run))
        if isinstance(card, RunCard):
            card.add(row)

    def _show_state(self) -> None:
        """Draw title, tally and foot."""
        chat = self.chat
        self.query_one("#title", Title).show(dialogs.title_parts(self.setup, chat))
        if chat is not None:
            shown = (id(chat.conversation), chat.conversation.n_comparisons)
            if shown != self._tallied:  # counting takes milliseconds in a long conversation
                self._tallied = shown
                self._tally.show(tally(chat.conversation), same_answers_in_a_row(chat.conversation) or "")
            if (model := chat.card("tuned")) is not None:
                self._welcome.show_history(is_base=model.info is None, is_seen=chat.has_learnt_conversations)
            for number, run in chat.runs.items():
                run_card = self._view.widget(Item(RUN, number))
                if run.has_ended and isinstance(run_card, RunCard):
                    run_card.end()
        self._show_foot()

    def _show_foot(self) -> None:
        chat, exact = self.chat, self.exact_prompt()
        self._foot.show(
            foot_state.keys(chat, has_text=self._prompt.has_text, is_selected=self.selected is not None),
            foot_state.state(chat, self.setup.model_name, prompt_tokens=None if exact is None else exact.n_tokens),
        )

    def exact_prompt(self) -> ExactPrompt | None:
        """Return the prompt that would be sent now.

        None while the model is loading, if nothing is typed, and where it would give a blind choice away.
        """
        chat = self.chat
        card = None if chat is None else chat.card("tuned")
        if chat is None or card is None or not self._prompt.instruction or chat.hides_history:
            return None
        if self._prompt_layout is None:
            self._prompt_layout = PromptLayout(card)
        history = chat.conversation.history(len(chat.conversation.turns)) if chat.has_learnt_conversations else ()
        return self._prompt_layout.lay_out(
            self._prompt.instruction,
            input=self._prompt.input,
            history=history,
            max_new_tokens=chat.settings.generation.max_new_tokens,
        )

    # --- the prompt ---------------------------------------------------------------------------------------------------

    @on(Prompt.Submitted)
    async def _submitted(self, message: Prompt.Submitted) -> None:
        await slash.submit(self, message.instruction, message.input)
        await self.draw()

    async def send(self, instruction: str, input: str) -> None:
        """Ask a question. One that is too long for the context stays in the prompt."""
        chat = self.chat
        if chat is None:
            self.give_back(instruction, input)
            return
        if chat.state("tuned") == "failed":
            self.give_back(instruction, input)
            self.show_notice("There is no model. ctrl+l loads it again.")
            return
        if (problem := self._too_long(instruction, input)) is not None:
            self.give_back(instruction, input)
            self.show_notice(problem)
            return
        chat.send(instruction, input)

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

    def give_back(self, instruction: str, input: str) -> bool:
        """Put a question back into the prompt, if it is empty. Return whether it is there."""
        return self._prompt.restore(instruction, input)

    @on(SuggestionLine.Taken)
    def _suggested(self, message: SuggestionLine.Taken) -> None:
        self._prompt.set(message.instruction, message.input)

    # --- conversations ------------------------------------------------------------------------------------------------

    def conversation_id(self) -> str | None:
        """Return the id of the conversation. None if it is not on the disk."""
        file = None if self.chat is None else self.chat.file
        return getattr(file, "id", None) if getattr(file, "is_saved", False) else None

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

    async def _exchange(self, conversation: Conversation, file: RecordSink) -> None:
        assert self.chat is not None
        self.chat.exchange(conversation, file, self.setup.opened_now())
        await self._open_conversation()
        await self.draw()

    # --- turns --------------------------------------------------------------------------------------------------------

    def turn(self) -> Turn | None:
        """Return the turn that keys are about: the selected one, or the newest."""
        if self.chat is None or not self.chat.conversation.turns:
            return None
        turns = self.chat.conversation.turns
        return turns[-1] if self.selected is None or self.selected >= len(turns) else turns[self.selected]

    def shown_key(self) -> AnswerKey | None:
        """Return the name of the answer that is shown of that turn: of the tuned model, or else of the base."""
        turn = self.turn()
        if turn is None:
            return None
        for side in ("tuned", "base"):
            variant = self._shown_variants.get(turn.number)
            answer = turn.answer(side, variant) or turn.answer(side)
            if answer is not None:
                return answer.key
        return None

    async def flip(self, step: int) -> None:
        """Choose left or right in an open blind choice, else show the variant before or after."""
        turn = self.turn()
        if turn is None or self.chat is None:
            return
        if turn.is_blind:
            left, right = order_of(turn)
            self.chat.choose(turn.number, left if step < 0 else right)
            await self.draw()
            return
        key = self.shown_key()
        if key is None or len(turn.variants) < 2:
            return
        place = turn.variants.index(key.variant) + step
        self.keep(turn, turn.variants[place % len(turn.variants)])
        await self.draw()

    def keep(self, turn: Turn, variant: int) -> None:
        """Show a variant, and make it the one that counts."""
        if self.chat is not None:
            self._shown_variants[turn.number] = variant
            self.chat.keep(turn.number, variant)

    def show_kept(self, turn: Turn) -> None:
        """Show the variant of a turn that counts."""
        self._shown_variants.pop(turn.number, None)

    async def _select_next(self, step: int) -> None:
        turn = self.turn()
        if turn is not None:
            await self.select(turn.number if self.selected is None and step > 0 else turn.number + step)

    async def select(self, number: int) -> None:
        """Select a turn. One past the newest: none."""
        assert self.chat is not None
        count = len(self.chat.conversation.turns)
        self.selected = None if number >= count else max(number, 0)
        if self.selected is not None:
            await self._view.show(Item(TURN, self.selected))
        else:
            self._view.anchor()
        await self._mark_selected()

    async def _mark_selected(self) -> None:
        self._show_foot()
        for view in self._view.query(TurnView):
            view.set_class(view.state.number == self.selected, "-selected")

    @on(TurnClicked)
    async def _turn_clicked(self, message: TurnClicked) -> None:
        await self.select(message.number)

    @on(AnswerClicked)
    async def _column_clicked(self, message: AnswerClicked) -> None:
        if message.state.is_hidden:
            return  # the columns of other turns would tell which side this is
        side = message.state.key.side
        await self._widen(None if self._wide == side else side)

    async def _widen(self, side: str | None) -> None:
        self._wide = side
        for view in self._view.query(TurnView):
            view.set_wide(side)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: object) -> None:
        """Call a method of the chat in this screen's queue, and draw."""
        self.call_later(self._call_and_draw, name, *arguments)

    async def _call_and_draw(self, name: str, *arguments: object) -> None:
        if self.chat is not None:
            getattr(self.chat, name)(*arguments)
            await self.draw()

    def action_stop(self) -> None:
        """Stop the answers, or take back what waits."""
        self._call("stop")

    def action_deal(self) -> None:
        """Ask a test row."""
        self._call("deal")

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

    async def continue_from(self, key: AnswerKey, place: int, token_id: int) -> None:
        """Write a new variant of an answer, from another token on."""
        if self.chat is not None:
            self._shown_variants[key.turn] = self.chat.conversation.turns[key.turn].next_variant
            self.chat.continue_from(key, place, token_id)
            await self.draw()

    def action_tie(self) -> None:
        """Say that neither answer is better."""
        turn = self.turn()
        if turn is not None and turn.is_blind:
            self._call("choose", turn.number, None)

    def action_flip(self, step: int) -> None:
        """Flip variants, or choose."""
        self.call_later(self.flip, step)

    def action_load(self) -> None:
        """Load the models again that could not be loaded."""
        self._call("load_again")

    def action_beside(self) -> None:
        """Let the base model answer beside the tuned one, or not."""
        if self.chat is None:
            return
        if not self.chat.has_base:
            self.show_notice(self.setup.no_base or self.chat.load_problem("base") or "There is no base model.")
            return
        settings = self.chat.settings
        settings.beside = not settings.beside
        settings.blind = settings.blind and settings.beside
        self.show_notice("The base model answers too." if settings.beside else "Only the tuned model answers.")

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

    def show_notice(self, text: str) -> None:
        """Show a short notice in the last line."""
        self._foot.show_notice(text)

    # --- screens over this one ----------------------------------------------------------------------------------------

    def show_tokens(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:
        """Open the token view."""
        dialogs.show_tokens(self, key, tokens)

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

    def action_prompt(self) -> None:
        """Show the exact prompt."""
        dialogs.show_prompt(self)

    def action_correct(self) -> None:
        """Write the right answer."""
        dialogs.correct(self)

    def action_settings(self) -> None:
        """Change temperature, seed and length."""
        dialogs.change_settings(self)

    def action_sessions(self) -> None:
        """List the conversations."""
        dialogs.list_sessions(self)

    def action_growth(self) -> None:
        """Show how the model learnt."""
        dialogs.show_growth(self)

    def action_help(self) -> None:
        """Show the list of keys."""
        dialogs.show_help(self)
