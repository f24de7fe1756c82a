"""The exact prompt, as the model reads it: every part in its colour, with its tokens counted."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from assistant.chat.prompt_parts import ExactPrompt, PromptPart
from assistant.escape import displayable, visible
from assistant.tui.modal import Modal

STYLES = {"instruction": "bold $text-primary", "input": "$text-success", "history": "$foreground-muted"}
"""Styles of the parts that a person wrote. What the template adds is plain."""


class PromptScreen(Modal[None]):
    """Shows the prompt. `i` shows its token ids."""

    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f4,q", "dismiss", "Close", key_display="esc"),
        Binding("i", "ids", "Token ids"),
    ]

    def __init__(self, view: ExactPrompt) -> None:
        super().__init__()
        self._view = view
        self._shows_ids = False

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="exact-prompt") as box:
            box.border_title = "The exact prompt"
            box.border_subtitle = "i token ids · esc closes"
            yield Static(prompt_content(self._view), id="prompt-text", markup=False)
            yield Static(counts_content(self._view), id="prompt-counts", markup=False)

    def action_ids(self) -> None:
        """Show the token ids, or the text again."""
        self._shows_ids = not self._shows_ids
        content = ids_content(self._view) if self._shows_ids else prompt_content(self._view)
        self.query_one("#prompt-text", Static).update(content)


def prompt_content(view: ExactPrompt) -> Content:
    """Return the text of the prompt. Line ends are visible where they belong to the template."""
    return Content.assemble(*((_text(part), STYLES.get(part.kind, "")) for part in view.parts))


def _text(part: PromptPart) -> str:
    if part.kind in STYLES:
        return displayable(part.text)
    return "\n".join(visible(line) for line in part.text.split("\n"))


def ids_content(view: ExactPrompt) -> Content:
    """Return the token ids, in the colours of their parts."""
    parts = [(" ".join(map(str, part.token_ids)) + "\n", STYLES.get(part.kind, "")) for part in view.parts]
    return Content.assemble(*(part for part in parts if part[0].strip()))


def counts_content(view: ExactPrompt) -> Content:
    """Return the tokens of each part, their sum, and the room that is left for the reply."""
    rows: list[tuple[str, str]] = []
    for part in view.parts:
        if part.text:
            rows.append((f"{part.n_tokens:>6}  {part.kind}\n", STYLES.get(part.kind, "$foreground-muted")))
    rows.append((f"{view.n_tokens:>6}  of {view.context_length} tokens; {view.room} are left for the answer", "bold"))
    if view.n_forgotten:
        rows.append((f"\n        left out, because they do not fit: the oldest {view.n_forgotten} exchanges", ""))
    return Content.assemble(*rows)
