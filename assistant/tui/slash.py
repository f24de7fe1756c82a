"""What a sent line does: a command, or a question. `/help`, `/quit` and the others are those of the plain chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.chat.actions import save
from assistant.chat.commands import Command, Text, Unclear, Unknown, parse_line
from assistant.chat.tally import tally

if TYPE_CHECKING:
    from assistant.tui.screen import ChatScreen

ACTIONS = {
    "help": "help",
    "again": "again",
    "base": "beside",
    "blind": "blind",
    "row": "deal",
    "tokens": "tokens",
    "prompt": "prompt",
    "nearest": "nearest",
    "learnt": "growth",
    "settings": "settings",
    "list": "sessions",
}
"""Commands that do the same as a key."""


async def submit(screen: ChatScreen, instruction: str, input: str) -> None:
    """Carry out a command, or ask a question."""
    parsed = parse_line(instruction, screen.unclear)
    screen.unclear = parsed.word if isinstance(parsed, Unclear) else None
    match parsed:
        case Text():
            await screen.send(parsed.text, input)
        case Command() if parsed.name in ACTIONS:
            await screen.run_action(ACTIONS[parsed.name])
        case Command():
            await _other(screen, parsed)
        case Unknown() | Unclear():
            screen.give_back(instruction, input)
            screen.show_notice(parsed.problem)


async def _other(screen: ChatScreen, command: Command) -> None:
    chat, turn, argument = screen.chat, screen.turn(), command.argument
    match command.name:
        case "quit":
            await screen.app.action_quit()
        case "where":
            screen.show_notice(str(screen.setup.store.where()))
        case "input":
            screen.give_back("", argument)
        case _ if chat is None:
            screen.show_notice("Wait until the chat has begun.")
        case "save" | "save-rows" | "save-pairs":
            screen.show_notice(save(chat, command.name, argument))
        case "run":
            await screen.run_rows(command.count or 20)
        case "rename":
            chat.rename(argument)
            screen.show_notice("The conversation has this name now.")
        case "open":
            await screen.resume(argument)
        case "new":
            await screen.new_conversation()
        case "tally":
            screen.show_notice(tally(chat.conversation).sentence or "No test row was answered yet. ctrl+t deals one.")
        case _ if turn is None:
            screen.show_notice("There is no answer yet.")
        case "keep":
            chat.keep(turn.number, (command.count or 1) - 1)
        case "correct":
            chat.correct(turn.number, argument)
        case "choose":
            sides = {"left": -1, "right": 1}
            if argument in sides:
                await screen.flip(sides[argument])
            else:
                screen.action_tie()
