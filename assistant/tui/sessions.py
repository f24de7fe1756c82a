"""The list of conversations: search, go on with one, rename it, throw it into the bin, and take it out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from assistant.chat.store import Store, Summary
from assistant.errors import AssistantError
from assistant.escape import displayable, one_line
from assistant.files import shown_path
from assistant.tui.line_input import LineInput
from assistant.tui.modal import Modal

SHOWN = 200
"""Conversations in the list. Search finds the others."""


class SessionsScreen(Modal[str | None]):
    """Lists the conversations, newest first. Returns the id of the one to go on with, or None."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+o", "close", "Close", key_display="esc", priority=True),
        Binding("down", "into_list", show=False),
        Binding("f2", "rename", "Rename"),
        Binding("delete", "delete", "To the bin", priority=True),
        Binding("ctrl+z", "restore", "Out of the bin", priority=True),
    ]

    def __init__(
        self, store: Store, *, current: str | None, rename_current: Callable[[str], object], words: str = ""
    ) -> None:
        super().__init__()
        self._rename_current = rename_current
        self._words = words
        self._store, self._current = store, current
        self._binned: list[str] = []
        self._renaming: str | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="sessions") as box:
            box.border_title = "Conversations"
            box.border_subtitle = "enter go on · f2 rename · delete to the bin · esc closes"
            yield LineInput(
                self._words or None, placeholder="Search in questions and answers", id="session-search", compact=True
            )
            yield OptionList(id="session-list", markup=False, compact=True)
            yield Static(id="session-note", markup=False)

    def on_mount(self) -> None:
        """List all conversations."""
        self._list()

    @on(Input.Changed, "#session-search")
    def _list(self) -> None:
        if self._renaming is not None:
            return
        query = self.query_one("#session-search", Input).value.strip()
        found = self._store.search(query) if query else self._store.list()
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(Option(describe(one, self._current), id=one.id) for one in found[:SHOWN])
        if found:
            options.highlighted = 0
        more = f" The newest {SHOWN} are shown." if len(found) > SHOWN else ""
        self._note(f"{count(found)}.{more}")

    @on(Input.Submitted, "#session-search")
    def _submitted(self) -> None:
        if self._renaming is None:
            self._open()
            return
        box = self.query_one("#session-search", Input)
        renamed, self._renaming = self._renaming, None
        title = box.value.strip()
        self._empty_search()
        is_open = renamed == self._current
        rename = partial(self._rename_current, title) if is_open else partial(self._store.rename, renamed, title)
        self._change(rename, "It has this name now.")

    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        if (chosen := self._highlighted()) is not None:
            self.dismiss(chosen)

    def _highlighted(self) -> str | None:
        option = self.query_one(OptionList).highlighted_option
        return None if option is None else option.id

    def _empty_search(self) -> None:
        """Empty the search, without the list that follows when a person does: it would replace the note."""
        box = self.query_one("#session-search", Input)
        with box.prevent(Input.Changed):
            box.value = ""

    def action_into_list(self) -> None:
        """Move from the search to the list."""
        self.query_one(OptionList).focus()

    def action_close(self) -> None:
        """Leave a renaming, or the screen."""
        if self._renaming is None:
            self.dismiss(None)
            return
        self._renaming = None
        self._empty_search()
        self._list()

    def action_rename(self) -> None:
        """Type a name for the conversation."""
        chosen = self._highlighted()
        if chosen is not None:
            self._renaming = chosen
            box = self.query_one("#session-search", Input)
            self._empty_search()
            box.focus()
            self._note("Type the new name, then press Enter.")

    def action_delete(self) -> None:
        """Move the conversation to the bin."""
        chosen = self._highlighted()
        if chosen is None:
            return
        if chosen == self._current:
            self._note("This is the conversation that is open. It stays.")
            return
        if self._change(lambda: self._store.delete(chosen), "It is in the bin. ctrl+z takes it out again."):
            self._binned.append(chosen)

    def action_restore(self) -> None:
        """Take the last conversation out of the bin again."""
        if self._binned:
            last = self._binned.pop()
            self._change(lambda: self._store.restore(last), "It is back.")

    def _change(self, change: Callable[[], object], said: str) -> bool:
        """Change a file, list all again, and say what was done or why not. Return whether it was done."""
        note, is_done = said, True
        try:
            change()
        except AssistantError as error:
            note, is_done = str(error), False
        self._list()
        self._note(note)
        return is_done

    def _note(self, text: str) -> None:
        self.query_one("#session-note", Static).update(displayable(text))


def describe(summary: Summary, current: str | None) -> Content:
    """Return a conversation on one line: when, its title, its model, and how many turns it has."""
    when = summary.changed.astimezone().strftime("%d %b %H:%M")
    if summary.problem:
        return Content.assemble((f"{when}  ", "$foreground-muted"), (one_line(summary.problem), "$text-error"))
    here = " · open now" if summary.id == current else ""
    turns = "1 question" if summary.n_turns == 1 else f"{summary.n_turns} questions"
    return Content.assemble(
        (f"{when}  ", "$foreground-muted"),
        one_line(summary.title) or "(no question)",
        (f"  “{one_line(summary.hits[0].text)}”", "") if summary.hits else "",
        (f"  {one_line(shown_model(summary.model))} · {turns}{here}", "$foreground-muted"),
    )


def shown_model(name: str) -> str:
    """Return the name of a model, of which a damaged file may say anything."""
    try:
        return shown_path(Path(name))
    except ValueError:  # no file can have this name
        return name


def count(found: Sequence[Summary]) -> str:
    """Return how many conversations there are, in words."""
    return "1 conversation" if len(found) == 1 else f"{len(found)} conversations"
