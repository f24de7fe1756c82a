"""The chat as lines: for screen readers, dumb terminals and pipes.

It is a front of `assistant.chat.chat.Chat` like the full-screen chat, with one thread: it reads a line, then waits for
the answer. A line that ends with a backslash goes on in the next one.
"""

from __future__ import annotations

import io
import os
import queue
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TextIO

from assistant.chat.actions import (
    PROMPT_IS_HIDDEN,
    choose,
    correct,
    exact_prompt,
    keep,
    nearest_words,
    other_model,
    save,
    set_setting,
    switch_base,
)
from assistant.chat.chat import RUN_ROWS, Chat
from assistant.chat.commands import Command, Text, Unclear, Unknown, help_lines, parse_line
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.events import AnswerFinished, Event, ModelFailed
from assistant.chat.front import Advice
from assistant.chat.growth import read_growth
from assistant.chat.setup import ChatSetup
from assistant.cli.console import EXIT_FAILURE, interrupt_exit_code, note
from assistant.cli.plain_front import INDENT, PlainFront, tally_words
from assistant.errors import AssistantError
from assistant.escape import one_line
from assistant.signals import SAME_REQUEST_S

ADVICE = Advice(
    set_temperature="/settings temperature 0.7 sets one.",
    load_again="",
    run_others="/run goes on with other rows.",
    find_message="",
    answer_again="/again answers again.",
)
LISTED = 20
"""Conversations that /list shows."""
ENDING_S = 1.0
"""Time that the models' thread gets to end with the chat."""


class CtrlC:
    """Stands among the worker's events for Ctrl-C while something is being answered."""


class PlainChat:
    """Reads lines, and does what they say, one after another."""

    def __init__(self, setup: ChatSetup, lines: TextIO, output: TextIO) -> None:
        self._setup, self._lines = setup, lines
        self._is_dialogue = lines.isatty()
        self._is_first_line = True
        self.front = PlainFront(output)
        self._events: queue.SimpleQueue[Event | CtrlC] = queue.SimpleQueue()
        self._input = ""
        self._unclear: str | None = None
        self._is_over = False
        self.chat: Chat = setup.begin(self.front, self._events.put, ADVICE)

    def run(self) -> int:
        """Talk until the person quits or the lines end. Returns the exit code: 1 if the model cannot be loaded.

        Raises:
            KeyboardInterrupt: Ctrl-C, but not while an answer is written to a person, which stops only that.
        """
        try:
            self._greet()
            if (problem := self._load()) is not None:
                self.front.end_line()
                note(f"error: {problem}")
                return EXIT_FAILURE
            self._talk()
            return 0
        finally:
            self.chat.close()
            if (id := self._saved_id()) is not None:
                note(f"The conversation is saved. To go on with it: assistant chat --plain --resume {id}")

    def _talk(self) -> None:
        try:
            while not self._is_over and (text := self._read()) is not None:
                self._take(text)
        finally:
            if self._is_dialogue and not self._is_over:
                self.front.say("")  # the shell's next line must not follow `You: `

    def _saved_id(self) -> str | None:
        """Return the id of the conversation. None for a pipe, and if nothing was saved."""
        return self.chat.file.id if self._is_dialogue and self.chat.file.is_saved else None

    def _greet(self) -> None:
        setup, say = self._setup, self.front.say
        relation = "compared with" if setup.is_base_given else "fine-tuned from"
        base = f", {relation} {one_line(setup.base_name)}" if setup.base_name else ""
        say(f"Chat with {one_line(setup.model_name)}{base}. /help lists the commands, /quit ends.")
        if setup.conversation.turns:
            self._show_resumed(setup.conversation)
        elif setup.suggestions:
            example = setup.suggestions[0]
            say(f"For example: {one_line(f'{example.instruction} {example.input}')}")

    def _load(self) -> str | None:
        """Wait for the model. Return why it cannot be loaded."""
        while self.chat.state("tuned") == "loading":
            event = self._events.get()
            if isinstance(event, ModelFailed) and event.side == "tuned":
                return event.problem
            if not isinstance(event, CtrlC):
                self.chat.handle(event)
        return None

    # --- lines ------------------------------------------------------------------------------------------------------

    def _read(self) -> str | None:
        """Return the next text, of one line or more. None at the end."""
        lines: list[str] = []
        while True:
            if self._is_dialogue:
                self.front.ask("You, more: " if lines else "You: ")
            line = self._lines.readline()
            if not line:
                return "\n".join(lines) if lines else None
            line = line.rstrip("\r\n")
            if self._is_first_line:
                self._is_first_line = False
                line = line.removeprefix("\ufeff")
            n_backslashes = len(line) - len(line.rstrip("\\"))
            lines.append(line.removesuffix("\\"))  # two of them are one
            if n_backslashes % 2 == 0:
                return "\n".join(lines)

    def _take(self, text: str) -> None:
        if not text.strip():
            return
        parsed = parse_line(text, self._unclear)
        self._unclear = parsed.word if isinstance(parsed, Unclear) else None
        match parsed:
            case Text():
                self._send(parsed.text)
            case Command():
                self._command(parsed)
            case Unclear() | Unknown():
                self.front.say(parsed.problem)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _wait(self, is_needed: Callable[[], bool]) -> None:
        """Handle events while something has not happened yet. A person's Ctrl-C stops what is being written."""
        stopped_at: float | None = None
        with self._ctrl_c_as_event():
            while is_needed():
                event = self._events.get()
                if not isinstance(event, CtrlC):
                    self._handle(event)
                elif stopped_at is None and (self.chat.open_answers or self._has_runs()):
                    stopped_at = monotonic()
                    self.chat.stop()
                elif stopped_at is None or monotonic() - stopped_at > SAME_REQUEST_S:
                    raise KeyboardInterrupt  # a model that does not stop

    def _handle(self, event: Event) -> None:
        self.chat.handle(event)
        if isinstance(event, AnswerFinished) and (answer := self.chat.conversation.find(event.key)) is not None:
            self.front.end_answer(self.chat.conversation.turns[event.key.turn], answer)

    @contextmanager
    def _ctrl_c_as_event(self) -> Iterator[None]:
        """Put Ctrl-C among the events, so that it interrupts no record that is being written."""
        previous = signal.getsignal(signal.SIGINT)
        if not self._is_dialogue or previous is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, lambda *_: self._events.put(CtrlC()))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _has_runs(self) -> bool:
        return any(not run.has_ended for run in self.chat.runs.values())

    def _finish(self) -> None:
        self._wait(lambda: bool(self.chat.open_answers or self.chat.waiting or self._has_runs()))

    def _wait_for_data(self) -> None:
        self._wait(lambda: not self.chat.has_read_data)

    # --- what a line asks for ---------------------------------------------------------------------------------------

    def _send(self, text: str) -> None:
        if not self._is_dialogue:
            self.front.say(f"You: {text}")
            if self._input:
                self.front.say(f"Input: {self._input}")
        self.chat.send(text, self._input)
        self._input = ""
        self._finish()

    def _command(self, command: Command) -> None:
        """Carry out a command of the table."""
        chat, say, turn, argument = self.chat, self.front.say, self.chat.newest(), command.argument
        match command.name:
            case "help":
                for row in help_lines():
                    say(row)
                say("A line that ends with a backslash goes on in the next line.")
            case "quit":
                self._is_over = True
            case "input":
                self._input = argument
                say("The next question has this input." if argument else "The next question has no input.")
            case "base" | "blind":
                self._switch(command.name)
            case "row" | "run":
                self._ask_rows(command.count or RUN_ROWS if command.name == "run" else None)
            case "tally":
                say(tally_words(chat.conversation) or "No test row was answered yet. /row asks one.")
            case "settings":
                say(set_setting(chat.settings, argument).replace(" · ", ", "))
            case "learnt":
                self._show_growth()
            case "where":
                say(str(self._setup.store.where()))
            case "list":
                self._list(argument)
            case "open" | "new":
                self._exchange(argument)
            case "rename":
                chat.rename(argument)
                say("The conversation has this name now.")
            case "save" | "save-rows" | "save-pairs":
                self._wait_for_data()  # to know which questions are test rows
                say(save(chat, command.name, argument))
            case _ if turn is None:
                say("There is no answer yet.")
            case _:
                self._about_turn(command, turn)

    def _about_turn(self, command: Command, turn: Turn) -> None:
        """Carry out a command about the newest question."""
        chat, say = self.chat, self.front.say
        match command.name:
            case "again":
                chat.again(turn.number)
                self._finish()
            case "keep":
                say(keep(chat, turn, command.count or 1))
            case "correct":
                say(correct(chat, turn, command.argument))
            case "choose":
                was_blind = turn.is_blind
                say(choose(chat, turn, command.argument))
                if was_blind and not turn.is_blind:
                    self.front.reveal(turn)
            case "prompt" if chat.hides_history:
                say(PROMPT_IS_HIDDEN)
            case "prompt":
                prompt = exact_prompt(chat, turn)
                say("The prompt is not known yet." if prompt is None else f"The model reads:\n{prompt.text}")
            case _ if turn.is_blind:
                say("Choose first: /choose left, right or neither.")
            case "nearest":
                self._wait_for_data()
                say(nearest_words(chat, turn) or "The training rows of this model are not known here.")
            case "tokens":
                self._show_tokens(turn)

    def _ask_rows(self, count: int | None) -> None:
        """Ask the next test row, or let both models answer so many."""
        self._wait_for_data()
        if count is None:
            self.chat.deal()
        else:
            self.chat.run_rows(count)
        self._finish()
        if self.chat.held_out.rows and (words := tally_words(self.chat.conversation)):
            self.front.say(f"({words})")

    def _show_tokens(self, turn: Turn) -> None:
        answer = turn.answer("tuned") or turn.answer("base")
        if answer is None or not answer.token_ids:
            self.front.say("There are no tokens to look at.")
            return
        self.front.tokens = None
        self.chat.inspect(answer.key)
        self._wait(lambda: self.front.tokens is None)

    def _switch(self, name: str) -> None:
        chat, settings, say = self.chat, self.chat.settings, self.front.say
        self._wait(lambda: chat.state("base") == "loading")
        if name == "base" or not chat.has_base:
            say(switch_base(chat, self._setup.no_base))
            return
        settings.blind = not settings.blind
        words = "Both models answer, as A (left) and B (right). /choose left, right or neither shows who is who."
        say(words if settings.blind else "The names of the models are shown.")

    def _show_growth(self) -> None:
        growth = read_growth(self._setup.folder)
        if not growth.rows:
            self.front.say(growth.problem)
            return
        row = growth.rows[0]
        self.front.say(f"{one_line(f'{row.instruction} {row.input}')} Reference: {one_line(row.reference)}")
        for step in row.steps:
            self.front.say(f"{INDENT}step {step.step}, loss {step.validation_loss:.3f}: {one_line(step.response)}")

    # --- conversations ----------------------------------------------------------------------------------------------

    def _list(self, words: str) -> None:
        store = self._setup.store
        found = store.search(words) if words else store.list()
        for summary in found[:LISTED]:
            self.front.say(f"{INDENT}{summary.id}  {one_line(summary.problem or summary.title)}")
        shown = f" These are the newest {LISTED}." if len(found) > LISTED else ""
        self.front.say(f"{len(found)} {'conversation' if len(found) == 1 else 'conversations'}.{shown}")

    def _exchange(self, id: str) -> None:
        store, opened = self._setup.store, self._setup.opened_now()
        if id and id == self.chat.file.id:
            self.front.say("This conversation is open.")
            return
        try:
            conversation, file = store.open(id) if id else (Conversation(), store.create(opened))
        except AssistantError as error:
            self.front.say(str(error))
            return
        self.chat.exchange(conversation, file, opened)
        if id:
            self._show_resumed(conversation)
        else:
            self.front.say("A new conversation.")

    def _show_resumed(self, conversation: Conversation) -> None:
        n = len(conversation.turns)
        title = f" {one_line(conversation.title)}:" if conversation.title else ""
        self.front.say(f"Going on with a conversation.{title} {n} {'question' if n == 1 else 'questions'} so far.")
        if note := other_model(conversation, self._setup.opened.model):
            self.front.say(note)
        if conversation.turns:
            self.front.show_turn(conversation.turns[-1])


def run_plain(setup: ChatSetup, lines: TextIO | None, output: TextIO) -> int:
    """Chat in lines until they end, and return the exit code. `lines` is None if standard input is closed."""
    if isinstance(lines, io.TextIOWrapper):
        lines.reconfigure(errors="replace")
    plain = PlainChat(setup, lines or io.StringIO(), output)
    try:
        code = plain.run()
    except KeyboardInterrupt as error:
        _leave(plain, interrupt_exit_code(error))
        raise
    _leave(plain, code)
    return code


def _leave(plain: PlainChat, code: int) -> None:
    """End the process if the models' thread does not end with the chat, because it is inside a load.

    The interpreter's shutdown would abort with a core dump.
    """
    if not plain.chat.worker.has_ended(within=ENDING_S):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
