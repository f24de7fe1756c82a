"""The help: a list of the chat's keys. The list comes from the bindings, so it names only keys that exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid, VerticalScroll
from textual.widgets import Static

from assistant.tui.modal import Modal


class HelpScreen(Modal[None]):
    """A list of keys, shown over the conversation. Each line is a binding's key and its tooltip."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter", "dismiss", "Close", key_display="esc"),
    ]

    def __init__(self, bindings: Iterable[Binding]) -> None:
        super().__init__()
        self._listed_bindings = list(bindings)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "esc closes"
            with Grid(id="keys"):
                for binding in self._listed_bindings:
                    yield Static(binding.key.replace("escape", "esc"), classes="key", markup=False)
                    yield Static(binding.tooltip, markup=False)
