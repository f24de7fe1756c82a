"""What both fronts offer beyond asking: saving, the exact prompt, the nearest row, and changing a setting."""

from __future__ import annotations

from pathlib import Path

from assistant.chat.chat import Chat, ChatSettings
from assistant.chat.conversation import Turn
from assistant.chat.prompt_parts import ExactPrompt, PromptLayout
from assistant.chat.records import Side
from assistant.errors import AssistantError, SettingsError
from assistant.escape import one_line
from assistant.settings import GenerationSettings, validate_settings

SETTING_NAMES = {"temperature": "temperature", "seed": "seed", "length": "max_new_tokens"}
"""What the three settings are called in the form and in commands, and their fields."""


def save(chat: Chat, what: str, name: str) -> str:
    """Write the conversation, its corrections or its choices to a file. Return a sentence about it.

    Args:
        chat: Its conversation is written.
        what: `save`, `save-rows` or `save-pairs`.
        name: Path of the file. Empty: a free name in the current folder.
    """
    from assistant.chat import export

    tests = () if chat.held_out is None else [row.example for row in chat.held_out.rows]
    here = Path.cwd()
    try:
        if what == "save":
            path = Path(name) if name else export.free_name(here, "conversation", ".md")
            export.save_markdown(chat.conversation, path)
            return f"Written to {path}."
        is_rows = what == "save-rows"
        exported = (export.training_rows if is_rows else export.preference_pairs)(chat.conversation, test_rows=tests)
        if not exported.rows:
            return exported.describe("row" if is_rows else "pair")
        path = Path(name) if name else export.free_name(here, "corrections" if is_rows else "pairs", ".jsonl")
        export.save_rows(exported, path)
    except AssistantError as error:
        return str(error)
    command = "finetune" if is_rows else "prefer"
    return f"{path}: {exported.describe('row' if is_rows else 'pair')} Next: assistant {command} {path}"


def exact_prompt(chat: Chat, turn: Turn, layout: PromptLayout | None = None) -> ExactPrompt | None:
    """Return the prompt of a question that was asked. None while the model is loading."""
    card = chat.card("tuned")
    if card is None:
        return None
    question, limit = turn.question, chat.settings.generation.max_new_tokens
    layout = layout or PromptLayout(card)
    return layout.lay_out(question.instruction, input=question.input, history=chat.history(turn), max_new_tokens=limit)


def nearest_words(chat: Chat, turn: Turn) -> str:
    """Return the nearest training row in words. Empty if there is none."""
    answer = turn.answer("tuned")
    if chat.nearest is None or answer is None:
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


def order_of(turn: Turn) -> tuple[Side, Side]:
    """Return which side stands left and which right. The base stands left, unless a blind choice says otherwise."""
    return ("tuned", "base") if turn.question.left == "tuned" else ("base", "tuned")
