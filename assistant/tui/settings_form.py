"""The form of the three settings that one changes while talking: temperature, seed and length."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Label, Static

from assistant.chat.actions import SETTING_NAMES
from assistant.errors import SettingsError
from assistant.escape import displayable
from assistant.settings import GenerationSettings, validate_settings
from assistant.tui.line_input import LineInput
from assistant.tui.modal import Modal

HINTS = {
    "temperature": "0 always takes the likeliest token; 0.7 to 1 varies the answers",
    "seed": "empty: each answer draws its own",
    "max_new_tokens": "most tokens of an answer",
}


class NewSettings(NamedTuple):
    """What the person set."""

    generation: GenerationSettings
    seed: int | None
    """None: each answer draws its own."""


class SettingsForm(Modal[NewSettings | None]):
    """Three fields. Enter takes them, Esc leaves everything as it was."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f2", "dismiss", "Close", key_display="esc"),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(self, generation: GenerationSettings, seed: int | None) -> None:
        super().__init__()
        self._generation, self._seed = generation, seed

    def compose(self) -> ComposeResult:
        values = {
            "temperature": f"{self._generation.temperature:g}",
            "seed": "" if self._seed is None else str(self._seed),
            "max_new_tokens": str(self._generation.max_new_tokens),
        }
        with Vertical(id="settings-form") as box:
            box.border_title = "Settings"
            box.border_subtitle = "enter takes them · esc closes"
            for word, name in SETTING_NAMES.items():
                yield Label(word.capitalize(), classes="label")
                yield LineInput(values[name], id=name, compact=True, select_on_focus=True)
                yield Static(HINTS[name], classes="hint", markup=False)
            yield Static(id="settings-problem", markup=False)

    @on(Input.Submitted)
    def _take(self) -> None:
        texts = {name: self.query_one(f"#{name}", Input).value.strip() for name in SETTING_NAMES.values()}
        try:
            self.dismiss(read_settings(self._generation, texts))
        except SettingsError as error:
            self.query_one("#settings-problem", Static).update(displayable(str(error)))


def read_settings(generation: GenerationSettings, texts: dict[str, str]) -> NewSettings:
    """Return the settings that were typed. Other settings stay as they are.

    Raises:
        SettingsError: a value is not a number, or out of range; one sentence a value.
    """
    typed: dict[str, object] = dict(texts)
    if not texts["seed"]:
        typed["seed"] = generation.seed
    labels = {name: word.capitalize() for word, name in SETTING_NAMES.items()}
    checked = validate_settings(GenerationSettings, generation.model_dump() | typed, names=labels)
    return NewSettings(checked, checked.seed if texts["seed"] else None)
