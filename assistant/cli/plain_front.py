"""What the plain chat writes: one line after another, and no escape sequence.

`You:`, `Model:` and `Base:` begin the lines. The further lines of a text are indented, so that no text can look like
the beginning of another one. Knows no commands.
"""

from __future__ import annotations

from typing import TextIO

from assistant.chat.actions import order_of
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.events import TokenDetail
from assistant.chat.heldout import is_match
from assistant.chat.records import Answered, AnswerKey, RowRun, Side
from assistant.chat.tally import same_answers_in_a_row, tally
from assistant.chat.words import describe_end
from assistant.escape import displayable, one_line, visible

LABELS: dict[Side, str] = {"tuned": "Model", "base": "Base"}
INDENT = "  "


class PlainFront:
    """Prints what the chat reports."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._writing: AnswerKey | None = None
        self._held = ""
        """A carriage return at the end of a piece. With a line feed in the next piece, it is one line end."""
        self._at_line_start = True
        self.tokens: tuple[TokenDetail, ...] | None = ()
        """The tokens that were looked at last. None: they are awaited."""
        self._hidden: dict[int, dict[Side, str]] = {}
        """The letters of answers whose models are hidden, by turn."""

    # --- lines ------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a text in a line of its own, or in several. Whatever it contains, no control character is written."""
        self.end_line()
        self._output.write(displayable(text).replace("\n", f"\n{INDENT}") + "\n")
        self._output.flush()

    def ask(self, text: str) -> None:
        """Print the beginning of a line that the person goes on with. Their terminal ends it."""
        self.end_line()
        self._output.write(text)
        self._output.flush()

    def end_line(self) -> None:
        """End the line that is being written."""
        if not self._at_line_start:
            self._output.write("\n")
            self._at_line_start = True

    def _write(self, text: str) -> None:
        """Go on with an answer."""
        for line in displayable(text).splitlines(keepends=True):
            if self._at_line_start and line != "\n":
                self._output.write(INDENT)
            self._output.write(line)
            self._at_line_start = line.endswith("\n")
        self._output.flush()

    # --- what `Chat` reports ----------------------------------------------------------------------------------------

    def turn_added(self, turn: Turn) -> None:
        """Print a question that the person did not type."""
        question = turn.question
        self._hide_names(turn)
        if question.row is not None:
            self.say(f"Test row: {question.instruction}")
            if question.input:
                self.say(f"Input: {question.input}")

    def _hide_names(self, turn: Turn) -> None:
        left, right = order_of(turn)
        self._hidden[turn.number] = {left: "A", right: "B"} if turn.is_blind else {}

    def turn_changed(self, number: int) -> None:
        """Answers are printed as they arrive, so nothing is left to do."""

    def text_arrived(self, key: AnswerKey, text: str) -> None:
        """Print more of an answer."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r") if self._held else text
        if self._writing != key:
            self.end_line()
            self._output.write(f"{self._label(key.turn, key.side)}: ")
            self._writing, self._at_line_start = key, False
        self._write(text)

    def _label(self, turn: int, side: Side) -> str:
        return self._hidden.get(turn, {}).get(side, LABELS[side])

    def end_answer(self, turn: Turn, answer: Answered) -> None:
        """Print how an answer ended."""
        self._writing, self._held = None, ""
        label = self._label(turn.number, answer.side)
        if not answer.response:
            self.say(f"{label}: (no text)")
        if not turn.is_blind:  # its length and speed could tell which model it is
            self.say(f"({self._note(turn, answer)})")

    def _note(self, turn: Turn, answer: Answered) -> str:
        words = describe_end(answer).replace(" · ", ", ")
        if answer.variant:
            words = f"answer {answer.variant + 1}, {words}"
        reference = turn.question.reference
        if reference is None:
            return words
        if is_match(answer.response, reference):
            return f"{words}, equals the reference"
        return f"{words}, differs from the reference: {one_line(reference)}"

    def reveal(self, turn: Turn) -> None:
        """Print the notes that a blind choice held back."""
        self._hidden.pop(turn.number, None)
        for side in order_of(turn):
            if (answer := turn.answer(side)) is not None:
                self.say(f"({LABELS[side]}: {self._note(turn, answer)})")

    def show_turn(self, turn: Turn) -> None:
        """Print a question of a conversation that is resumed, and its answers."""
        self._hide_names(turn)
        question = turn.question
        self.say(f"{'You' if question.row is None else 'Test row'}: {question.instruction}")
        if question.input:
            self.say(f"Input: {question.input}")
        for side in order_of(turn) if turn.is_blind else LABELS:
            if (answer := turn.answer(side)) is not None:
                self.say(f"{self._label(turn.number, side)}: {answer.response or '(no text)'}")
        if turn.correction is not None:
            self.say(f"Correction: {turn.correction}")

    def row_answered(self, row: RowRun) -> None:
        """Print one row of a run."""
        marks = [f"{LABELS['tuned']} {'right' if is_match(row.tuned, row.reference) else 'wrong'}"]
        if row.base is not None:
            marks.append(f"{LABELS['base']} {'right' if is_match(row.base, row.reference) else 'wrong'}")
        self.say(f"{', '.join(marks)}: {one_line(f'{row.instruction} {row.input}')}")

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:  # noqa: ARG002  one at a time
        """Print an answer's tokens with their probabilities."""
        self.tokens = tokens
        for token in tokens:
            base = "" if token.base_rank is None else f", rank {token.base_rank} under the base model"
            self.say(f"{INDENT}[{visible(token.text)}] {_percent(token.probability)}, rank {token.rank}{base}")

    def state_changed(self) -> None:
        """The plain chat shows no state."""

    def notice(self, text: str) -> None:
        """Print a notice."""
        self.say(f"({text})")

    def problem(self, text: str, advice: str) -> None:
        """Print a problem. Nothing is awaited any more."""
        self.tokens = self.tokens or ()
        self.say(f"Problem: {text} {advice}".rstrip())

    def give_back(self, instruction: str, input: str) -> bool:
        """The person sees the question in the lines above."""
        del instruction, input
        return False


def tally_words(conversation: Conversation) -> str:
    """Return the tally as sentences. Empty if no test row was answered and nothing chosen."""
    counted = tally(conversation)
    words: list[str] = []
    if counted.n:
        right = f"{LABELS['tuned']} {counted.tuned_right} right, {LABELS['base']} {counted.base_right} right"
        words.append(f"{_rows(counted.n)}: {right}.")
        verdict = counted.verdict
        if verdict.finding == "early":
            words.append(f"A verdict comes after {_rows(verdict.next_look)}.")
        elif verdict.finding == "unclear":
            words.append("The two cannot be told apart yet.")
        else:
            words.append(f"After {_rows(verdict.n)}, {LABELS['tuned']} is {verdict.words}.")
    elif counted.alone:
        words.append(f"{_rows(counted.alone)}: {LABELS['tuned']} {counted.alone_right} right.")
    if counted.choices.n:
        words.append(f"{counted.choices.words.capitalize()}.")
    if (same := same_answers_in_a_row(conversation)) is not None:
        words.append(f"{same}.")
    return " ".join(words)


def _rows(count: int) -> str:
    return f"{count} test row" if count == 1 else f"{count} test rows"


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f} %" if percent >= 1 else "under 1 %"
