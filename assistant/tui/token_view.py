"""The tokens of an answer: how sure the model was of each, and what else it could have written.

A token that surprised the model is tinted. The person moves over the tokens, sees the likeliest ones at each place, and
continues the answer from another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.widgets import Static

from assistant.chat.events import TokenDetail
from assistant.escape import one_line, visible
from assistant.tui.modal import Modal

UNSURE = ((0.1, "bold underline $text on $error 45%"), (0.5, "underline on $warning 45%"), (0.9, "on $warning 20%"))
"""Styles of tokens whose probability is below a limit. Without colours, the underline stays."""
HERE = "reverse bold"
BAR_CELLS = 24
UNSURE_BELOW = 0.5


class Alternative(NamedTuple):
    """Where the person wants another token."""

    place: int
    token_id: int


class TokenScreen(Modal[Alternative | None]):
    """Shows the tokens of one answer. Returns the alternative to continue from, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f3,q", "dismiss", "Close", key_display="esc"),
        Binding("left", "move(-1)", "Token before", show=False),
        Binding("right", "move(1)", "Next token", show=False),
        Binding("home", "move(-1000000)", "First token", show=False),
        Binding("end", "move(1000000)", "Last token", show=False),
        Binding("tab", "next_unsure", "Next unsure token", show=False),
        Binding("up", "choose(-1)", "Likelier", show=False),
        Binding("down", "choose(1)", "Less likely", show=False),
        Binding("enter", "take", "Continue from it", show=False),
    ]

    def __init__(self, tokens: Sequence[TokenDetail], *, title: str, can_continue: bool) -> None:
        super().__init__()
        self._tokens = tuple(tokens)
        # Begin at the token that the model was least sure of.
        self.place = min(range(len(tokens)), key=lambda index: tokens[index].probability, default=0)
        """Index of the token that is looked at."""
        self.choice = 0
        """Index of the chosen one of the likeliest tokens."""
        self._title = title
        self._can_continue = can_continue

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="tokens") as box:
            box.border_title = Content(one_line(self._title))
            yield Static(id="token-text", markup=False)
        yield Static(id="token-detail", markup=False)

    def on_mount(self) -> None:
        """Show the tokens."""
        self._show()

    def _go_to(self, place: int) -> None:
        if place != self.place:
            self.place, self.choice = place, 0
            self._show()

    def _show(self) -> None:
        if not self._tokens:
            return
        text, detail = self.query_one("#token-text", Static), self.query_one("#token-detail", Static)
        text.update(answer_content(self._tokens, self.place))
        detail.update(detail_content(self._tokens, self.place, self.choice, can_continue=self._can_continue))
        self.call_after_refresh(self._keep_visible)

    def _keep_visible(self) -> None:
        """Scroll so that the token is on the screen. Its row is estimated by the length of the text before it."""
        box = next(iter(self.query("#tokens").results(VerticalScroll)), None)
        if box is None:  # the screen was closed meanwhile
            return
        width = max(1, box.scrollable_content_region.width)
        before = "".join(shown(token) for token in self._tokens[: self.place]).split("\n")
        row = sum(max(1, -(-len(line) // width)) for line in before)
        box.scroll_to_region(Region(0, max(0, row - 2), 1, 4), animate=False)

    def action_move(self, step: int) -> None:
        """Move over the tokens."""
        self._go_to(min(max(self.place + step, 0), len(self._tokens) - 1))

    def action_next_unsure(self) -> None:
        """Go to the next token that the model was not sure of."""
        places = [*range(self.place + 1, len(self._tokens)), *range(self.place)]
        self._go_to(next((place for place in places if self._tokens[place].probability < UNSURE_BELOW), self.place))

    def action_choose(self, step: int) -> None:
        """Move over the likeliest tokens of this place."""
        self.choice = min(max(self.choice + step, 0), len(self._tokens[self.place].likeliest) - 1)
        self._show()

    def action_take(self) -> None:
        """Continue the answer from the chosen token."""
        likeliest = self._tokens[self.place].likeliest
        if self._can_continue and likeliest:
            self.dismiss(Alternative(self.place, likeliest[self.choice].token_id))


def shown(token: TokenDetail) -> str:
    """Return the text of a token as the screen shows it. A line end is visible, and ends the line too."""
    return visible(token.text) + "\n" * token.text.count("\n")


def answer_content(tokens: Sequence[TokenDetail], place: int) -> Content:
    """Return all tokens, tinted by their probability, with the one at `place` marked."""
    styles = [HERE if index == place else style_of(token.probability) for index, token in enumerate(tokens)]
    return Content.assemble(*zip(map(shown, tokens), styles, strict=True))


def style_of(probability: float) -> str:
    """Return the style of a token."""
    return next((style for limit, style in UNSURE if probability < limit), "")


def detail_content(tokens: Sequence[TokenDetail], place: int, choice: int, *, can_continue: bool) -> Content:
    """Return what is known of one token: its place, probability and rank, and the likeliest ones as bars."""
    token = tokens[place]
    head = f"token {place + 1} of {len(tokens)} {quoted(token.text)} · {percent(token.probability)} · rank {token.rank}"
    head += f" · entropy {token.entropy:.1f} bits"
    parts: list[tuple[str, str]] = [(head, "bold"), ("\n", "")]
    if token.base_probability is not None:
        parts.append((f"under the base: {percent(token.base_probability)} · rank {token.base_rank}", ""))
    parts.append(("\n\n", ""))
    width = max((len(quoted(other.text)) for other in token.likeliest), default=0)
    for index, other in enumerate(token.likeliest):
        probability = exp(other.logprob)
        mark = "❯ " if index == choice else "  "
        bar = "█" * max(1, round(BAR_CELLS * probability))
        style = "bold $text-primary" if index == choice else "bold" if other.token_id == token.token_id else ""
        parts.append((f"{mark}{quoted(other.text):<{width}}  {percent(probability):>6}  ", style))
        parts.append((f"{bar}\n", "$primary"))
    keys = "← → token · tab next unsure · ↑ ↓ other token"
    keys += " · enter writes on from it · esc closes" if can_continue else " · esc closes"
    parts.append((f"\n{keys}", "$foreground-muted"))
    return Content.assemble(*parts)


def quoted(text: str | None) -> str:
    """Return a token's text on one line, in quotation marks that show its spaces."""
    return f"“{visible(text or '')}”"


def percent(probability: float) -> str:
    """Return a probability as a percentage that is never rounded to 0."""
    if 0 < probability < 0.001:
        return "<0.1 %"
    return f"{100 * probability:.1f} %" if probability < 0.0995 else f"{100 * probability:.0f} %"
