"""Commands that a person types instead of a message: `/help`, `/quit`, `/save talk.md`. Prints nothing.

One table has all of them: a front carries out what `parse_line` returns, and shows `help_lines`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from assistant.escape import visible

Takes = Literal["nothing", "text", "count"]
_SLASH_WORD = re.compile(r"/([A-Za-z?][A-Za-z-]*)?(?:\s+|$)")


class CommandSpec(NamedTuple):
    """One command of the table."""

    name: str
    help: str
    takes: Takes = "nothing"
    """What may come after the name."""
    argument: str = ""
    """How the help writes that, in brackets if it may be left out."""
    aliases: tuple[str, ...] = ()


COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec("help", "show these commands", aliases=("h", "?")),
    CommandSpec("quit", "leave the chat", aliases=("exit", "bye", "q")),
    CommandSpec("input", "set the input field of the next question; without TEXT, empty it", "text", "[TEXT]"),
    CommandSpec("again", "answer the last question again, with a new seed", aliases=("retry",)),
    CommandSpec("keep", "make the answer with this number the one that counts", "count", "NUMBER"),
    CommandSpec("base", "show the base model's answers beside, or hide them"),
    CommandSpec("blind", "hide which model wrote which answer, until you choose"),
    CommandSpec("choose", "say which of two answers is better: left, right or neither", "text", "WHICH"),
    CommandSpec("correct", "write the right answer to the last question", "text", "TEXT"),
    CommandSpec("row", "ask the next test row"),
    CommandSpec("run", "let both models answer test rows; 20 by default", "count", "[NUMBER]"),
    CommandSpec("tally", "show which model answers more test rows right"),
    CommandSpec("tokens", "show the tokens of the last answer with their probabilities"),
    CommandSpec("prompt", "show the exact text that the model reads"),
    CommandSpec("nearest", "show the training row that is most like the last answer"),
    CommandSpec("learnt", "show how the model learnt, from step to step"),
    CommandSpec("settings", "show the settings, or change one: /settings temperature 0.7", "text", "[NAME VALUE]"),
    CommandSpec("list", "list the saved conversations; with WORDS, search in them", "text", "[WORDS]"),
    CommandSpec("open", "go on with a saved conversation", "text", "ID"),
    CommandSpec("new", "start a new conversation"),
    CommandSpec("rename", "name this conversation", "text", "NAME"),
    CommandSpec("save", "write this conversation to a Markdown file", "text", "[FILE]"),
    CommandSpec("save-rows", "write your corrections as rows for `assistant finetune`", "text", "[FILE]"),
    CommandSpec("save-pairs", "write your choices as pairs for `assistant prefer`", "text", "[FILE]"),
    CommandSpec("where", "show where the conversations are kept"),
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
_BARE = dict.fromkeys(("quit", "exit", ":q", ":q!", ":wq", "quit()", "exit()"), "quit") | {"help": "help"}
"""Words that people type to leave a program, or to learn how, and the command that does it. `bye` is not among them: a
model that has learnt small talk answers it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A message for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table."""

    name: str
    """The name in the table, also if an alias was typed."""
    argument: str = ""
    """What came after the name, without white space around it."""

    @property
    def count(self) -> int | None:
        """The argument of a command that takes a number. None if it was left out."""
        return int(self.argument) if self.argument else None


@dataclass(frozen=True, slots=True)
class Unclear:
    """A bare word such as `quit`. Show `problem`, and give `word` to the next `parse_line`."""

    word: str
    problem: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line with a slash and an unknown word. Show `problem`."""

    problem: str


Line = Text | Command | Unclear | Unknown


def parse_line(text: str, unclear: str | None = None) -> Line:
    """Return what a line means. A message may have several lines.

    A slash with letters after it begins a command; `//` begins a message with one slash. Any other text is a message
    as it is, such as `/usr/bin` or `/* code */`.

    Args:
        text: What the person typed.
        unclear: `Unclear.word` of the line before, if it was one. The same word is then a message.
    """
    word = text.strip()
    if word.casefold() in _BARE:
        command = _BARE[word.casefold()]
        if word == unclear:
            return Text(text)
        effect = {"quit": "leaves the chat", "help": "shows the commands"}[command]
        return Unclear(word, f"{word}: type it again to send it to the model. /{command} {effect}.")
    if word.startswith("//"):
        return Text(text.replace("//", "/", 1))
    found = _SLASH_WORD.match(word)
    if found is None:
        return Text(text)
    name = (found[1] or "").casefold()
    spec = _BY_NAME.get(name)
    if spec is None:
        return Unknown(_unknown(name))
    argument = word[found.end() :]
    problem = _argument_problem(spec, argument)
    return Unknown(problem) if problem else Command(spec.name, argument)


def command_rows() -> list[tuple[str, str]]:
    """Return how each command is typed and what it does, and the same for messages that begin with a slash."""
    rows = [(f"/{command.name} {command.argument}".rstrip(), command.help) for command in COMMANDS]
    return [*rows, ("//text", "send a message that begins with a slash")]


def help_lines() -> list[str]:
    """Return the rows of `command_rows` as lines."""
    rows = command_rows()
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {effect}" for name, effect in rows]


def _unknown(name: str) -> str:
    """Return what to say about a word that is not in the table."""
    close = difflib.get_close_matches(name, _BY_NAME, n=1)
    guess = f" Did you mean /{_BY_NAME[close[0]].name}?" if close else ""
    names = ", ".join(f"/{command.name}" for command in COMMANDS)
    return f"/{name}: expected one of {names}.{guess} Two slashes send a message that begins with one."


def _argument_problem(spec: CommandSpec, argument: str) -> str:
    """Return what is wrong with the text after a command, or an empty text."""
    usage = f"/{spec.name} {spec.argument}".rstrip()
    got = visible(argument[:40])
    if spec.takes == "nothing" and argument:
        return f"/{spec.name}: expected nothing after it, got {got}. Two slashes send it as a message."
    if spec.argument and not spec.argument.startswith("[") and not argument:
        return f"/{spec.name}: expected {spec.argument} after it, got nothing. Type {usage}."
    is_count = argument.isascii() and argument.isdecimal() and len(argument) < 7 and int(argument) > 0
    if spec.takes == "count" and argument and not is_count:
        return f"/{spec.name}: expected a number from 1, got {got}. Type {usage}."
    return ""
