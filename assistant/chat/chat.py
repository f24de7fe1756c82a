"""`Chat`: what a front calls. It owns the conversation, its file, the queue of questions and the worker.

A front is the terminal chat or the plain mode. All methods run in the front's own thread: the worker's events reach
`handle` there. Every change goes through a record, which is on the disk before the front shows it.
"""

from __future__ import annotations

from assistant.chat.asking import Asking
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.conversation_file import ConversationFile
from assistant.chat.heldout import HeldOutRow, next_rows
from assistant.chat.records import SIDES, Answered, AnswerKey, Chosen, Corrected, Kept, Opened, Side, Titled
from assistant.chat.state import Question, Run, now
from assistant.chat.worker import InspectJob, RowsJob
from assistant.errors import AssistantError

STILL_WRITTEN = "This answer is still being written."
WAIT_FOR_BOTH = "Wait for both answers, then choose."
RUN_ROWS = 20
"""Held-out rows of one background run."""


class Chat(Asking):
    """One conversation with one model, and with its base: what a person may do."""

    # --- asking ---------------------------------------------------------------------------------------------------

    def send(self, instruction: str, input: str = "", row: HeldOutRow | None = None) -> None:
        """Ask a question, after those that wait already."""
        if self._is_closed:
            return
        self.waiting.append(Question(_encodable(instruction), _encodable(input), row))
        self._advance()
        self.front.state_changed()

    def deal(self) -> None:
        """Ask the next held-out row."""
        rows = self._next_rows(1)
        if rows:
            self.send(rows[0].example.instruction, rows[0].example.input, rows[0])

    def run_rows(self, count: int = RUN_ROWS) -> None:
        """Let both models answer the next held-out rows in the background."""
        rows = self._next_rows(count)
        if not rows:
            return
        run = max(self._n_runs, 1 + max((row.run for row in self.conversation.rows), default=-1))
        self._n_runs = run + 1
        self.runs[run] = Run(rows={row.id: row for row in rows})
        self.worker.submit(
            RowsJob(
                run=run,
                rows=rows,
                settings=self._new_settings(),
                with_base=self.has_base,
            )
        )
        self.front.state_changed()

    def again(self, number: int) -> None:
        """Answer a question once more, with a new seed."""
        turn = self.conversation.turns[number]
        if self.is_written(number):
            self.front.notice(STILL_WRITTEN)
            return
        sides = [side for side in SIDES if self._has_answered(turn, side)] or ["tuned"]
        if turn.question.left == "base":
            sides.reverse()  # in a blind choice, the order in which they are written must not tell which is which
        if all(self._would_repeat(turn.answer(side)) for side in sides):
            self.front.notice(f"At temperature 0 the answer would be the same. {self._advice.set_temperature}")
            return
        self._start(turn, [side for side in sides if self.state(side) == "ready"], self._new_settings())

    def continue_from(self, key: AnswerKey, place: int, token_id: int) -> None:
        """Write a new variant of an answer: its tokens before `place`, then `token_id`, then what the model adds."""
        answer = self.conversation.find(key)
        if self.is_written(key.turn):  # two variants would get one name
            self.front.notice(STILL_WRITTEN)
        elif answer is not None and self.state(key.side) == "ready":
            turn = self.conversation.turns[key.turn]
            self._start(turn, [key.side], answer.settings, forced_ids=(*answer.token_ids[:place], token_id))

    def inspect(self, key: AnswerKey) -> None:
        """Look at the tokens of an answer. `Front.tokens_ready` gets them."""
        answer = self.conversation.find(key)
        if answer is None or not answer.token_ids:
            self.front.notice("There are no tokens to look at.")
            return
        turn = self.conversation.turns[key.turn]
        self._inspected.append(self.conversation)
        self.worker.submit(
            InspectJob(
                key=key,
                instruction=turn.question.instruction,
                input=turn.question.input,
                history=self.history(turn)[answer.n_forgotten :],
                answer=answer,
            )
        )

    def stop(self) -> None:
        """Stop the answers that are being written, or else take the newest waiting question back, or stop the runs."""
        if self.open_answers:
            for key, answer in self.open_answers.items():
                answer.is_stopping = True
                self.worker.stop(key)
            for number in {key.turn for key in self.open_answers}:
                self.front.turn_changed(number)
        elif self.waiting:
            question = self.waiting.pop()
            if not self._give_back(question) and question.row is None and self._advice.find_message:
                self.front.notice(self._advice.find_message)
        else:
            for number, run in self.runs.items():
                if not run.has_ended:
                    self.worker.stop_run(number)
        self.front.state_changed()

    def close(self) -> None:
        """End the chat. What has been written of an answer is kept, as if the person had stopped it.

        Events that are still on their way change nothing any more. May be called twice.

        Raises:
            DataError: something could not be saved, even now.
        """
        for key, answer in self.open_answers.items():
            card = self.card(key.side)
            if answer.text and card is not None:
                token_ids = tuple(card.tokenizer.encode(answer.text))
                self._record(
                    Answered(
                        at=now(),
                        **key._asdict(),
                        response=answer.text,
                        token_ids=token_ids,
                        stop_reason="cancelled",
                        seconds=0.0,
                        settings=answer.settings,
                    )
                )
        self.open_answers.clear()
        self.waiting.clear()
        self._is_closed = True
        self.worker.close()
        self.file.close()

    def load_again(self) -> None:
        """Try once more to load the models that could not be loaded."""
        for side, state in self._states.items():
            if state == "failed":
                self._states[side] = "loading"
                self.worker.load_again(side)
        self.front.state_changed()

    # --- what the person says about answers -----------------------------------------------------------------------

    def keep(self, number: int, variant: int) -> None:
        """Make a variant the answer that counts."""
        self._record(Kept(at=now(), turn=number, variant=variant))
        self.front.turn_changed(number)
        self.front.state_changed()

    def choose(self, number: int, chosen: Side | None) -> None:
        """Say which of two answers is better. None: neither."""
        turn = self.conversation.turns[number]
        answers = {side: turn.answer(side) for side in ("tuned", "base")}
        if None in answers.values() or self.is_written(number):
            self.front.notice(WAIT_FOR_BOTH)
            return
        keys = {side: answer.key for side, answer in answers.items() if answer is not None}
        better = None if chosen is None else keys[chosen]
        worse = None if chosen is None else keys["base" if chosen == "tuned" else "tuned"]
        self._record(Chosen(at=now(), turn=number, chosen=better, rejected=worse, blind=turn.is_blind))
        self.front.turn_changed(number)
        self.front.state_changed()

    def correct(self, number: int, text: str) -> None:
        """Write the right answer to a question."""
        self._record(Corrected(at=now(), turn=number, text=text))
        self.front.turn_changed(number)
        self.front.state_changed()

    def exchange(self, conversation: Conversation, file: ConversationFile, opened: Opened) -> None:
        """Go on with another conversation. Nothing may be answered or wait now; runs are stopped."""
        for number, run in self.runs.items():
            if not run.has_ended:
                self.worker.stop_run(number)
        self.runs, self.failures = {}, {}
        try:
            self.file.close()
        except AssistantError as error:
            self.front.problem(str(error), "The end of that conversation is not saved.")
        self.conversation, self.file = conversation, file
        conversation.apply(opened)  # which the file has already
        self.front.state_changed()

    def rename(self, title: str) -> None:
        """Name the conversation."""
        self._record(Titled(at=now(), title=title))
        self.front.state_changed()

    # --- which rows and answers -------------------------------------------------------------------------------------

    def _next_rows(self, count: int) -> tuple[HeldOutRow, ...]:
        if not self.held_out.rows:
            self.front.notice(self.held_out.problem)
            return ()
        seen = {row.row for row in self.conversation.rows}
        seen |= {turn.question.row for turn in self.conversation.turns if turn.question.row is not None}
        seen |= {row for run in self.runs.values() if not run.has_ended for row in run.rows}
        seen |= {question.row.id for question in self.waiting if question.row is not None}
        # Rows of a run that was stopped, and of another conversation, come again.
        rows = next_rows(self.held_out.rows, count, seed=self._deal_seed, answered=seen)
        if not rows:
            self.front.notice("All test rows have been answered in this conversation.")
        return rows

    def _has_answered(self, turn: Turn, side: Side) -> bool:
        """Whether a side answers this turn: it has an answer, or failed, or its blind choice needs both."""
        has_failed = any((key.turn, key.side) == (turn.number, side) for key in self.failures)
        return bool(turn.answers[side]) or has_failed or turn.is_blind

    def _would_repeat(self, answer: Answered | None) -> bool:
        """Whether a new answer with the settings of now would have the same tokens."""
        settings = self.settings.generation
        if answer is None or settings.temperature > 0 or answer.stop_reason == "cancelled" or answer.n_forced:
            return False
        return answer.settings.model_copy(update={"seed": settings.seed}) == settings


def _encodable(text: str) -> str:
    """Return a text that UTF-8 can hold. A terminal that is not UTF-8 may send half a character."""
    return text.encode("utf-8", "replace").decode("utf-8")
