"""The chat as lines: for screen readers, dumb terminals and pipes. It writes no escape sequence.

`You:` and `Model:` begin the lines. It is a front of `assistant.chat.chat.Chat` like the full-screen chat, with one
thread: it reads a line, then waits for the answer.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from assistant.chat.chat import Chat
from assistant.chat.commands import COMMANDS, Command, Text, parse_line
from assistant.chat.conversation import Turn
from assistant.chat.events import Event, TokenDetail
from assistant.chat.heldout import is_match
from assistant.chat.records import AnswerKey, RowRun, Side
from assistant.chat.setup import ChatSetup
from assistant.chat.tally import tally
from assistant.chat.words import describe_end
from assistant.escape import displayable, one_line

LABELS: dict[Side, str] = {"tuned": "Model", "base": "Base"}


class PlainFront:
    """Prints what happens, a line at a time."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._writing: AnswerKey | None = None
        self._at_line_start = True
        self.given_back: tuple[str, str] | None = None
        """A question that was not answered."""

    def say(self, text: str) -> None:
        """Print a line, after the end of the line that is being written."""
        self._end_line()
        self._output.write(f"{text}\n")
        self._output.flush()

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._output.write("\n")
            self._at_line_start = True

    # --- what `Chat` reports ----------------------------------------------------------------------------------------

    def turn_added(self, turn: Turn) -> None:
        """Print a question that the person did not type."""
        question = turn.question
        if question.row is not None:
            self.say(f"Test row: {displayable(question.instruction)}")
            if question.input:
                self.say(f"Input: {displayable(question.input)}")

    def turn_changed(self, number: int) -> None:
        """Answers are printed as they arrive, so nothing is left to do."""

    def text_arrived(self, key: AnswerKey, text: str) -> None:
        """Print more of an answer."""
        if self._writing != key:
            self._end_line()
            self._output.write(f"{LABELS[key.side]}: ")
            self._writing = key
        text = displayable(text)
        self._output.write(text)
        self._output.flush()
        self._at_line_start = text.endswith("\n")

    def end_answer(self, turn: Turn, side: Side) -> None:
        """Print how an answer ended."""
        self._writing = None
        answer = turn.answer(side)
        if answer is None:
            return
        if not answer.response:
            self.say(f"{LABELS[side]}: (no text)")
        words = describe_end(answer)
        if turn.question.reference is not None:
            match = is_match(answer.response, turn.question.reference)
            words += " · equals the reference" if match else f" · reference: {one_line(turn.question.reference)}"
        self.say(f"({words})")

    def row_answered(self, row: RowRun) -> None:
        """Print one row of a run."""
        marks = [f"{LABELS['tuned']} {'right' if is_match(row.tuned, row.reference) else 'wrong'}"]
        if row.base is not None:
            marks.append(f"{LABELS['base']} {'right' if is_match(row.base, row.reference) else 'wrong'}")
        self.say(f"{', '.join(marks)}: {one_line(f'{row.instruction} {row.input}')}")

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:
        """Print an answer's tokens with their probabilities."""
        for token in tokens:
            base = "" if token.base_rank is None else f", rank {token.base_rank} under the base"
            self.say(f"  {one_line(token.text)!r}: {100 * token.probability:.0f} %, rank {token.rank}{base}")

    def state_changed(self) -> None:
        """The plain chat shows no state."""

    def notice(self, text: str) -> None:
        """Print a notice."""
        self.say(f"({text})")

    def problem(self, text: str, advice: str) -> None:
        """Print a problem."""
        self.say(f"Problem: {displayable(text)} {advice}".rstrip())

    def give_back(self, instruction: str, input: str) -> bool:
        """Keep the question. The next empty line sends it again."""
        self.given_back = (instruction, input)
        return True
