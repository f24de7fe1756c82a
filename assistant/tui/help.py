"""The help: the chat's keys and commands. They come from the bindings and the parser, so it names only what exists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.widgets import Static

from assistant.tui.modal import Modal


class HelpScreen(Modal[None]):
    """A list of keys, shown over the conversation, and of the commands. A line is a binding's key and its tooltip."""

    AUTO_FOCUS = "VerticalScroll"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter", "dismiss", "Close", key_display="esc"),
    ]

    def __init__(self, bindings: Iterable[Binding], commands: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__()
        self._listed_bindings = list(bindings)
        self._commands = commands

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "esc closes"
            with Grid(id="keys"):
                for binding in self._listed_bindings:
                    yield Static(binding.key.replace("escape", "esc"), classes="key", markup=False)
                    yield Static(binding.tooltip, markup=False)
            with Grid(id="commands"):
                for name, effect in self._commands:
                    yield Static(name, classes="key", markup=False)
                    yield Static(effect, markup=False)
