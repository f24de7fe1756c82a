"""The half of a chat that the worker moves: which models are loaded, what waits and is written, and what events change.

`Chat` adds what a person may do. Every change goes through a record, which is on the disk before the front shows it.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from assistant.chat import events
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.conversation_file import ConversationFile
from assistant.chat.front import Advice, Front
from assistant.chat.heldout import HeldOut, HeldOutRow
from assistant.chat.records import SIDES, Answered, AnswerKey, Asked, Opened, Record, RowRun, Side
from assistant.chat.state import ChatSettings, ModelState, OpenAnswer, Question, Run, now
from assistant.chat.worker import AnswerJob, Worker
from assistant.dataset.examples import Example, Exchange
from assistant.errors import AssistantError
from assistant.settings import GenerationSettings

if TYPE_CHECKING:
    from assistant.chat.nearest import NearestRows

LARGEST_DRAWN_SEED = 99_999
"""Drawn seeds have at most five digits, so that a person can type one again."""
NOT_SAVED = "The conversation goes on. What is not saved yet is tried again with the next message."


class Asking:
    """What a chat knows, its queue of questions, and what the worker's events change.

    Args:
        front: Shows what changes.
        worker: Has the models; the caller starts it.
        names: What the models that the worker loads are called.
        conversation: An empty one, or one that is resumed.
        file: Gets every new record.
        opened: The first record of a new conversation.
        draw: Draws seeds and sides. Tests give a seeded generator.
        advice: What the front's person can do about problems.
        test_rows: Test rows that are known before the model's data are read.
    """

    def __init__(
        self,
        *,
        front: Front,
        worker: Worker,
        names: Mapping[Side, str],
        conversation: Conversation,
        file: ConversationFile,
        opened: Opened,
        settings: ChatSettings,
        draw: random.Random | None = None,
        advice: Advice = Advice(),  # noqa: B008  a tuple cannot change
        test_rows: Sequence[Example] = (),
    ) -> None:
        self.front, self.worker, self.settings = front, worker, settings
        self.names = names
        self._advice = advice
        self.conversation = conversation
        self.file = file
        self.waiting: deque[Question] = deque()
        """Questions that were sent and not asked yet, oldest first."""
        self.open_answers: dict[AnswerKey, OpenAnswer] = {}
        self.failures: dict[AnswerKey, str] = {}
        """What was written of answers that failed, by their name."""
        self.runs: dict[int, Run] = {}
        self.held_out = HeldOut(problem="The model's data are not read yet. Try again in a moment.")
        self.has_read_data = False
        """Whether it is known which held-out rows there are."""
        self.test_rows = tuple(test_rows)
        """Rows that exports for training leave out, also where the person typed the question."""
        self.nearest: NearestRows | None = None
        self._is_closed = False
        self._n_runs = 0
        """Runs so far, also those of other conversations: the worker's events name a run by its number alone."""
        self._inspected: deque[Conversation] = deque()
        """Whose answers the worker looks at, in order: its events do not name the conversation."""
        self._deal_seed = 0
        self._rows: dict[str, HeldOutRow] = {}
        self._states: dict[Side, ModelState] = {side: "loading" if side in names else "absent" for side in SIDES}
        self._cards: dict[Side, events.ModelCard] = {}
        self._load_problems: dict[Side, str] = {}
        self._draw = draw or random.SystemRandom()
        conversation.apply(opened)  # which the file has already

    # --- what a front asks ----------------------------------------------------------------------------------------

    def state(self, side: Side) -> ModelState:
        """Return whether a model is loaded."""
        return self._states[side]

    def card(self, side: Side) -> events.ModelCard | None:
        """Return what is known of a loaded model."""
        return self._cards.get(side)

    def load_problem(self, side: Side) -> str:
        """Return why a model could not be loaded."""
        return self._load_problems.get(side, "")

    @property
    def has_base(self) -> bool:
        """Whether there is a base model to compare with."""
        return self.state("base") in ("loading", "ready")

    @property
    def is_busy(self) -> bool:
        """Whether an answer is written, or a question waits."""
        return bool(self.open_answers or self.waiting)

    @property
    def has_learnt_conversations(self) -> bool:
        """Whether the model gets the earlier turns: its rows had a history, or somebody else trained it to chat."""
        card = self.card("tuned")
        if card is None or card.info is None:
            return card is not None and bool(card.template.markers)
        return card.info.conversation_rows > 0

    @property
    def history_length(self) -> int | None:
        """The most earlier turns that the model gets, if it has learnt conversations: with more it would do worse.

        None if that is not known: then it gets as many as fit.
        """
        card = self.card("tuned")
        return None if card is None or card.info is None else card.info.history_length or None

    def is_written(self, number: int) -> bool:
        """Whether an answer of this turn is being written, or waits to be."""
        return any(key.turn == number for key in self.open_answers)

    @property
    def hides_history(self) -> bool:
        """Whether a prompt must not be shown: its history would tell which blind answer is the tuned one."""
        return self.has_learnt_conversations and any(turn.is_blind for turn in self.conversation.turns)

    def history(self, turn: Turn) -> tuple[Exchange, ...]:
        """Return the exchanges that the model reads before a question: none, unless it has learnt conversations."""
        if turn.question.row is not None:
            row = self._rows.get(turn.question.row)
            return () if row is None else row.example.history
        return self.history_before(turn.number)

    def history_before(self, number: int) -> tuple[Exchange, ...]:
        """Return the exchanges that the model reads before a question of the person, which is turn `number`."""
        if not self.has_learnt_conversations:
            return ()
        return self.conversation.history(number)[-(self.history_length or 0) :]  # -0 takes all

    def newest(self) -> Turn | None:
        """Return the newest turn."""
        return self.conversation.turns[-1] if self.conversation.turns else None

    # --- events of the worker -------------------------------------------------------------------------------------

    def handle(self, event: events.Event) -> None:
        """Take an event of the worker, in the front's thread."""
        if self._is_closed:
            return
        match event:
            case events.ModelReady():
                self._states[event.side] = "ready"
                self._cards[event.side] = event.card
                if event.card.template_note:
                    self.front.notice(event.card.template_note)
            case events.ModelFailed():
                self._model_failed(event)
            case events.AnswerStarted():
                self._answer_started(event.key)
            case events.TextArrived():
                self._text_arrived(event)
            case events.AnswerFinished():
                self._answer_finished(event)
            case events.AnswerFailed():
                self._answer_failed(event)
            case events.RowAnswered():
                self._row_answered(event)
            case events.RunEnded():
                self._run_ended(event)
            case events.TokensReady():
                if self._inspected.popleft() is self.conversation:
                    self.front.tokens_ready(event.key, event.tokens)
            case events.TokensFailed():
                if self._inspected.popleft() is self.conversation:
                    self.front.problem(event.problem, "")
            case events.DataReady():
                self._data_ready(event)
        self._advance()
        if not isinstance(event, events.TextArrived):
            self.front.state_changed()

    def _model_failed(self, event: events.ModelFailed) -> None:
        self._states[event.side] = "failed"
        self._load_problems[event.side] = event.problem
        if event.side == "base":
            return  # the person learns it when they ask for the base
        advice = [self._advice.load_again, *(self._take_back(question) for question in reversed(self.waiting))]
        self.waiting.clear()
        self.front.problem(event.problem, " ".join(filter(None, dict.fromkeys(advice))))

    def _answer_started(self, key: AnswerKey) -> None:
        if key in self.open_answers:
            self.open_answers[key].has_begun = True
            self.open_answers[key].began = time.monotonic()
            self.front.turn_changed(key.turn)

    def _text_arrived(self, event: events.TextArrived) -> None:
        if event.key in self.open_answers:
            answer = self.open_answers[event.key]
            answer.text += event.text
            answer.n_pieces = event.n_pieces
            self.front.text_arrived(event.key, event.text)

    def _answer_finished(self, event: events.AnswerFinished) -> None:
        self.open_answers.pop(event.key, None)
        reply = event.reply
        self._record(
            Answered(
                at=now(),
                **event.key._asdict(),
                response=reply.response,
                token_ids=reply.token_ids,
                stop_reason=reply.stop_reason,
                seconds=reply.seconds,
                settings=event.settings,
                n_prompt_tokens=len(reply.prompt_token_ids),
                n_history=event.n_history,
                n_forgotten=reply.n_forgotten,
                n_forced=event.n_forced,
            )
        )
        self.front.turn_changed(event.key.turn)

    def _answer_failed(self, event: events.AnswerFailed) -> None:
        answer = self.open_answers.pop(event.key, None)
        self.failures[event.key] = "" if answer is None else answer.text
        turn = self.conversation.turns[event.key.turn]
        advice = self._advice.answer_again
        if turn.question.row is None and event.key.side == "tuned" and not turn.answers["tuned"]:
            advice = self._take_back(Question(turn.question.instruction, turn.question.input))
        self.front.turn_changed(event.key.turn)
        self.front.problem(event.problem, advice)

    def _row_answered(self, event: events.RowAnswered) -> None:
        run = self.runs.get(event.run)
        if run is None or event.row not in run.rows:
            return
        run.n_answered += 1
        example = run.rows[event.row].example
        record = RowRun(
            at=now(),
            run=event.run,
            row=event.row,
            instruction=example.instruction,
            input=example.input,
            reference=example.output,
            tuned=event.tuned.response,
            base=None if event.base is None else event.base.response,
        )
        self._record(record)
        self.front.row_answered(record)

    def _run_ended(self, event: events.RunEnded) -> None:
        if event.run in self.runs:
            self.runs[event.run].has_ended = True
        if event.problem:
            self.front.problem(event.problem, self._advice.run_others)

    def _data_ready(self, event: events.DataReady) -> None:
        self.has_read_data = True
        self.held_out, self.nearest = event.held_out, event.nearest
        self.test_rows += (*event.held_out.tests, *(row.example for row in event.held_out.rows))
        self._rows = {row.id: row for row in event.held_out.rows}
        self._deal_seed = self._draw.randrange(2**31)

    # --- the queue ------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Ask the next waiting question, if nothing is being answered and the model is loaded."""
        while self.waiting and not self.open_answers and self.state("tuned") == "ready":
            if self.settings.blind and self.state("base") == "loading":
                return  # a blind choice whose base fails to load could never be made
            question = self.waiting.popleft()
            wants_base = self.settings.beside or self.settings.blind or question.row is not None
            sides: list[Side] = ["tuned", "base"] if wants_base and self.has_base else ["tuned"]
            is_blind = self.settings.blind and len(sides) == 2
            if is_blind:
                self._draw.shuffle(sides)  # the order in which they are written must not tell which is which
            asked = Asked(
                at=now(),
                turn=len(self.conversation.turns),
                instruction=question.instruction,
                input=question.input,
                row=None if question.row is None else question.row.id,
                reference=None if question.row is None else question.row.example.output,
                left=sides[0] if is_blind else None,
            )
            self._record(asked)
            turn = self.conversation.turns[-1]
            self.front.turn_added(turn)
            self._start(turn, sides, self._new_settings())

    def _start(
        self, turn: Turn, sides: Sequence[Side], settings: GenerationSettings, forced_ids: tuple[int, ...] = ()
    ) -> None:
        variant = turn.next_variant
        for side in sides:
            key = AnswerKey(turn.number, side, variant)
            self.failures.pop(key, None)
            self.open_answers[key] = OpenAnswer(settings=settings)
            self.worker.submit(
                AnswerJob(
                    key=key,
                    instruction=turn.question.instruction,
                    input=turn.question.input,
                    history=self.history(turn),
                    settings=settings,
                    forced_ids=forced_ids,
                )
            )
        self.front.turn_changed(turn.number)
        self.front.state_changed()

    def _new_settings(self) -> GenerationSettings:
        """The settings of a new answer, with its seed. Greedy decoding uses none."""
        seed = self.settings.seed
        if seed is None:
            is_sampled = self.settings.generation.temperature > 0
            seed = self._draw.randint(0, LARGEST_DRAWN_SEED) if is_sampled else 0
        return self.settings.generation.model_copy(update={"seed": seed})

    def _give_back(self, question: Question) -> bool:
        return question.row is None and self.front.give_back(question.instruction, question.input)

    def _take_back(self, question: Question) -> str:
        """Give a question back, and return a sentence about it. Nothing is said of a test row, which nobody typed."""
        if question.row is not None:
            return ""
        return "Your message is back in the prompt." if self._give_back(question) else self._advice.find_message

    def _record(self, record: Record) -> None:
        """Apply a record and write it. A record that cannot be written still counts until the chat ends."""
        self.conversation.apply(record)
        try:
            self.file.append(record)
        except AssistantError as error:
            self.front.problem(str(error), NOT_SAVED)
