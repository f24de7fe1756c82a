"""The part of the chat's screen that draws: it shows what `Chat` reports. Knows no keys."""

from __future__ import annotations

from contextlib import suppress

from textual import getters, on
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget

from assistant.chat.actions import nearest_words, order_of, other_model
from assistant.chat.chat import Chat
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.events import Event
from assistant.chat.prompt_parts import ExactPrompt, PromptLayout
from assistant.chat.records import AnswerKey
from assistant.chat.setup import ChatSetup
from assistant.chat.tally import same_answers_in_a_row, tally
from assistant.tui import dialogs, foot_state
from assistant.tui.answer_view import AnswerClicked
from assistant.tui.bridge import Bridge, FromWorker
from assistant.tui.cards import ProblemCard, RunCard
from assistant.tui.conversation_view import ConversationView, Item
from assistant.tui.foot import Foot
from assistant.tui.prompt import Prompt
from assistant.tui.tally_bar import TallyBar
from assistant.tui.title import Title, TitleParts
from assistant.tui.turn_state import TurnState, turn_state
from assistant.tui.turn_view import TurnClicked, TurnView
from assistant.tui.welcome import Welcome

TURN, RUN, PROBLEM = "turn", "run", "problem"


class ConversationScreen(Screen[None]):
    """Owns the chat, and shows it: turns, runs, problems, tally and foot.

    State changes only in this screen's own queue, one message after another. The worker's events arrive there as
    `FromWorker`.
    """

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
        self._written: set[int] = set()
        """Turns with an answer that was being written when the screen was drawn last."""
        self._prompt_layout: PromptLayout | None = None
        self._problems: list[tuple[str, str]] = []
        self._inputs_problem = ""
        """The last notice about the history of messages, which is shown once."""
        self.unclear: str | None = None
        """A bare word such as `quit` that was sent just now."""
        self._tallied: tuple[Conversation, int] | None = None
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
        self.selected, self._shown_variants, self._written = None, {}, set()
        await self._view.open(items_of(self.chat.conversation))
        if note := other_model(self.chat.conversation, self.setup.opened.model):
            self.show_notice(note)
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
        self._show_ended(chat)
        for row in news.rows:
            card = self._view.widget(Item(RUN, row.run))
            if isinstance(card, RunCard):
                card.add(row)
        for problem in news.problems:
            self._problems.append(problem)
            await self._view.add(Item(PROBLEM, len(self._problems) - 1))
        if news.added or news.changed or news.rows or news.problems or news.has_state:
            self._show_state()
        elif news.texts:
            self._show_foot()

    def _show_ended(self, chat: Chat) -> None:
        """Show two answers from their beginning when both have ended: the shorter one may have left the screen."""
        written = {key.turn for key in chat.open_answers}
        ended, self._written = self._written - written, written
        for turn in chat.conversation.turns if ended else ():
            if turn.number in ended and all(turn.answers.values()):
                self._view.show_beginning(Item(TURN, turn.number))

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

    def _show_state(self) -> None:
        """Draw title, tally and foot."""
        chat = self.chat
        self.query_one("#title", Title).show(dialogs.title_parts(self.setup, chat))
        if chat is not None:
            shown = (chat.conversation, chat.conversation.n_comparisons)
            # Counting takes milliseconds in a long conversation.
            if self._tallied is None or self._tallied[0] is not shown[0] or self._tallied[1] != shown[1]:
                self._tallied = shown
                self._tally.show(tally(chat.conversation), same_answers_in_a_row(chat.conversation) or "")
            if (model := chat.card("tuned")) is not None:
                self._welcome.show_history(
                    is_base=model.info is None, is_seen=chat.has_learnt_conversations, most=chat.history_length
                )
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
        return self._prompt_layout.lay_out(
            self._prompt.instruction,
            input=self._prompt.input,
            history=chat.history_before(len(chat.conversation.turns)),
            max_new_tokens=chat.settings.generation.max_new_tokens,
        )

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

    async def continue_from(self, key: AnswerKey, place: int, token_id: int) -> None:
        """Write a new variant of an answer, from another token on."""
        if self.chat is not None:
            self._shown_variants[key.turn] = self.chat.conversation.turns[key.turn].next_variant
            self.chat.continue_from(key, place, token_id)
            await self.draw()

    # --- what the bridge asks ---------------------------------------------------------------------------------------

    def give_back(self, instruction: str, input: str) -> bool:
        """Put a question back into the prompt, if it is empty. Return whether it is there."""
        return self._prompt.restore(instruction, input)

    def show_notice(self, text: str) -> None:
        """Show a short notice in the last line."""
        self._foot.show_notice(text)

    show_tokens = dialogs.show_tokens


def items_of(conversation: Conversation) -> list[Item]:
    """Return what a conversation shows, in the order in which it happened: turns and runs."""
    begun = [(turn.question.at, Item(TURN, turn.number)) for turn in conversation.turns]
    first_rows = {row.run: row for row in reversed(conversation.rows)}
    begun += [(row.at, Item(RUN, run)) for run, row in sorted(first_rows.items())]
    return [item for _, item in sorted(begun, key=lambda one: one[0])]
