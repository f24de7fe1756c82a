"""What both fronts offer beyond asking: choices, corrections, files, the exact prompt, the nearest row, settings."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from assistant.chat.chat import WAIT_FOR_BOTH, Chat
from assistant.chat.conversation import Conversation, Turn
from assistant.chat.prompt_parts import ExactPrompt, PromptLayout
from assistant.chat.records import Side
from assistant.chat.state import ChatSettings
from assistant.errors import AssistantError, SettingsError
from assistant.escape import one_line
from assistant.files import shown_path
from assistant.settings import GenerationSettings, validate_settings

SETTING_NAMES = {"temperature": "temperature", "seed": "seed", "length": "max_new_tokens"}
"""What the three settings are called in the form and in commands, and their fields."""
CORRECTED_TEST_ROW = "This is a test row: the correction is marked, and stays out of what you train on."
PROMPT_IS_HIDDEN = "The prompt is hidden while a blind choice is open: its history would tell who is who."
SIDE_NAMES: dict[Side, str] = {"tuned": "the fine-tuned model", "base": "the base model"}


def save(chat: Chat, what: str, name: str) -> str:
    """Write the conversation, its corrections or its choices to a file. Return a sentence about it.

    Args:
        chat: Its conversation is written.
        what: `save`, `save-rows` or `save-pairs`.
        name: Path of the file. Empty: a free name in the current folder.
    """
    from assistant.chat import export

    if what != "save" and not chat.has_read_data:
        return "The test rows are not known yet, and must stay out of the file. Try again in a moment."
    here, given = Path(), Path(os.path.expanduser(name))  # noqa: PTH111  pathlib raises where there is no home
    try:
        if what == "save":
            path = given if name else export.free_name(here, "conversation", ".md")
            export.save_markdown(chat.conversation, path)
            return f"Written to {shown_path(path)}."
        is_rows = what == "save-rows"
        make = export.training_rows if is_rows else export.preference_pairs
        exported = make(chat.conversation, test_rows=chat.test_rows)
        if not exported.rows:
            return exported.describe("row" if is_rows else "pair")
        path = given if name else export.free_name(here, "corrections" if is_rows else "pairs", ".jsonl")
        export.save_rows(exported, path)
    except AssistantError as error:
        return str(error)
    command, output = ("finetune", "runs/corrected") if is_rows else ("prefer", "runs/preferred")
    card = chat.card("tuned")
    model = "MODEL" if card is None or card.folder is None else shlex.quote(shown_path(card.folder))
    following = f"assistant {command} {shlex.quote(shown_path(path))} --model {model} --output {output}"
    return f"{shown_path(path)}: {exported.describe('row' if is_rows else 'pair')} Next: {following}"


def keep(chat: Chat, turn: Turn, number: int) -> str:
    """Make the answer with this number, from 1, the one that counts. Return a sentence about it."""
    if number - 1 not in turn.variants:
        numbers = ", ".join(str(variant + 1) for variant in turn.variants) or "none yet"
        return f"/keep: expected the number of an answer to the last question ({numbers}), got {number}."
    chat.keep(turn.number, number - 1)
    return f"Answer {number} counts now."


def choose(chat: Chat, turn: Turn, which: str) -> str:
    """Say which of two answers is better: `left` (`a`), `right` (`b`) or `neither`. Return a sentence about it."""
    left, right = order_of(turn)
    names: dict[str, Side | None] = {"left": left, "a": left, "right": right, "b": right, "neither": None, "tie": None}
    if which.casefold() not in names:
        return f"/choose: expected left, right or neither, got {one_line(which)}."
    if chat.is_written(turn.number):
        return WAIT_FOR_BOTH
    if turn.answer("tuned") is None or turn.answer("base") is None:
        return "There are no two answers to choose from. /base lets both models answer."
    was_blind = turn.is_blind
    chosen = names[which.casefold()]
    chat.choose(turn.number, chosen)
    better = "Neither answer is better." if chosen is None else f"You preferred {SIDE_NAMES[chosen]}."
    return f"{better} Left was {SIDE_NAMES[left]}, right was {SIDE_NAMES[right]}." if was_blind else better


def correct(chat: Chat, turn: Turn, text: str) -> str:
    """Write the right answer to a question. Return a sentence about it."""
    if turn.is_blind:
        return "Choose first: /choose left, right or neither."
    chat.correct(turn.number, text)
    if turn.is_held_out:
        return CORRECTED_TEST_ROW
    return "The correction counts as the answer now. /save-rows writes all corrections as rows to train on."


def exact_prompt(chat: Chat, turn: Turn, layout: PromptLayout | None = None) -> ExactPrompt | None:
    """Return the prompt of a question that was asked. None while the model is loading."""
    card = chat.card("tuned")
    if card is None:
        return None
    question, limit = turn.question, chat.settings.generation.max_new_tokens
    layout = layout or PromptLayout(card)
    return layout.lay_out(question.instruction, input=question.input, history=chat.history(turn), max_new_tokens=limit)


def nearest_words(chat: Chat, turn: Turn) -> str:
    """Return the nearest training row in words. Empty if there is none, and while a blind choice is open.

    The row is one that is near the tuned model's answer, so it would tell which answer that is.
    """
    answer = turn.answer("tuned")
    if chat.nearest is None or answer is None or turn.is_blind:
        return ""
    found = chat.nearest.nearest(turn.question.instruction, turn.question.input, answer.response)
    if found is None:
        return "nearest training row  none shares a word"
    row = found.example
    asked = one_line(f"{row.instruction}  {row.input}".strip())
    copied = " · the same answer" if found.is_copied else ""
    return f"nearest training row, {100 * found.similarity:.0f} % alike{copied}  {asked} → {one_line(row.output)}"


def change_setting(settings: ChatSettings, name: str, value: str) -> tuple[GenerationSettings, int | None]:
    """Return the settings with one of them changed, and the seed; None: each answer draws its own.

    Raises:
        SettingsError: there is no such setting, or the value is out of range.
    """
    field = SETTING_NAMES.get(name)
    if field is None:
        raise SettingsError(f"settings: expected {', '.join(SETTING_NAMES)}, got {one_line(name)}.")
    if field == "seed" and not value:
        return settings.generation, None
    values = settings.generation.model_dump() | {field: value}
    generation = validate_settings(GenerationSettings, values, names={field: name})
    return generation, generation.seed if field == "seed" else settings.seed


def set_setting(settings: ChatSettings, argument: str) -> str:
    """Change one setting, such as `temperature 0.7`, or none. Return a sentence: all settings, or what is wrong."""
    name, _, value = argument.partition(" ")
    try:
        if name:
            settings.generation, settings.seed = change_setting(settings, name, value.strip())
    except SettingsError as error:
        return str(error)
    return settings_words(settings)


def switch_base(chat: Chat, no_base: str) -> str:
    """Let the base model answer beside the tuned one, or not. Return a sentence about it.

    `no_base` says why there is none, if that is known.
    """
    settings = chat.settings
    if not chat.has_base:
        return no_base or chat.load_problem("base") or "There is no base model."
    settings.beside = not settings.beside
    settings.blind = settings.blind and settings.beside
    return "The base model answers too." if settings.beside else "Only the fine-tuned model answers."


def other_model(conversation: Conversation, model: str) -> str:
    """Return a sentence if another model than `model` gave the answers of a conversation so far, or an empty text."""
    opened = conversation.opened
    if opened is None or not conversation.turns or opened.model == model:
        return ""
    return f"So far {one_line(opened.model)} answered here. Now {one_line(model)} does."


def settings_words(settings: ChatSettings) -> str:
    """Return the three settings in one line."""
    seed = "a new seed for each answer" if settings.seed is None else f"seed {settings.seed}"
    generation = settings.generation
    return f"temperature {generation.temperature:g} · {seed} · at most {generation.max_new_tokens} tokens"


def order_of(turn: Turn) -> tuple[Side, Side]:
    """Return which side stands left and which right. The base stands left, unless a blind choice says otherwise."""
    return ("tuned", "base") if turn.question.left == "tuned" else ("base", "tuned")
