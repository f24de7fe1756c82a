"""What the last line says: which keys matter now, and what happens now. Knows no widgets."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from assistant.chat.chat import Chat
from assistant.chat.records import SIDES
from assistant.escape import one_line
from assistant.tui.foot import Key

NEARLY_FULL = 0.8
"""Share of the context from which the count of tokens is amber."""


def keys(chat: Chat | None, *, has_text: bool, is_selected: bool = False) -> Sequence[Key]:
    """Return the keys that matter now, the most important one first."""
    shown = [Key("enter", "send", "send")] if has_text or chat is None or not chat.conversation.turns else []
    if is_selected and not has_text:
        shown = [Key("enter", "edit", "edit")]
    if chat is not None:
        newest = chat.newest()
        is_running = any(not run.has_ended for run in chat.runs.values())
        if chat.open_answers or is_running:
            shown.append(Key("esc", "stop", "stop"))
        elif chat.waiting:
            shown.append(Key("esc", "take back", "stop"))
        has_both = newest is not None and all(newest.answer(side) is not None for side in SIDES)
        if newest is not None and newest.is_blind and has_both and not chat.open_answers:
            shown = [
                Key("←", "A is better", "flip(-1)"),
                Key("→", "B", "flip(1)"),
                Key("ctrl+n", "neither", "tie"),
            ]
        if chat.state("tuned") == "failed":
            shown.append(Key("ctrl+l", "load again", "load"))
    shown += [Key("f1", "keys", "help"), Key("ctrl+t", "test row", "deal")]
    if chat is None or chat.has_base:
        shown.append(Key("ctrl+b", "base", "beside"))
    return [*shown, Key("f3", "tokens", "tokens"), Key("ctrl+q", "quit", "app.quit")]


def state(chat: Chat | None, name: str, *, prompt_tokens: int | None) -> Content:
    """Return what happens now: loading, the speed of the answer, the queue, or the tokens of what is typed."""
    if chat is None or chat.state("tuned") == "loading":
        return Content.assemble((f"loading {one_line(name)} … you can type", "$foreground-muted"))
    if chat.state("tuned") == "failed":
        return Content.assemble(("no model", "$text-error"))
    parts: list[tuple[str, str]] = []
    for key, answer in chat.open_answers.items():
        if answer.has_begun:
            who = "" if chat.conversation.turns[key.turn].is_blind else f"{key.side} "
            parts.append((f"{who}{answer.n_pieces} tokens · {answer.tokens_per_second:.0f}/s", ""))
            break
    for run in chat.runs.values():
        if not run.has_ended:
            parts.append((f"{run.n_answered}/{len(run.rows)} test rows", ""))
    if chat.waiting:
        parts.append((f"{len(chat.waiting)} waiting", ""))
    if chat.state("base") == "loading":
        parts.append(("loading base …", "$foreground-muted"))
    card = chat.card("tuned")
    if prompt_tokens is not None and card is not None:
        share = prompt_tokens / card.context_length
        style = "bold $text-error" if share >= 1 else "$text-warning" if share >= NEARLY_FULL else "$foreground-muted"
        parts.append((f"{prompt_tokens}/{card.context_length} tokens", style))
    return Content.assemble((" · ", "$foreground-muted")).join(Content.assemble(part) for part in parts)
