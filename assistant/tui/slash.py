"""What a sent line does: a command, or a question. `/help`, `/quit` and the others are those of the plain chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.chat.actions import choose, correct, keep, save, set_setting
from assistant.chat.chat import RUN_ROWS
from assistant.chat.commands import Command, Text, Unclear, Unknown, parse_line
from assistant.chat.tally import tally
from assistant.tui.dialogs import list_sessions

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
"""Commands that do the same as a key, if nothing is typed after them."""


async def submit(screen: ChatScreen, instruction: str, input: str) -> None:
    """Carry out a command, or ask a question."""
    parsed = parse_line(instruction, screen.unclear)
    screen.unclear = parsed.word if isinstance(parsed, Unclear) else None
    match parsed:
        case Text():
            await screen.send(parsed.text, input)
        case Command() if parsed.name in ACTIONS and not parsed.argument:
            await screen.run_action(ACTIONS[parsed.name])
        case Command():
            await _other(screen, parsed)
        case Unknown() | Unclear():
            # A word left in the field would become the beginning of the next message.
            screen.give_back("" if isinstance(parsed, Unclear) else instruction, input)
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
            await screen.run_rows(command.count or RUN_ROWS)
        case "rename":
            chat.rename(argument)
            screen.show_notice("The conversation has this name now.")
        case "open":
            await screen.resume(argument)
        case "new":
            await screen.new_conversation()
        case "settings":
            screen.show_notice(set_setting(chat.settings, argument))
        case "list":
            list_sessions(screen, argument)
        case "tally":
            screen.show_notice(tally(chat.conversation).sentence or "No test row was answered yet. ctrl+t deals one.")
        case _ if turn is None:
            screen.show_notice("There is no answer yet.")
        case "keep":
            screen.show_kept(turn)
            screen.show_notice(keep(chat, turn, command.count or 1))
        case "correct":
            screen.show_notice(correct(chat, turn, argument))
        case "choose":
            screen.show_notice(choose(chat, turn, argument))
