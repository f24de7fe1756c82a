"""The chat as lines: for screen readers, dumb terminals and pipes. It writes no escape sequence.

`You:` and `Model:` begin the lines. It is a front of `assistant.chat.chat.Chat` like the full-screen chat, with one
thread: it reads a line, then waits for the answer.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TextIO

from assistant.chat.actions import change_setting, exact_prompt, nearest_words, order_of, save
from assistant.chat.chat import RUN_ROWS, Chat
from assistant.chat.commands import Command, Text, Unclear, Unknown, help_lines, parse_line
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.events import AnswerFinished, Event, TokenDetail
from assistant.chat.growth import NoGrowth, read_growth
from assistant.chat.heldout import is_match
from assistant.chat.records import AnswerKey, RowRun, Side
from assistant.chat.setup import ChatSetup
from assistant.chat.tally import tally
from assistant.chat.words import describe_end
from assistant.errors import AssistantError
from assistant.escape import displayable, one_line

LABELS: dict[Side, str] = {"tuned": "Model", "base": "Base"}


class PlainFront:
    """Prints what happens, a line at a time."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._writing: AnswerKey | None = None
        self._at_line_start = True
        self.tokens: tuple[TokenDetail, ...] | None = ()
        """The tokens that were looked at last. None: they are awaited."""
        self._hidden: dict[int, dict[Side, str]] = {}
        """The letters of answers whose models are hidden, by turn."""

    def say(self, text: str) -> None:
        """Print a line, after the end of the line that is being written."""
        self._end_line()
        self._output.write(f"{text}\n")
        self._output.flush()

    def ask(self, text: str) -> None:
        """Print the beginning of a line that the person goes on with."""
        self._end_line()
        self._output.write(text)
        self._output.flush()

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._output.write("\n")
            self._at_line_start = True

    # --- what `Chat` reports ----------------------------------------------------------------------------------------

    def turn_added(self, turn: Turn) -> None:
        """Print a question that the person did not type."""
        question = turn.question
        left, right = order_of(turn)
        self._hidden[turn.number] = {left: "A", right: "B"} if turn.is_blind else {}
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
            self._output.write(f"{self._label(key.turn, key.side)}: ")
            self._writing = key
        text = displayable(text)
        self._output.write(text)
        self._output.flush()
        self._at_line_start = text.endswith("\n")

    def _label(self, turn: int, side: Side) -> str:
        return self._hidden.get(turn, {}).get(side, LABELS[side])

    def end_answer(self, turn: Turn, side: Side) -> None:
        """Print how an answer ended."""
        self._writing = None
        answer = turn.answer(side)
        if answer is None:
            return
        if not answer.response:
            self.say(f"{self._label(turn.number, side)}: (no text)")
        if turn.is_blind:
            return  # its length and speed could tell which model it is
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

    def tokens_ready(self, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:  # noqa: ARG002
        """Print an answer's tokens with their probabilities."""
        self.tokens = tokens
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
        """The person sees the question in the lines above."""
        del instruction, input
        return False


class PlainChat:
    """Reads lines, and does what they say, one after another."""

    def __init__(self, setup: ChatSetup, lines: TextIO, output: TextIO) -> None:
        self._setup, self._lines = setup, lines
        self._is_dialogue = lines.isatty()
        self._front = PlainFront(output)
        self._events: queue.Queue[Event] = queue.Queue()
        self._input = ""
        self._unclear: str | None = None
        self._is_over = False
        self._chat: Chat = setup.begin(self._front, self._events.put)

    def run(self) -> int:
        """Talk until the person quits or the lines end. Returns the exit code: 1 if the model cannot be loaded."""
        self._greet()
        self._wait(lambda: self._chat.state("tuned") == "loading")
        if self._chat.state("tuned") == "failed":
            return 1
        try:
            while not self._is_over and (line := self._read()) is not None:
                self._take(line)
        finally:
            self._chat.close()
        return 0

    def _greet(self) -> None:
        say = self._front.say
        base = f", fine-tuned from {one_line(self._setup.base_name)}" if self._setup.base_name else ""
        say(f"Chat with {one_line(self._setup.model_name)}{base}. /help lists the commands, /quit ends.")
        for suggestion in self._setup.suggestions[:1]:
            say(f"For example: {one_line(suggestion.instruction)}")

    def _read(self) -> str | None:
        if self._is_dialogue:
            self._front.ask("You: ")
        line = self._lines.readline()
        return line.rstrip("\r\n") if line else None

    def _wait(self, is_needed: Callable[[], bool]) -> None:
        """Handle events while something has not happened yet. Ctrl-C stops what is being written."""
        while is_needed():
            try:
                event = self._events.get()
            except KeyboardInterrupt:
                if not self._chat.open_answers and not self._has_runs():
                    raise
                self._chat.stop()
                continue
            self._chat.handle(event)
            if isinstance(event, AnswerFinished):
                self._front.end_answer(self._chat.conversation.turns[event.key.turn], event.key.side)

    def _has_runs(self) -> bool:
        return any(not run.has_ended for run in self._chat.runs.values())

    def _finish(self) -> None:
        self._wait(lambda: bool(self._chat.open_answers or self._chat.waiting or self._has_runs()))

    def _take(self, line: str) -> None:
        if not line.strip():
            return
        parsed = parse_line(line, self._unclear)
        self._unclear = parsed.word if isinstance(parsed, Unclear) else None
        match parsed:
            case Text():
                self._send(parsed.text)
            case Command():
                self._command(parsed)
            case Unclear() | Unknown():
                self._front.say(parsed.problem)

    def _send(self, text: str) -> None:
        if not self._is_dialogue:
            self._front.say(f"You: {displayable(text)}")
        self._chat.send(text, self._input)
        self._input = ""
        self._finish()

    def _command(self, command: Command) -> None:
        """Carry out a command of the table."""
        chat, say, turn = self._chat, self._front.say, self._chat.newest()
        match command.name:
            case "help":
                for row in help_lines():
                    say(row)
            case "quit":
                self._is_over = True
            case "input":
                self._input = command.argument
            case "base" | "blind":
                self._switch(command.name)
            case "row" | "run":
                self._wait(lambda: not chat.has_read_data)
                chat.deal() if command.name == "row" else chat.run_rows(command.count or RUN_ROWS)
                self._finish()
                say(f"({tally(chat.conversation).sentence or 'nothing counted yet'})")
            case "tally":
                say(tally(chat.conversation).sentence or "No test row was answered yet. /row asks one.")
            case "settings":
                self._settings(command.argument)
            case "learnt":
                self._show_growth()
            case "where":
                say(str(self._setup.store.where()))
            case "list":
                self._list(command.argument)
            case "open" | "new":
                self._exchange(command.argument)
            case "rename":
                chat.rename(command.argument)
            case "save" | "save-rows" | "save-pairs":
                say(save(chat, command.name, command.argument))
            case _ if turn is None:
                say("There is no answer yet.")
            case _:
                self._about_turn(command, turn)

    def _about_turn(self, command: Command, turn: Turn) -> None:
        """Carry out a command about the newest answer."""
        chat, say = self._chat, self._front.say
        answer = turn.answer("tuned") or turn.answer("base")
        match command.name:
            case "again":
                chat.again(turn.number)
                self._finish()
            case "keep":
                chat.keep(turn.number, (command.count or 1) - 1)
            case "correct":
                chat.correct(turn.number, command.argument)
                say("Saved. /save-rows writes corrections as rows to train on.")
            case "choose":
                self._choose(turn, command.argument)
            case "prompt":
                prompt = exact_prompt(chat, turn)
                say("The prompt is not known yet." if prompt is None else displayable(prompt.text))
            case "nearest":
                self._wait(lambda: not chat.has_read_data)
                say(nearest_words(chat, turn) or "The training rows of this model are not known here.")
            case "tokens" if answer is not None:
                self._front.tokens = None
                chat.inspect(answer.key)
                self._wait(lambda: self._front.tokens is None and bool(answer.token_ids))

    def _switch(self, name: str) -> None:
        chat, settings = self._chat, self._chat.settings
        if not chat.has_base:
            self._front.say(self._setup.no_base or "There is no base model.")
        elif name == "base":
            settings.beside = not settings.beside
            self._front.say("The base model answers too." if settings.beside else "Only the tuned model answers.")
        else:
            settings.blind = not settings.blind
            self._front.say("Answers are A and B now. /choose left or right." if settings.blind else "Names are shown.")

    def _choose(self, turn: Turn, which: str) -> None:
        sides: dict[str, Side | None] = dict(zip(("left", "right"), order_of(turn), strict=True)) | {"neither": None}
        sides |= {"a": sides["left"], "b": sides["right"], "tie": None}
        if which.casefold() not in sides:
            self._front.say("/choose: expected left, right or neither.")
            return
        self._chat.choose(turn.number, sides[which.casefold()])
        left, right = (LABELS[side] for side in order_of(turn))
        self._front.say(f"Saved. Left was: {left}. Right was: {right}.")

    def _settings(self, argument: str) -> None:
        settings = self._chat.settings
        name, _, value = argument.partition(" ")
        if name:
            try:
                settings.generation, settings.seed = change_setting(settings, name, value.strip())
            except AssistantError as error:
                self._front.say(str(error))
                return
        seed = "drawn for each answer" if settings.seed is None else str(settings.seed)
        generation = settings.generation
        self._front.say(
            f"temperature {generation.temperature:g}, seed {seed}, at most {generation.max_new_tokens} tokens"
        )

    def _show_growth(self) -> None:
        growth = read_growth(self._setup.folder)
        if isinstance(growth, NoGrowth):
            self._front.say(growth.reason)
            return
        row = growth.rows[0]
        self._front.say(f"{one_line(f'{row.instruction} {row.input}')} Reference: {one_line(row.reference)}")
        for step in row.steps:
            self._front.say(f"  step {step.step}, loss {step.validation_loss:.3f}: {one_line(step.response)}")

    def _list(self, words: str) -> None:
        store = self._setup.store
        for summary in (store.search(words) if words else store.list())[:20]:
            self._front.say(f"  {summary.id}  {one_line(summary.problem or summary.title)}")

    def _exchange(self, id: str) -> None:
        store, opened = self._setup.store, self._setup.opened
        try:
            conversation, file = store.open(id) if id else (Conversation(), store.create(opened))
        except AssistantError as error:
            self._front.say(str(error))
            return
        self._chat.exchange(conversation, file, opened)
        self._front.say(f"{len(conversation.turns)} questions so far." if id else "A new conversation.")


def run_plain(setup: ChatSetup, lines: TextIO, output: TextIO) -> int:
    """Chat in lines until they end, and return the exit code."""
    return PlainChat(setup, lines, output).run()
