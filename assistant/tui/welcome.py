"""What stands in an empty conversation: what to type, with questions that the model is known to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from assistant.chat.scores import Suggestion
from assistant.escape import one_line

SHOWN = 3
SINGLE = "It was trained on single questions, so it does not see your earlier messages."
BASE = "It is a base model, which was not trained to answer. It does not see your earlier messages."
CONVERSATIONS = "It was trained on conversations, so it sees your earlier messages."
SHORT = "It was trained on short conversations, so it sees only your last {}."


class SuggestionLine(Static):
    """A question to click."""

    @dataclass
    class Taken(Message):
        """The person clicked a question."""

        instruction: str
        input: str

    def __init__(self, suggestion: Suggestion) -> None:
        text = Content.assemble(("❯ ", "$text-primary"), one_line(suggestion.instruction))
        if suggestion.input:
            text = Content.assemble(text, ("  ", ""), (one_line(suggestion.input), "$foreground-muted"))
        super().__init__(text, classes="suggestion", markup=False)
        self._suggestion = suggestion

    def on_click(self, event: events.Click) -> None:
        """Put the question into the prompt."""
        event.stop()
        self.post_message(self.Taken(self._suggestion.instruction, self._suggestion.input))


class Welcome(Vertical):
    """Says what to do first, and what the model does not do."""

    def __init__(self, suggestions: Sequence[Suggestion], *, has_base: bool) -> None:
        super().__init__()
        self._suggestions = tuple(suggestions[:SHOWN])
        self._has_base = has_base
        self._history = Static(classes="hint", markup=False)
        self._history.display = False

    def compose(self) -> ComposeResult:
        if self._suggestions:
            yield Static("Type an instruction, or one of these test rows, which it answers right:", markup=False)
            for suggestion in self._suggestions:
                yield SuggestionLine(suggestion)
        else:
            yield Static("Type an instruction, then press Enter.", markup=False)
        yield Static("tab adds an input, the text that the instruction is about.", classes="hint", markup=False)
        if self._has_base:
            words = "ctrl+b lets its base answer beside it. ctrl+t deals a test row to both."
            yield Static(words, classes="hint", markup=False)
        yield self._history

    def show_history(self, *, is_base: bool, is_seen: bool, most: int | None) -> None:
        """Say whether the model sees earlier messages, at `most` how many, as soon as that is known."""
        short = SHORT.format("message and its answer" if most == 1 else f"{most} messages and their answers")
        self._history.update((CONVERSATIONS if most is None else short) if is_seen else BASE if is_base else SINGLE)
        self._history.display = True
