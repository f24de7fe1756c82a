"""What a sent line does: a command, or a question. `/help`, `/quit` and the others are those of the plain chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assistant.chat.actions import change_setting, order_of, save
from assistant.chat.commands import Command, Text, Unclear, Unknown, parse_line
from assistant.chat.conversation import Turn
from assistant.chat.records import Side
from assistant.chat.tally import tally
from assistant.errors import AssistantError
from assistant.tui import dialogs

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
        case Command("settings", argument) if argument:
            _change_setting(screen, argument)
        case Command("list", argument) if argument:
            dialogs.list_sessions(screen, argument)
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
            _keep(screen, turn, command.count or 1)
        case "correct":
            chat.correct(turn.number, argument)
        case "choose":
            left, right = order_of(turn)
            sides: dict[str, Side | None] = {"left": left, "right": right, "neither": None}
            if argument in sides:
                chat.choose(turn.number, sides[argument])
            else:
                screen.show_notice(f"/choose: expected left, right or neither, got {argument}.")


def _keep(screen: ChatScreen, turn: Turn, number: int) -> None:
    variants = turn.variants
    if number <= len(variants):
        screen.keep(turn, variants[number - 1])
        screen.show_notice(f"Answer {number} of {len(variants)} counts.")
    else:
        screen.show_notice(f"/keep: expected the number of an answer from 1 to {len(variants)}, got {number}.")


def _change_setting(screen: ChatScreen, argument: str) -> None:
    """Change one setting, such as `temperature 0.7`."""
    if screen.chat is None:
        return
    name, _, value = argument.partition(" ")
    settings = screen.chat.settings
    try:
        settings.generation, settings.seed = change_setting(settings, name, value.strip())
    except AssistantError as error:
        screen.show_notice(str(error))
    else:
        screen.show_notice(dialogs.settings_words(settings))
