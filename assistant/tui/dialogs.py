"""Opens the screens over the conversation, and does what they return.

Each screen is imported when it is opened, so that the chat paints sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding

from assistant.chat.actions import CORRECTED_TEST_ROW, PROMPT_IS_HIDDEN, settings_words
from assistant.chat.chat import Chat
from assistant.chat.commands import command_rows
from assistant.chat.events import TokenDetail
from assistant.chat.records import AnswerKey
from assistant.chat.setup import ChatSetup
from assistant.tui.prompt import Prompt
from assistant.tui.title import TitleParts

if TYPE_CHECKING:
    from assistant.tui.conversation_screen import ConversationScreen
    from assistant.tui.screen import ChatScreen
    from assistant.tui.settings_form import NewSettings
    from assistant.tui.token_view import Alternative

OWN = "It is saved with the conversation. /save-rows writes all corrections as rows for assistant finetune."


def title_parts(setup: ChatSetup, chat: Chat | None) -> TitleParts:
    """Return what the title says now."""
    card = None if chat is None else chat.card("tuned")
    base = setup.base_name
    if card is None:
        return TitleParts(model=setup.model_name, base=base, score="" if setup.score is None else setup.score.words)
    return TitleParts(
        model=setup.model_name,
        base=base or ("" if card.info is None else card.info.base_model),
        size=f"{card.n_parameters / 1e6:.1f}M",
        template=card.template.name if card.info is not None else f"a base model · {card.template.name}",
        score="" if setup.score is None else setup.score.words,
    )


def show_tokens(screen: ConversationScreen, key: AnswerKey, tokens: tuple[TokenDetail, ...]) -> None:
    """Open the token view, and continue from the token that the person takes."""
    from assistant.tui.token_view import TokenScreen

    chat = screen.chat
    assert chat is not None
    conversation = chat.conversation

    def take(chosen: Alternative | None) -> None:
        # The palette may have opened another conversation over this view.
        if chosen is not None and chat.conversation is conversation:
            screen.call_later(screen.continue_from, key, chosen.place, chosen.token_id)

    title = f"Tokens · {key.side} · {chat.names.get(key.side, '')}"
    can_continue = chat.state(key.side) == "ready"
    screen.app.push_screen(TokenScreen(tokens, title=title, can_continue=can_continue), take)


def show_prompt(screen: ChatScreen) -> None:
    """Open the exact prompt of what is typed, or else of the selected question."""
    from assistant.tui.prompt_view import PromptScreen

    if screen.chat is not None and screen.chat.hides_history:
        screen.show_notice(PROMPT_IS_HIDDEN)
        return
    exact = screen.exact_prompt()
    turn = screen.turn()
    if exact is None and turn is not None:
        exact = screen.prompt_of(turn)
    if exact is None:
        screen.show_notice("Type something first, and wait for the model.")
    else:
        screen.app.push_screen(PromptScreen(exact))


def correct(screen: ChatScreen) -> None:
    """Open the editor of the shown answer."""
    from assistant.tui.correction import CorrectionScreen

    turn = screen.turn()
    if turn is None or turn.final_text is None or turn.is_blind:
        screen.show_notice("Choose first." if turn is not None and turn.is_blind else "There is no answer to correct.")
        return

    conversation = screen.chat.conversation if screen.chat is not None else None

    def keep(text: str | None) -> None:
        # The palette may have opened another conversation over the editor.
        if text is not None and screen.chat is not None and screen.chat.conversation is conversation:
            screen.call_later(screen._call_and_draw, "correct", turn.number, text)

    question = f"{turn.question.instruction}\n{turn.question.input}".strip()
    note = CORRECTED_TEST_ROW if turn.is_held_out else OWN
    screen.app.push_screen(CorrectionScreen(question, turn.final_text, note=note), keep)


def change_settings(screen: ChatScreen) -> None:
    """Open the settings form."""
    from assistant.tui.settings_form import SettingsForm

    chat = screen.chat
    if chat is None:
        return

    def take(new: NewSettings | None) -> None:
        if new is not None:
            chat.settings.generation, chat.settings.seed = new.generation, new.seed
            screen.show_notice(settings_words(chat.settings))

    screen.app.push_screen(SettingsForm(chat.settings.generation, chat.settings.seed), take)


def list_sessions(screen: ChatScreen, words: str = "") -> None:
    """Open the list of conversations, or of those with the words, and go on with the chosen one."""
    from assistant.tui.sessions import SessionsScreen

    chat = screen.chat
    if chat is None:
        return

    def take(chosen: str | None) -> None:
        if chosen is not None:
            screen.call_later(screen.resume, chosen)

    current = screen.conversation_id()
    screen.app.push_screen(
        SessionsScreen(screen.setup.store, current=current, rename_current=chat.rename, words=words), take
    )


def show_growth(screen: ChatScreen) -> None:
    """Open how the model learnt."""
    from assistant.chat.growth import read_growth
    from assistant.tui.growth_view import GrowthScreen

    growth = read_growth(screen.setup.folder)
    if growth.rows:
        screen.app.push_screen(GrowthScreen(growth.rows))
    else:
        screen.show_notice(growth.problem)


def show_help(screen: ChatScreen) -> None:
    """Open the list of keys and commands."""
    from assistant.tui.help import HelpScreen

    bindings = [*Prompt.BINDINGS, *screen.BINDINGS, *screen.app.BINDINGS]
    keys = [one for one in bindings if isinstance(one, Binding) and one.tooltip]
    screen.app.push_screen(HelpScreen(keys, command_rows()))
