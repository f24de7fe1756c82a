"""The screen of `evaluation label`: shows one row at a time and takes a person's score and tag for it.

It shows nothing of a judge. All keys reach one widget, which handles them in its own queue, so that keys typed ahead
arrive in order. Does not know how labels are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import events, getters
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.reactive import var
from textual.screen import Screen
from textual.suggester import SuggestFromList
from textual.widgets import Footer, Input, Static

import assistant.tui
from assistant.escape import displayable, one_line
from assistant.tui.driver import PasteDriver
from assistant.tui.ends import terminal_given_back
from assistant.tui.help import HelpScreen
from assistant.tui.status import StatusLine
from evaluation.answers.folder import ResponseRecord
from evaluation.judging.rubric import SCALE
from evaluation.people.labels import TAG_LENGTH, LabelSession

SHOWN_LENGTH = 20_000
"""Longest part of a text on the screen, in characters. A longer text would slow every key down."""
INTERRUPTED = 130

SCORE_KEYS = tuple(str(level) for level in range(len(SCALE)))
_SCROLL_KEYS = {"up": -1, "down": 1, "k": -1, "j": 1}
_PAGE_KEYS = {"pageup": -1, "pagedown": 1, "b": -1, "space": 1}


_NAMES = ("conversation", "instruction", "input", "reference", "questions", "response")


class Material(VerticalScroll, can_focus=False):
    """The texts of one row, each under its name. Cannot take the focus, so keys always reach the tag's line."""

    def compose(self) -> ComposeResult:
        for name in _NAMES:
            yield Static(name, classes="name", id=f"{name}-name")
            yield Static(classes="text", id=f"{name}-text", markup=False)

    def show(self, row: ResponseRecord | None) -> None:
        """Show a row from its top. None shows nothing."""
        texts = {} if row is None else _texts(row)
        for name in _NAMES:
            text = texts.get(name, "")
            for part in ("name", "text"):
                self.query_one(f"#{name}-{part}", Static).display = bool(text)
            self.query_one(f"#{name}-text", Static).update(_shown(text))
        self.scroll_home(animate=False, immediate=True, x_axis=False)

    def scroll_rows(self, rows: int) -> None:
        """Scroll down by `rows`, or up if negative."""
        self.scroll_to(y=self.scroll_y + rows, animate=False, immediate=True)

    def on_resize(self) -> None:
        """Show whether the row still fits."""
        if isinstance(self.screen, LabelScreen):
            self.screen.call_after_refresh(self.screen.show_state)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if isinstance(self.screen, LabelScreen):
            self.screen.show_state()


class TagLine(Input, inherit_bindings=False):
    """The line for the tag. It has the focus all the time, and most keys act on the row until `t` starts a tag."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                key, f"press('{key}')", "Score", tooltip=sentence, show=key == "0",
                key_display=f"0-{SCORE_KEYS[-1]}",
            )
            for key, sentence in zip(SCORE_KEYS, SCALE, strict=True)
        ),
        Binding("t", "press('t')", "Tag", tooltip="Write a tag for the row, in your own words"),
        Binding("u", "press('u')", "Undo", tooltip="Go back to the row before and take its score back"),
        Binding("s", "press('s')", "Skip", tooltip="Leave the row for the next session"),
        Binding("enter", "press('enter')", "Keep tag", tooltip="While you write a tag: keep it", key_display="enter"),
        Binding("escape", "press('escape')", "Discard", tooltip="While you write a tag: discard it",
                key_display="esc"),
        Binding("up,down", "press('down')", "Scroll", tooltip="Scroll by a line, also with k and j", show=False),
        Binding("space,b", "press('space')", "Page", tooltip="Scroll by a page, also with pageup and pagedown",
                show=False),
        Binding("q", "press('q')", "Quit", tooltip="Quit; everything is kept, also with ctrl+c"),
        *(binding for binding in Input.BINDINGS if isinstance(binding, Binding) and binding.key not in
          {"enter", "ctrl+c,super+c"}),
    ]  # fmt: skip

    writing: var[bool] = var(False, bindings=True)
    """Whether the person is writing a tag, so that letters and digits are text."""

    def __init__(self, press: Callable[[str], None], can_press: Callable[[str], bool]) -> None:
        super().__init__(
            id="tag", placeholder="t writes one", compact=True, max_length=TAG_LENGTH, select_on_focus=False
        )
        self._press = press
        self._can_press = can_press

    def watch_writing(self, writing: bool) -> None:
        """Show the cursor only while a tag is written."""
        self.set_class(writing, "-writing")

    async def _on_key(self, event: events.Key) -> None:
        if self.writing and event.key not in {"enter", "escape"}:
            await super()._on_key(event)
            return
        if event.key in {"f1", "tab", "shift+tab"}:
            return  # a binding of the screen
        # Otherwise the bindings of Input would run, and edit the tag.
        event.stop()
        event.prevent_default()
        self._press(event.key)

    def _on_paste(self, event: events.Paste) -> None:
        if not self.writing:
            event.stop()
            event.prevent_default()
            return
        # Input's own handler runs next. It would refuse the whole text if it were too long.
        event.text = one_line(event.text)[: max(TAG_LENGTH - len(self.value), 0)]

    def action_press(self, key: str) -> None:
        """Do what a click on a key of the footer stands for."""
        self._press(key)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that work now."""
        return action != "press" or self._can_press(str(parameters[0]))

    def check_consume_key(self, key: str, character: str | None) -> bool:  # noqa: ARG002
        """Whether the key is text. It is only while a tag is written."""
        return self.writing and character is not None and character.isprintable()


class LabelScreen(Screen[None]):
    """One row, the scale, the tag, and the progress."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "help", "Help", tooltip="Show this list", key_display="f1"),
        Binding("tab,shift+tab", "nothing", show=False),  # the focus stays
    ]

    _material = getters.query_one(Material)
    _tag_line = getters.query_one(TagLine)
    _status = getters.query_one(StatusLine)

    def __init__(self, session: LabelSession, place: str) -> None:
        super().__init__()
        self._session = session
        self._place = place

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield Material(id="material")
        yield Static(scale(), id="scale")
        with Horizontal(id="tag-row"):
            yield Static("tag ", id="tag-name")
            yield TagLine(self.press, self._can_press)
        yield StatusLine(id="status")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Show the first row."""
        self._show_row()

    # --- keys -------------------------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Do what a key stands for. Called in the queue of the tag's line, one key after the other."""
        if self._tag_line.writing:
            self._end_tag(keep=key == "enter")
        elif key == "q":
            self.leave()
        elif key in SCORE_KEYS:
            self._act(lambda: self._session.score(int(key)))
        elif key == "s":
            self._act(self._session.skip)
        elif key == "u":
            self._undo()
        elif key == "t":
            self._start_tag()
        elif key in _SCROLL_KEYS:
            self._material.scroll_rows(_SCROLL_KEYS[key])
        elif key in _PAGE_KEYS:
            self._material.scroll_rows(_PAGE_KEYS[key] * max(self._material.size.height - 1, 1))
        elif key in {"home", "end"}:
            self._material.scroll_rows(self._material.virtual_size.height * (1 if key == "end" else -1))

    def action_nothing(self) -> None:
        """Leave the focus where it is."""

    def leave(self, code: int = 0) -> None:
        """End the app. A tag that is being written is kept."""
        if self._tag_line.writing:
            self._end_tag(keep=True)
        self.app.exit(return_code=code)

    def leave_after_keys(self, code: int = 0) -> None:
        """End the app when the keys before this call are handled. App bindings run in a queue of their own."""
        self._tag_line.call_later(self.leave, code)

    def _undo(self) -> None:
        went_back = False

        def go_back() -> None:
            nonlocal went_back
            went_back = self._session.undo()

        self._act(go_back)
        notice = "Back to the row before." if went_back else "There is nothing to undo."
        self.call_after_refresh(self._status.show_notice, notice)  # after the state that the row shows

    def _start_tag(self) -> None:
        if self._session.current is not None:
            self._tag_line.suggester = SuggestFromList(map(one_line, self._session.known_tags), case_sensitive=False)
            self._tag_line.writing = True
            self._tag_line.cursor_position = len(self._tag_line.value)
            self.show_state()

    def _end_tag(self, *, keep: bool) -> None:
        text = self._tag_line.value
        self._tag_line.writing = False
        self._tag_line.suggester = None
        if keep:
            self._act(lambda: self._session.set_tag(text), same_row=True)
        self._show_tag()
        self.show_state()

    def _act(self, step: Callable[[], None], *, same_row: bool = False) -> None:
        """Take one step. If the file cannot be written, the app ends with the error."""
        try:
            step()
        except OSError as error:
            app = self.app
            assert isinstance(app, LabelApp)
            app.failure = error
            app.exit(return_code=1)
            return
        if not same_row:
            self._show_row()

    # --- what is shown ----------------------------------------------------------------------------------------------

    def _show_row(self) -> None:
        row = self._session.current
        self.query_one("#title", Static).update(self._title(row))
        self._material.show(row)
        self._show_tag()
        self.refresh_bindings()
        self.show_state()
        self.call_after_refresh(self.show_state)  # only then it is known whether the row fits

    def _show_tag(self) -> None:
        self._tag_line.value = one_line(self._session.tag or "")

    def show_state(self) -> None:
        """Show what the person can do now, in the status line."""
        material = self._material
        if self._session.current is None:
            self._status.show_state(self._ending())
        elif self._tag_line.writing:
            self._status.show_state("writing a tag · enter keeps it · esc discards it")
        elif material.scroll_y < material.max_scroll_y:
            self._status.show_state("more below ↓ · space scrolls")
        else:
            self._status.show_state("score the response")

    def _title(self, row: ResponseRecord | None) -> str:
        session = self._session
        number = min(session.done + 1, session.total) if row is not None else session.done
        parts = [f"label · {number} of {session.total}", row.category if row is not None else None, self._place]
        return " · ".join(one_line(part) for part in parts if part)

    def _ending(self) -> str:
        if self._session.total == 0:
            return "no row needs a person · q quits"
        if self._session.done >= self._session.total:
            return "all rows have a score · u undoes · q quits"
        return f"skipped rows left: {self._session.n_skipped} · u goes back · q quits"

    def _can_press(self, key: str) -> bool:
        if key in {"enter", "escape"}:
            return self._tag_line.writing
        if self._tag_line.writing:
            return False
        return self._session.current is not None or key in {"u", "q"}

    def action_help(self) -> None:
        """Show the list of keys."""
        bindings = [b for b in [*TagLine.BINDINGS, *self.BINDINGS] if isinstance(b, Binding) and b.tooltip]
        names = {"up,down": "up down", "space,b": "space b"}
        self.app.push_screen(HelpScreen(replace(b, key=names.get(b.key, b.key)) for b in bindings))


class LabelApp(App[None]):
    """A person's labelling of one answers folder."""

    TITLE = "label"
    CSS_PATH = Path(assistant.tui.__file__).with_name("chat.tcss")
    CSS = """
    #material { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
    #material .name { color: $text-muted; text-style: italic; }
    #material .text { height: auto; padding: 0 1; margin-bottom: 1; border-left: outer $primary; background: $boost; }
    #material #response-text { border-left: outer $accent; margin-bottom: 0; }
    #scale { height: auto; padding: 0 1; border-top: solid $panel; color: $text-muted; }
    #tag-row { height: 1; padding: 0 1; }
    #tag-name { width: auto; color: $text-muted; }
    #tag, #tag:focus { width: 1fr; background: $background; background-tint: transparent; }
    #tag.-writing { background-tint: $foreground 5%; }
    #tag > .input--cursor { background: $background; color: $text-disabled; text-style: none; }
    #tag.-writing > .input--cursor { background: $input-cursor-background; color: $input-cursor-foreground; }
    .-short #scale, .-narrow #scale { border-top: none; text-wrap: nowrap; text-overflow: ellipsis; }
    .-short #material .text, .-flat #material .text { margin-bottom: 0; }
    .-flat #scale { display: none; }
    """
    AUTO_FOCUS = "#tag"
    ENABLE_COMMAND_PALETTE = False
    # App declares these two as instance variables, so mypy rejects ClassVar.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (80, "-normal")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (15, "-short"), (30, "-tall")]  # noqa: RUF012
    # A modal screen stops other bindings than these. Textual's own for ctrl+q is one, too.
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "help_quit", show=False, priority=True)]

    def __init__(self, session: LabelSession, place: str) -> None:
        super().__init__(driver_class=PasteDriver)
        self._label_screen = LabelScreen(session, place)
        self.failure: OSError | None = None
        """Why the labels could not be written, if that ended the app."""

    def get_default_screen(self) -> LabelScreen:
        """Return the screen with the rows, the lowest of the stack."""
        return self._label_screen

    async def action_quit(self) -> None:
        """Quit with ctrl+q, after the keys that were typed before it."""
        self._label_screen.leave_after_keys()

    def action_help_quit(self) -> None:
        """Quit with ctrl+c, also while the help covers the screen."""
        self._label_screen.leave_after_keys(INTERRUPTED)


def run_labels(session: LabelSession, place: str) -> int:
    """Show the screen until the person quits, and return the exit status.

    Raises:
        OSError: the labels could not be written.
    """
    app = LabelApp(session, place)
    with terminal_given_back(app):
        app.run()
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0


def scale() -> Content:
    """Return the rubric's scale, one line a score, without the words that all sentences begin with."""
    words = [sentence.split(" ") for sentence in SCALE]
    n_shared = next((n for n, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), 0)
    ends = [" ".join(sentence[n_shared:]) for sentence in words]
    lines = [Content.assemble((key, "bold"), f"  {end}") for key, end in zip(SCORE_KEYS, ends, strict=True)]
    return Content("\n").join(lines)


def _texts(row: ResponseRecord) -> dict[str, str]:
    turns = [f"User: {user}\nAssistant: {reply}" for user, reply in row.history]
    return {
        "conversation": "\n".join(turns),
        "instruction": row.instruction,
        "input": row.input if row.input.strip() else "",
        "reference": row.reference,
        "questions": "\n".join(row.rubric),
        "response": row.response or "",
    }


def _shown(text: str) -> str:
    """Return the part of a text that is shown, without control characters and without the space around it."""
    text = text.strip()
    hidden = len(text) - SHOWN_LENGTH
    return displayable(text[:SHOWN_LENGTH]) + (f"\n… and {hidden} more characters" if hidden > 0 else "")
